use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::fixtures::{dual, gpus, partition};
use crate::prepare::tests::{claim, plan_on, uid};

fn at(seconds: u64) -> WallTime {
    WallTime::new(Duration::from_secs(seconds))
}

fn plan(n: u32) -> PreparePlan {
    plan_on(&dual(1), &claim(&uid(n), &["a chip-0-0 1Gi 1"]), &[]).unwrap()
}

fn log(events: Vec<Event>) -> Vec<Record> {
    events.into_iter().zip(0..).map(|(event, seconds)| Record::new(at(seconds), event)).collect()
}

/// The records that one claim's life leaves, cut after `steps`.
fn life(n: u32, steps: usize) -> Vec<Event> {
    let plan = plan(n);
    let mut events = vec![
        Event::PrepareStarted { plan: plan.clone() },
        Event::PrepareCompleted { plan: plan.clone() },
        Event::UnprepareStarted { plan },
        Event::Unprepared { claim: uid(n) },
    ];
    events.truncate(steps);
    events
}

/// What the shell does with an action, as records.
fn after(action: &Recovery, now: WallTime) -> Option<Record> {
    match action {
        Recovery::Undo(plan) => Some(Record::new(now, Event::Unprepared { claim: plan.claim.clone() })),
        Recovery::Ensure { .. } => None,
    }
}

#[test]
fn a_life_folds_step_by_step() {
    let state = |steps| Checkpoint::replay(&log(life(1, steps))).state(&uid(1)).cloned();
    assert_eq!(state(0), None);
    assert_eq!(state(1), Some(ClaimState::PrepareStarted(plan(1))));
    assert_eq!(state(2), Some(ClaimState::PrepareCompleted(plan(1))));
    assert_eq!(state(3), Some(ClaimState::UnprepareStarted(plan(1))));
    assert_eq!(state(4), Some(ClaimState::Unprepared(at(3))));
}

#[test]
fn a_plan_with_a_partition_is_read_back_and_a_plan_from_before_partitions_still_is() {
    let node = gpus(vec![partition(0, 1)]);
    let plan = plan_on(&node, &claim(&uid(1), &["a partition-0-1-0"]), &[]).unwrap();
    let record = Record::new(at(1), Event::PrepareCompleted { plan });
    let bytes = record.encode().unwrap();
    assert_eq!(Record::decode(&bytes).unwrap(), record);
    let mut before: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let seen = before["plan"]["results"][0]["chips"][0]["seen"].as_object_mut().unwrap();
    assert!(seen.remove("traits").is_some());
    let old = Record::decode(&serde_json::to_vec(&before).unwrap()).unwrap();
    let Event::PrepareCompleted { plan } = old.event else { panic!("another event") };
    assert_eq!(plan.results[0].chips[0].seen.traits, crate::hardware::Traits::default());
    // What has nothing new is written as before.
    assert!(!String::from_utf8(life_bytes()).unwrap().contains("traits"));
}

fn life_bytes() -> Vec<u8> {
    log(life(1, 1))[0].encode().unwrap()
}

#[test]
fn every_state_but_the_tombstone_counts_as_use() {
    for (steps, plans) in [(0, 0), (1, 1), (2, 1), (3, 1), (4, 0)] {
        assert_eq!(Checkpoint::replay(&log(life(1, steps))).plans().count(), plans, "{steps}");
    }
}

#[test]
fn a_prepared_claim_is_answered_and_never_judged_again() {
    let step = |steps| next_prepare(Checkpoint::replay(&log(life(1, steps))).state(&uid(1)));
    assert_eq!(step(0), PrepareStep::Fresh);
    assert_eq!(step(1), PrepareStep::Redo(plan(1)));
    assert_eq!(step(2), PrepareStep::Answer(plan(1)));
    assert_eq!(step(3), PrepareStep::Redo(plan(1)));
    assert_eq!(step(4), PrepareStep::AfterTombstone);
}

#[test]
fn unprepare_goes_on_where_it_was() {
    let step = |steps| next_unprepare(Checkpoint::replay(&log(life(1, steps))).state(&uid(1)));
    assert_eq!(step(0), UnprepareStep::Done);
    assert_eq!(step(1), UnprepareStep::Start(plan(1)));
    assert_eq!(step(2), UnprepareStep::Start(plan(1)));
    assert_eq!(step(3), UnprepareStep::Continue(plan(1)));
    assert_eq!(step(4), UnprepareStep::Done);
}

#[test]
fn a_reboot_is_known_by_its_id() {
    let mut events = vec![Event::Boot { boot_id: "first".to_owned() }];
    events.extend(life(1, 2));
    let state = Checkpoint::replay(&log(events));
    let ensure = |rebooted| vec![Recovery::Ensure { plan: plan(1), rebooted }];
    assert_eq!(recover(&state, "first"), ensure(false));
    assert_eq!(recover(&state, "second"), ensure(true));
    let unknown = Checkpoint::replay(&log(life(1, 2)));
    assert_eq!(recover(&unknown, "second"), ensure(false), "a log without a boot was rebuilt just now");
}

#[test]
fn tombstones_age_and_are_forgotten() {
    let mut state = Checkpoint::replay(&log(life(1, 4)));
    assert!(state.expired_tombstones(at(3 + 60), Duration::from_secs(60)).is_empty());
    assert_eq!(state.expired_tombstones(at(4 + 60), Duration::from_secs(60)), [uid(1)]);
    assert!(
        state.expired_tombstones(at(0), Duration::from_secs(60)).is_empty(),
        "a clock set back ages nothing"
    );
    state.apply(&Record::new(at(99), Event::Forgotten { claim: uid(1) }));
    assert_eq!(state.states().count(), 0);
}

#[test]
fn a_next_versions_record_with_more_fields_is_read() {
    let record = Record::new(at(5), Event::PrepareCompleted { plan: plan(1) });
    let mut value: serde_json::Value = serde_json::from_slice(&record.encode().unwrap()).unwrap();
    value["later"] = json!({ "x": 1 });
    value["plan"]["later"] = json!(true);
    value["plan"]["results"][0]["chips"][0]["later"] = json!([1]);
    value["plan"]["shares"]["chips"][0]["later"] = json!(null);
    assert_eq!(Record::decode(&serde_json::to_vec(&value).unwrap()).unwrap(), record);
}

#[test]
fn a_newer_or_unreadable_record_is_said_to_be_one() {
    let reason = |bytes: &[u8]| Record::decode(bytes).unwrap_err().reason();
    assert_eq!(reason(br#"{"version":2,"time":1,"event":"Teleported"}"#), "record_newer");
    assert_eq!(reason(br#"{"version":1,"time":1,"event":"Teleported"}"#), "record_malformed");
    assert_eq!(reason(b"{}"), "record_malformed");
    assert_eq!(reason(b"\xff\xfe"), "record_malformed");
    let hostile = br#"{"version":1,"time":1,"event":"Unprepared","claim":"../../etc"}"#;
    assert_eq!(reason(hostile), "record_malformed");
}

/// The bytes of version 1 as they are on disks: this must be readable for ever.
#[test]
fn the_payload_keeps_its_form() {
    let record = Record::new(at(1_700_000_000), Event::PrepareCompleted { plan: plan(1) });
    let value: serde_json::Value = serde_json::from_slice(&record.encode().unwrap()).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&value).unwrap(), @r#"
    {
      "event": "PrepareCompleted",
      "plan": {
        "breach": "report",
        "claim": "00000001-07d1-4b3e-9a51-3c2a2f5d9e10",
        "name": "claim-00000001",
        "namespace": "team-a",
        "results": [
          {
            "admin_access": false,
            "cdi_device": "00000001-07d1-4b3e-9a51-3c2a2f5d9e10-a-0",
            "chips": [
              {
                "card": 0,
                "cores": 1,
                "die": 0,
                "memory": 1073741824,
                "phys_id": 0,
                "seen": {
                  "card": 0,
                  "die": 0,
                  "health": "healthy",
                  "memory": 68719476736,
                  "model": "910C",
                  "module": 0,
                  "numa_node": 0,
                  "pci": {
                    "bus": 0,
                    "device": 0,
                    "domain": 0,
                    "function": 0
                  },
                  "pcie_root": "pci0000:00",
                  "phys_id": 0,
                  "product_name": "Stand-in",
                  "uuid": "VDIE-0000-0"
                },
                "uuid": "VDIE-0000-0",
                "whole": false
              }
            ],
            "device": "chip-0-0",
            "index": 0,
            "interpose": true,
            "pool": "node-1/ascend",
            "request": "a",
            "share_id": "share-0"
          }
        ],
        "shares": {
          "chips": [
            {
              "cores": 1,
              "memory": 1073741824,
              "mode": "hard",
              "on_failure": "closed",
              "overhead": "charge",
              "phys_id": 0,
              "priority": 5,
              "uuid": "VDIE-0000-0"
            }
          ],
          "claim": "00000001-07d1-4b3e-9a51-3c2a2f5d9e10"
        }
      },
      "time": 1700000000,
      "version": 1
    }
    "#);
    let tombstone = Record::new(at(1_700_000_000), Event::Unprepared { claim: uid(1) });
    insta::assert_snapshot!(String::from_utf8(tombstone.encode().unwrap()).unwrap(), @r#"{"version":1,"time":1700000000,"event":"Unprepared","claim":"00000001-07d1-4b3e-9a51-3c2a2f5d9e10"}"#);
}

/// Several claims' lives, each up to some step, in some interleaving, some lived twice.
fn any_log() -> impl Strategy<Value = Vec<Record>> {
    proptest::collection::vec((0usize..=8, any::<u64>()), 0..6).prop_map(|lives| {
        let mut queues: Vec<Vec<Event>> = lives
            .iter()
            .zip(0u32..)
            .map(|((steps, _), n)| {
                let mut events = life(n, *steps);
                events.extend(life(n, steps.saturating_sub(4)));
                events.reverse();
                events
            })
            .collect();
        let mut seed = lives.iter().fold(1u64, |s, (_, x)| s.rotate_left(7) ^ x);
        let mut events = vec![Event::Boot { boot_id: "boot".to_owned() }];
        while queues.iter().any(|q| !q.is_empty()) {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let open: Vec<usize> = (0..queues.len()).filter(|i| !queues[*i].is_empty()).collect();
            let next = open[usize::try_from(seed >> 33).unwrap() % open.len()];
            events.extend(queues[next].pop());
        }
        log(events)
    })
}

proptest! {
    #[test]
    fn any_prefix_recovers_and_recovering_again_changes_nothing(
        records in any_log(),
        cut in any::<prop::sample::Index>(),
        killed in any::<prop::sample::Index>(),
    ) {
        let prefix = &records[..cut.index(records.len() + 1)];
        let mut state = Checkpoint::replay(prefix);
        let actions = recover(&state, "boot");
        // Killed after some of the actions, and started again: the rest is the same as before.
        let done = killed.index(actions.len() + 1);
        for record in actions[..done].iter().filter_map(|a| after(a, at(1000))) {
            state.apply(&record);
        }
        for record in recover(&state, "boot").iter().filter_map(|a| after(a, at(2000))) {
            state.apply(&record);
        }
        let again = recover(&state, "boot");
        prop_assert!(again.iter().all(|a| matches!(a, Recovery::Ensure { .. })), "nothing half done is left");
        let ensured: Vec<&Recovery> =
            actions.iter().filter(|a| matches!(a, Recovery::Ensure { .. })).collect();
        prop_assert_eq!(again.iter().collect::<Vec<_>>(), ensured, "and nothing prepared is lost");
    }

    #[test]
    fn compaction_keeps_the_state(records in any_log(), cut in any::<prop::sample::Index>()) {
        let state = Checkpoint::replay(&records[..cut.index(records.len() + 1)]);
        let compact = state.compact(at(5000));
        prop_assert_eq!(Checkpoint::replay(&compact), state);
    }

    #[test]
    fn records_survive_their_bytes(records in any_log()) {
        for record in records {
            prop_assert_eq!(Record::decode(&record.encode().unwrap()).unwrap(), record);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Record::decode(&bytes);
    }
}
