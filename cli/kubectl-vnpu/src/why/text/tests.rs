//! Explanations of what the real planner decides.

// The planner's own clusters.
#[path = "../../../../../placement/src/fixtures.rs"]
mod fixtures;

use fixtures::{allocated, at, batch, changes, planner, whole};
use serde_json::{Value, json};
use vnpu_placement::batch::{Mode, Reach};
use vnpu_placement::{Change, Planner};

use super::*;

/// A pod of the batch `train`.
fn pod(more: Value) -> PodFacts {
    let mut object = json!({
        "metadata": {"namespace": "bank", "name": "train-1", "uid": "train-1",
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "train", "uid": "j", "controller": true}]},
        "spec": {"containers": [{"name": "main"}], "schedulerName": "default-scheduler",
            "resourceClaims": [{"name": "npu", "resourceClaimTemplateName": "npu"}]},
        "status": {"phase": "Pending"},
    });
    for (part, fields) in more.as_object().unwrap() {
        object[part].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    }
    PodFacts::read(&serde_json::from_value(object).unwrap())
}

fn gated() -> Value {
    json!({"spec": {"schedulingGates": [{"name": "vnpu.dev/placement"}]}})
}

/// The page of the controller about a decision.
fn known(planner: &mut Planner, events: &[&str]) -> Answer {
    let decision = planner.decide(at(1_790_000_000)).pop().unwrap();
    let text = decision.record.to_string();
    let page = json!({"pods": ["bank/train-0", "bank/train-1"], "decision": decision, "text": text, "events": events});
    Answer::Known(Box::new(Told::read(page)))
}

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000 + 300).unwrap()
}

fn placed() -> Answer {
    let mut planner = planner(changes(8, 4, 2, 8));
    // Something runs on the first leaf.
    for (number, node) in ["node-0", "node-1", "node-2"].iter().enumerate() {
        let devices = ["module-0", "module-1", "chip-2-0"];
        planner.update(Change::Claim(allocated(u64::try_from(number).unwrap(), node, &devices)));
    }
    let mut batch = batch("train", 2, whole(8));
    batch.mode = Mode::OnePerNode;
    planner.submit(batch, at(1));
    known(&mut planner, &["Planned: 2 pods placed on leaf leaf-1 (2 nodes)"])
}

fn waiting() -> Answer {
    let mut planner = planner(changes(4, 2, 2, 8));
    for (number, node) in ["node-0", "node-1", "node-2", "node-3"].iter().enumerate() {
        planner.update(Change::Claim(allocated(
            u64::try_from(number).unwrap(),
            node,
            &["module-0", "chip-1-1"],
        )));
    }
    let mut batch = batch("train", 2, whole(8));
    batch.reach = Reach::RequiredLeaf;
    planner.submit(batch, at(1));
    known(&mut planner, &[])
}

#[test]
fn a_pod_where_it_was_planned() {
    let Answer::Known(told) = placed() else { panic!() };
    let Outcome::Placed(placement) = &told.decision.as_ref().unwrap().outcome else { panic!() };
    let node = placement.assignments[1].node.to_string();
    let pod = pod(json!({"spec": {"nodeName": node}, "status": {"phase": "Running"}}));
    let text = explain(&pod, &[], &Answer::Known(told), now());
    insta::assert_snapshot!(text);
    let documentation = include_str!("../../../../../docs/kubectl.md");
    assert!(documentation.contains(&text), "docs/kubectl.md shows what is printed");
}

#[test]
fn a_pod_that_the_scheduler_put_elsewhere() {
    let pod = pod(json!({"spec": {"nodeName": "node-0"}, "status": {"phase": "Running"}}));
    let text = explain(&pod, &[], &placed(), now());
    assert_eq!(
        text.lines().next(),
        Some("bank/train-1 is on node-0, and not on node-6, where it was planned.")
    );
}

#[test]
fn a_pod_that_waits() {
    let pod = pod(gated());
    let event = json!({"metadata": {}, "involvedObject": {}, "type": "Normal", "reason": "Waiting",
        "message": "waits", "lastTimestamp": "2026-09-21T14:13:20Z", "reportingComponent": "vnpu-controller"});
    let event = Happened::read(&serde_json::from_value(event).unwrap());
    insta::assert_snapshot!(explain(&pod, &[event], &waiting(), now()));
}

#[test]
fn a_pod_that_is_nominated() {
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/8 nodes are available: 8 cannot allocate all claims."});
    for (status, line) in [
        (
            json!({"nominatedNodeName": "node-6"}),
            "is to go to node-6, as planned; the scheduler has not bound it yet.",
        ),
        (
            json!({"nominatedNodeName": "node-0"}),
            "was planned on node-6 and is nominated for node-0; the scheduler has not bound it yet.",
        ),
        (
            json!({"conditions": [condition]}),
            "was planned on node-6, and the scheduler has not put it there.",
        ),
    ] {
        let text = explain(&pod(json!({"status": status})), &[], &placed(), now());
        assert_eq!(text.lines().next().unwrap(), format!("bank/train-1 {line}"));
        let scheduler = "The scheduler says\n  Unschedulable: 0/8 nodes are available";
        assert_eq!(text.contains(scheduler), line.ends_with("put it there."));
    }
}

#[test]
fn without_a_record_the_pod_speaks_for_itself() {
    let unreachable = Answer::Unreachable { problem: "cannot ask the controller: 503".to_owned() };
    let mut all = String::new();
    for (answer, more) in [
        (&Answer::Unknown, gated()),
        (&unreachable, gated()),
        (&Answer::Unknown, json!({"spec": {"resourceClaims": []}})),
        (&Answer::Unknown, json!({"metadata": {"annotations": {"vnpu.dev/placement": "none"}}})),
        (&Answer::Unknown, json!({"spec": {"schedulerName": "volcano"}})),
        (&Answer::Unknown, json!({"spec": {"nodeName": "node-1"}, "status": {"phase": "Succeeded"}})),
        (
            &Answer::Unknown,
            json!({"spec": {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}, {"name": "vnpu.dev/placement"}]}}),
        ),
    ] {
        all.push_str(&explain(&pod(more), &[], answer, now()));
        all.push_str("---\n");
    }
    insta::assert_snapshot!(all);
}

#[test]
fn a_controller_of_another_version_has_its_own_text() {
    let page = json!({"pods": [], "decision": {"verdict": 7}, "text": "Job bank/train: placed\n  mode pack", "events": ["a: b"]});
    let text = explain(&pod(gated()), &[], &Answer::Known(Box::new(Told::read(page))), now());
    assert!(text.ends_with("Job bank/train: placed\n  mode pack\n\nSince then\n  a: b\n"), "{text}");
}

#[test]
fn times_are_told_as_kubectl_tells_them() {
    let ago = |seconds: i64| age(Timestamp::from_second(now().as_second() - seconds).unwrap(), now());
    assert_eq!([0, 119, 120, 7200, 200_000].map(ago), ["0s", "119s", "2m", "2h", "2d"]);
    assert_eq!(ago(-5), "0s");
}
