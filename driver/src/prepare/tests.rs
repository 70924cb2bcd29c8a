use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::claim::{ConfigSource, Consumer, OpaqueConfig};
use crate::fixtures::{chip, dual, gpu, gpus, inventory, partition, single};
use crate::share_policy::{API_VERSION, KIND};

pub(crate) const UID: &str = "0b0e8bd2-07d1-4b3e-9a51-3c2a2f5d9e10";

pub(crate) fn uid(n: u32) -> ClaimUid {
    ClaimUid::new(format!("{n:08x}-07d1-4b3e-9a51-3c2a2f5d9e10")).unwrap()
}

pub(crate) fn pool() -> PoolName {
    PoolName::new("node-1/ascend").unwrap()
}

/// A claim with results written as `request device [memory cores]`.
pub(crate) fn claim(uid: &ClaimUid, results: &[&str]) -> Claim {
    let results = results.iter().enumerate().map(|(index, text)| {
        let words: Vec<&str> = text.split(' ').collect();
        let mut consumed = BTreeMap::new();
        if let [_, _, memory, cores] = words[..] {
            consumed.insert("memory".to_owned(), memory.to_owned());
            consumed.insert("cores".to_owned(), cores.to_owned());
        }
        AllocationResult {
            index,
            request: words[0].parse().unwrap(),
            pool: "node-1/ascend".to_owned(),
            device: words[1].to_owned(),
            share_id: (!consumed.is_empty()).then(|| format!("share-{index}")),
            consumed_capacity: consumed,
            admin_access: false,
        }
    });
    Claim {
        namespace: "team-a".to_owned(),
        name: format!("claim-{}", &uid.as_str()[..8]),
        uid: uid.clone(),
        deleting: false,
        allocated: true,
        reserved_for: vec![Consumer {
            resource: "pods".to_owned(),
            api_group: String::new(),
            name: "pod".to_owned(),
            uid: "pod-uid".to_owned(),
        }],
        results: results.collect(),
        configs: Vec::new(),
        wishes: crate::live::Wishes::default(),
    }
}

fn with_policy(mut claim: Claim, requests: &[&str], fields: serde_json::Value) -> Claim {
    let mut parameters = fields;
    parameters["apiVersion"] = json!(API_VERSION);
    parameters["kind"] = json!(KIND);
    claim.configs.push(OpaqueConfig {
        source: ConfigSource::Claim,
        requests: requests.iter().map(|r| r.parse().unwrap()).collect(),
        parameters,
    });
    claim
}

pub(crate) fn plan_on(
    inventory: &Inventory,
    claim: &Claim,
    prepared: &[PreparePlan],
) -> Result<PreparePlan, Refusal> {
    plan_prepare(claim, &claim.uid, &[NodePool { pool: &pool(), inventory }], prepared)
}

fn on_dual(results: &[&str]) -> Result<PreparePlan, Refusal> {
    plan_on(&dual(4), &claim(&uid(1), results), &[])
}

fn reason(result: Result<PreparePlan, Refusal>) -> &'static str {
    result.map_or_else(|refusal| refusal.reason(), |_| "prepared")
}

fn quotas(plan: &PreparePlan) -> Vec<(&str, String, u32)> {
    plan.shares.chips.iter().map(|c| (c.uuid.as_str(), c.memory.to_string(), c.cores.0)).collect()
}

#[test]
fn a_share_gets_its_quota_and_the_interposer() {
    let plan = on_dual(&["npu chip-0-1 4Gi 10"]).unwrap();
    assert_eq!(quotas(&plan), [("VDIE-0000-1", "4Gi".to_owned(), 10)]);
    assert!(plan.interposed() && plan.results[0].interpose);
    assert_eq!(plan.results[0].cdi_device, format!("{}-npu-0", uid(1)));
    assert_eq!(plan.results[0].share_id.as_deref(), Some("share-0"));
    assert_eq!(plan.results[0].chips[0].phys_id, 1);
    assert!(!plan.results[0].chips[0].whole);
}

#[test]
fn whole_chips_and_modules_get_no_interposer_unless_asked() {
    for results in [["npu chip-0-0 64Gi 100"], ["npu chip-0-0"], ["npu module-0"]] {
        let plan = on_dual(&results).unwrap();
        assert!(!plan.interposed() && !plan.results[0].interpose, "{results:?}");
        assert!(plan.results[0].chips.iter().all(|c| c.whole));
    }
    let asked = with_policy(claim(&uid(1), &["npu module-0"]), &[], json!({ "interpose": "always" }));
    let plan = plan_on(&dual(1), &asked, &[]).unwrap();
    assert_eq!(
        quotas(&plan),
        [("VDIE-0000-0", "64Gi".to_owned(), 100), ("VDIE-0000-1", "64Gi".to_owned(), 100)]
    );
    let never = with_policy(claim(&uid(1), &["npu chip-0-0 4Gi 10"]), &[], json!({ "interpose": "never" }));
    assert!(!plan_on(&dual(1), &never, &[]).unwrap().interposed());
}

#[test]
fn a_chip_whole_in_one_dimension_only_is_a_share() {
    assert!(on_dual(&["npu chip-0-0 64Gi 99"]).unwrap().interposed());
    assert!(on_dual(&["npu chip-0-0 63Gi 100"]).unwrap().interposed());
}

#[test]
fn quotas_of_one_claim_on_one_chip_are_added() {
    let plan = on_dual(&["a chip-0-0 4Gi 10", "b/big chip-0-0 8Gi 20", "c chip-0-1 1Gi 1"]).unwrap();
    assert_eq!(quotas(&plan), [("VDIE-0000-0", "12Gi".to_owned(), 30), ("VDIE-0000-1", "1Gi".to_owned(), 1)]);
    let devices: Vec<&str> = plan.results.iter().map(|r| &r.cdi_device[37..]).collect();
    assert_eq!(devices, ["a-0", "b-1", "c-2"], "the alternative's name is no part of it");
}

#[test]
fn the_policy_of_each_request_holds_and_the_stricter_one_on_a_common_chip() {
    let both = claim(&uid(1), &["a chip-0-0 4Gi 10", "b chip-0-0 4Gi 10", "c chip-0-1 4Gi 10"]);
    let both = with_policy(
        both,
        &["a", "c"],
        json!({ "compute": { "mode": "elastic", "priority": 9 }, "memory": { "onFailure": "open" }, "breach": "evict" }),
    );
    let plan = plan_on(&dual(1), &both, &[]).unwrap();
    let [common, alone] = &plan.shares.chips[..] else { panic!("two chips") };
    assert_eq!((common.mode, common.priority, common.on_failure), (ComputeMode::Hard, 9, OnFailure::Closed));
    assert_eq!((alone.mode, alone.priority, alone.on_failure), (ComputeMode::Elastic, 9, OnFailure::Open));
    assert_eq!(plan.breach, Breach::Evict);
}

#[test]
fn an_initial_quota_starts_lower_and_never_higher_than_counted() {
    let low = with_policy(
        claim(&uid(1), &["a chip-0-0 8Gi 20"]),
        &[],
        json!({ "compute": { "initial": 5 }, "memory": { "initial": "2Gi" } }),
    );
    assert_eq!(quotas(&plan_on(&dual(1), &low, &[]).unwrap())[0].1, "2Gi");
    assert_eq!(quotas(&plan_on(&dual(1), &low, &[]).unwrap())[0].2, 5);
    let high = with_policy(
        claim(&uid(1), &["a chip-0-0 8Gi 20"]),
        &[],
        json!({ "compute": { "initial": 90 }, "memory": { "initial": "60Gi" } }),
    );
    assert_eq!(quotas(&plan_on(&dual(1), &high, &[]).unwrap())[0], ("VDIE-0000-0", "8Gi".to_owned(), 20));
}

#[test]
fn a_straddling_claim_is_refused_whoever_allocated_it() {
    for straddle in [
        &["a chip-0-0", "b chip-1-0"][..],
        &["a chip-0-1 1Gi 1", "b chip-1-0 1Gi 1"],
        &["a module-0", "b chip-1-0", "c chip-2-1"],
    ] {
        assert_eq!(reason(on_dual(straddle)), "straddles", "{straddle:?}");
    }
    for legal in [
        &["a chip-0-0", "b chip-0-1"][..],
        &["a module-0", "b module-1", "c chip-2-0"],
        &["a chip-0-0 1Gi 1", "b chip-0-0 1Gi 1"],
    ] {
        assert_eq!(reason(on_dual(legal)), "prepared", "{legal:?}");
    }
    let many = claim(&uid(1), &["a chip-0-0", "b chip-1-0", "c chip-2-0"]);
    assert_eq!(reason(plan_on(&single(3), &many, &[])), "prepared", "single-die hardware cannot straddle");
}

#[test]
fn partitions_are_given_whole_to_one_claim_each_and_straddle_nothing() {
    let node = gpus(vec![partition(0, 1), partition(0, 2), partition(1, 1), gpu(2)]);
    let two = claim(&uid(1), &["a partition-0-1-0", "b partition-1-1-0"]);
    let plan = plan_on(&node, &two, &[]).unwrap();
    assert!(!plan.interposed());
    let chips: Vec<(&str, u32, Bytes, bool)> = plan
        .results
        .iter()
        .flat_map(|r| &r.chips)
        .map(|c| (c.uuid.as_str(), c.phys_id, c.memory, c.whole))
        .collect();
    assert_eq!(chips, [("MIG-0000-1", 0, Bytes::gib(10), true), ("MIG-0001-1", 1, Bytes::gib(10), true)]);
    let again = claim(&uid(2), &["a partition-0-1-0"]);
    assert_eq!(reason(plan_on(&node, &again, std::slice::from_ref(&plan))), "over_capacity");
    let beside = claim(&uid(2), &["a partition-0-2-0", "b chip-2-0"]);
    assert_eq!(reason(plan_on(&node, &beside, std::slice::from_ref(&plan))), "prepared");
    for absent in ["a partition-0-3-0", "a partition-0-1-1", "a chip-0-0", "a partition-2-0-0"] {
        assert_eq!(reason(plan_on(&node, &claim(&uid(2), &[absent]), &[])), "device_absent", "{absent}");
    }
}

#[test]
fn independent_pairing_frees_shares_and_not_whole_chips() {
    let independent =
        |results: &[&str]| with_policy(claim(&uid(1), results), &[], json!({ "pairing": "independent" }));
    let shares = independent(&["a chip-0-0 1Gi 1", "b chip-1-0 1Gi 1"]);
    assert_eq!(reason(plan_on(&dual(2), &shares, &[])), "prepared");
    let whole = independent(&["a chip-0-0", "b chip-1-0"]);
    assert_eq!(reason(plan_on(&dual(2), &whole, &[])), "straddles");
}

#[test]
fn shares_over_a_chips_capacity_are_refused_and_name_the_holders() {
    let dual = dual(2);
    let first = plan_on(&dual, &claim(&uid(1), &["a chip-0-0 60Gi 50"]), &[]).unwrap();
    let second = claim(&uid(2), &["a chip-0-0 8Gi 10"]);
    let refusal = plan_on(&dual, &second, std::slice::from_ref(&first)).unwrap_err();
    insta::assert_snapshot!(refusal, @"claim team-a/claim-00000002: chip chip-0-0 has 4Gi of 64Gi memory free, 8Gi are needed; claims prepared on it: team-a/claim-00000001. It is tried again; if it stays, delete the pod, so that the claim is allocated again");
    assert!(refusal.retryable());
    let cores = claim(&uid(2), &["a chip-0-0 1Gi 51"]);
    assert_eq!(reason(plan_on(&dual, &cores, std::slice::from_ref(&first))), "over_capacity");
    let fits = claim(&uid(2), &["a chip-0-0 4Gi 50"]);
    assert_eq!(reason(plan_on(&dual, &fits, std::slice::from_ref(&first))), "prepared");
    for other in [["a chip-0-0"], ["a module-0"]] {
        let other = claim(&uid(2), &other);
        assert_eq!(reason(plan_on(&dual, &other, std::slice::from_ref(&first))), "over_capacity");
    }
    let mate = claim(&uid(2), &["a chip-0-1"]);
    assert_eq!(reason(plan_on(&dual, &mate, std::slice::from_ref(&first))), "prepared");
}

#[test]
fn a_claim_of_its_own_does_not_stand_in_its_way() {
    let claim = claim(&uid(1), &["a chip-0-0"]);
    let plan = plan_on(&dual(1), &claim, &[]).unwrap();
    assert_eq!(plan_on(&dual(1), &claim, std::slice::from_ref(&plan)), Ok(plan));
}

#[test]
fn a_claim_may_not_hold_more_of_a_chip_than_there_is() {
    assert_eq!(reason(on_dual(&["a chip-0-0 40Gi 10", "b chip-0-0 40Gi 10"])), "over_capacity");
    assert_eq!(reason(on_dual(&["a module-0", "b chip-0-0 1Gi 1"])), "over_capacity");
    assert_eq!(reason(on_dual(&["a chip-0-0 1Gi 101"])), "over_capacity");
}

#[test]
fn a_hundred_and_twenty_eight_small_shares_fit_on_a_module_of_two_64gi_chips() {
    let dual = dual(1);
    let mut prepared = Vec::new();
    for n in 0..128 {
        let small = claim(&uid(n), &[&format!("a chip-0-{} 1Gi 1", n % 2)]);
        prepared.push(plan_on(&dual, &small, &prepared).unwrap());
    }
    assert_eq!(reason(plan_on(&dual, &claim(&uid(999), &["a chip-0-0 1Gi 1"]), &prepared)), "over_capacity");
}

#[test]
fn what_is_not_on_this_node_is_refused() {
    for absent in ["a chip-9-0", "a module-9", "a ../../etc", "a chip-0-2", "a CHIP-0-0"] {
        assert_eq!(reason(on_dual(&[absent])), "device_absent", "{absent}");
    }
    let mut elsewhere = claim(&uid(1), &["a chip-0-0"]);
    elsewhere.results[0].pool = "node-2/ascend".to_owned();
    assert_eq!(reason(plan_on(&dual(1), &elsewhere, &[])), "unknown_pool");
    let mut one_die = dual(1);
    one_die.chips.remove(1);
    assert_eq!(reason(plan_on(&one_die, &claim(&uid(1), &["a module-0"]), &[])), "device_absent");
    assert_eq!(reason(plan_on(&single(1), &claim(&uid(1), &["a module-0"]), &[])), "device_absent");
    let mut union = dual(1);
    union.multi_die_policy = MultiDiePolicy::Union;
    assert_eq!(reason(plan_on(&union, &claim(&uid(1), &["a chip-0-0"]), &[])), "device_absent");
    assert_eq!(reason(plan_on(&union, &claim(&uid(1), &["a module-0"]), &[])), "prepared");
}

#[test]
fn sickness_is_no_reason_to_refuse() {
    let mut sick = dual(1);
    sick.chips[0].health = crate::hardware::Health::fault("hbm", "HBM");
    assert_eq!(reason(plan_on(&sick, &claim(&uid(1), &["a module-0"]), &[])), "prepared");
}

#[test]
fn only_the_claim_that_kubelet_named_in_the_right_state_is_prepared() {
    let good = claim(&uid(1), &["a chip-0-0"]);
    let dual = dual(1);
    let pool = pool();
    let pools = [NodePool { pool: &pool, inventory: &dual }];
    let other = plan_prepare(&good, &uid(2), &pools, []);
    assert_eq!(reason(other), "uid_mismatch");
    assert_eq!(reason(plan_on(&dual, &Claim { deleting: true, ..good.clone() }, &[])), "being_deleted");
    assert_eq!(reason(plan_on(&dual, &Claim { allocated: false, ..good.clone() }, &[])), "not_allocated");
    assert_eq!(reason(plan_on(&dual, &Claim { results: Vec::new(), ..good }, &[])), "no_devices");
}

#[test]
fn a_bad_configuration_or_capacity_is_refused_with_its_reason() {
    let typo = with_policy(claim(&uid(1), &["a chip-0-0 1Gi 1"]), &[], json!({ "compute": { "moed": 1 } }));
    let refusal = plan_on(&dual(1), &typo, &[]).unwrap_err();
    insta::assert_snapshot!(refusal, @"claim team-a/claim-00000001: opaque configuration for vnpu.dev: field compute: unknown field `moed`, expected one of `mode`, `priority`, `initial`");
    assert_eq!((refusal.reason(), refusal.retryable()), ("policy_field", false));
    for bad in ["a chip-0-0 1Gi 500m", "a chip-0-0 much 1", "a chip-0-0 -1Gi 1", "a chip-0-0 1Gi 99999999999"]
    {
        assert_eq!(reason(on_dual(&[bad])), "bad_capacity", "{bad}");
    }
}

#[test]
fn refusals_say_what_to_do() {
    insta::assert_snapshot!(on_dual(&["a chip-0-1", "b chip-2-0"]).unwrap_err(), @"claim team-a/claim-00000001 straddles: it holds exactly one chip of each of modules [0, 2]. Ask for whole modules (class npu-module.vnpu.dev), add the constraint `matchAttribute: vnpu.dev/module`, or make one claim per chip");
    insta::assert_snapshot!(on_dual(&["a chip-7-0"]).unwrap_err(), @r#"claim team-a/claim-00000001, request a: device "chip-7-0" of pool node-1/ascend is absent on this node: check the hardware (`vnpu doctor`), or delete the pod, so that the claim is allocated again"#);
}

#[test]
fn a_tombstone_lets_only_the_living_claim_of_a_pod_through() {
    let shared = claim(&uid(1), &["a chip-0-0"]);
    let check = |claim: &Claim| check_after_tombstone(claim, &uid(1)).map_err(|r| r.reason());
    assert_eq!(check(&shared), Ok(()));
    assert_eq!(check(&Claim { reserved_for: Vec::new(), ..shared.clone() }), Err("released"));
    let mut group = shared.clone();
    group.reserved_for[0].resource = "podgroups".to_owned();
    assert_eq!(check(&group), Err("released"));
    assert_eq!(check(&Claim { deleting: true, ..shared.clone() }), Err("being_deleted"));
    assert_eq!(check(&Claim { allocated: false, ..shared.clone() }), Err("not_allocated"));
    assert_eq!(check(&Claim { uid: uid(2), ..shared }), Err("uid_mismatch"));
}

#[test]
fn administrative_access_is_neither_counted_nor_paired() {
    let dual = dual(2);
    let full = plan_on(&dual, &claim(&uid(1), &["a module-0"]), &[]).unwrap();
    let mut admin = claim(&uid(2), &["a chip-0-0", "b chip-1-0"]);
    admin.results.iter_mut().for_each(|r| r.admin_access = true);
    let admin = plan_on(&dual, &admin, std::slice::from_ref(&full)).unwrap();
    assert!(!admin.interposed());
    let next = claim(&uid(3), &["a chip-1-0"]);
    assert_eq!(reason(plan_on(&dual, &next, &[full, admin])), "prepared");
}

#[test]
fn administrative_access_beside_a_share_does_not_lift_its_quota() {
    let mut mixed = claim(&uid(1), &["a chip-0-0 8Gi 10", "b chip-0-0"]);
    mixed.results[1].admin_access = true;
    let plan = plan_on(&dual(1), &mixed, &[]).unwrap();
    assert_eq!((plan.shares.chips[0].memory, plan.shares.chips[0].cores), (Bytes::gib(8), Percent(10)));
}

#[test]
fn without_hooks_for_the_vendor_a_share_is_counted_and_no_quota_is_pretended() {
    let acme = Inventory { vendor: "acme".parse().unwrap(), ..single(1) };
    let asked = with_policy(
        claim(&uid(1), &["a chip-0-0 8Gi 10"]),
        &[],
        json!({"interpose": "always", "memory": {"onFailure": "closed"}}),
    );
    let plan = plan_on(&acme, &asked, &[]).unwrap();
    assert!(!plan.interposed() && plan.shares.chips.is_empty());
    assert_eq!(plan.results[0].chips[0].memory, Bytes::gib(8));
    let next = claim(&uid(2), &["a chip-0-0 57Gi 10"]);
    assert_eq!(reason(plan_on(&acme, &next, std::slice::from_ref(&plan))), "over_capacity");
    assert!(plan_on(&single(1), &asked, &[]).unwrap().interposed());
}

#[test]
fn a_renumbered_chip_is_found_by_its_identity_and_a_vanished_one_is_remembered() {
    let before = dual(2);
    let plan = plan_on(&before, &claim(&uid(1), &["a chip-1-0 1Gi 1"]), &[]).unwrap();
    let mut after = before.clone();
    after.chips.iter_mut().for_each(|c| c.phys_id += 10);
    assert_eq!(plan.results[0].chips_in(&after).unwrap()[0].phys_id, 12);
    after.chips.retain(|c| c.card != 1);
    assert!(plan.results[0].chips_in(&after).is_err());
    let pool = pool();
    assert_eq!(plan.vanished_chips(&pool, &after).collect::<Vec<_>>(), [&before.chips[2]]);
    assert_eq!(plan.vanished_chips(&pool, &before).count(), 0);
}

#[test]
fn odd_memory_is_whole_at_what_is_published() {
    let odd = inventory(vec![chip(0, 0, false, Bytes(65_452 << 20))]);
    let whole = plan_on(&odd, &claim(&uid(1), &["a chip-0-0 63Gi 100"]), &[]).unwrap();
    assert!(whole.results[0].chips[0].whole);
    assert_eq!(reason(plan_on(&odd, &claim(&uid(1), &["a chip-0-0 64Gi 1"]), &[])), "over_capacity");
}

proptest! {
    /// Whatever is asked in whatever order, no chip is ever promised twice.
    #[test]
    fn prepared_claims_never_exceed_a_chip(
        asks in proptest::collection::vec((0u32..3, 0u32..3, 1u64..70, 1u32..110), 1..60)
    ) {
        let dual = dual(3);
        let mut prepared: Vec<PreparePlan> = Vec::new();
        for (n, (card, die, memory, cores)) in asks.into_iter().enumerate() {
            let ask = if die == 2 {
                format!("a module-{card}")
            } else {
                format!("a chip-{card}-{die} {memory}Gi {cores}")
            };
            let claim = claim(&uid(u32::try_from(n).unwrap()), &[&ask]);
            if let Ok(plan) = plan_on(&dual, &claim, &prepared) {
                prepared.push(plan);
            }
        }
        let mut used: BTreeMap<&DeviceUuid, (u64, u32)> = BTreeMap::new();
        for part in prepared.iter().flat_map(|p| &p.results).flat_map(|r| &r.chips) {
            let sum = used.entry(&part.uuid).or_default();
            sum.0 += part.memory.0;
            sum.1 += part.cores.0;
        }
        for (memory, cores) in used.values() {
            prop_assert!(*memory <= Bytes::gib(64).0 && *cores <= 100);
        }
    }

    #[test]
    fn plans_survive_the_checkpoint(memory in 1u64..64, cores in 1u32..100, die in 0u32..2) {
        let claim = claim(&uid(1), &[&format!("a chip-0-{die} {memory}Gi {cores}")]);
        let plan = plan_on(&dual(1), &claim, &[]).unwrap();
        let json = serde_json::to_string(&plan).unwrap();
        prop_assert_eq!(serde_json::from_str::<PreparePlan>(&json).unwrap(), plan);
    }

    #[test]
    fn hostile_texts_are_refused_and_never_panic(device in "\\PC{0,90}", pool in "\\PC{0,90}", quantity in "\\PC{0,20}") {
        let mut hostile = claim(&uid(1), &["a chip-0-0 1Gi 1"]);
        hostile.results[0].device.clone_from(&device);
        prop_assert_eq!(reason(plan_on(&dual(1), &hostile, &[])), "device_absent");
        hostile.results[0].pool = pool;
        prop_assert_eq!(reason(plan_on(&dual(1), &hostile, &[])), "unknown_pool");
        let mut hostile = claim(&ClaimUid::new(UID).unwrap(), &["a chip-0-0 1Gi 1"]);
        hostile.results[0].consumed_capacity.insert("memory".to_owned(), quantity);
        let _ = plan_on(&dual(1), &hostile, &[]);
    }
}
