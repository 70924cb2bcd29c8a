//! What changes while a batch is planned or after: pods that go, nodes that go, places that others take.

use serde_json::{Value, json};
use vnpu_driver::controller_config::{ControllerConfig, OnPartial};

use super::super::*;
use super::bench::{Bench, nodes_of, object};
use crate::observe::claim;

impl Bench {
    /// Somebody else's claim on a module of a node.
    fn take(&mut self, node: &str, module: u32) {
        let device = format!("module-{module}");
        let results = json!([
            {"request": "m", "driver": "vnpu.dev", "pool": format!("{node}/ascend"), "device": device},
        ]);
        let selector = json!({"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": [node]},
        ]}]});
        let digits = node.trim_start_matches("node-");
        let taken = json!({
            "metadata": {"name": format!("{node}-{module}"), "namespace": "bank",
                "uid": format!("11111111-2222-4333-8{digits:0>3}-{module:0>12}")},
            "spec": {},
            "status": {"allocation": {"devices": {"results": results}, "nodeSelector": selector}},
        });
        let name = ("bank".to_owned(), format!("{node}-{module}"));
        self.tell(Change::Claim(name, claim::read(&object(taken)).unwrap()));
    }

    /// It is there no more.
    fn give_back(&mut self, node: &str, module: u32) {
        self.tell(Change::ClaimGone(("bank".to_owned(), format!("{node}-{module}"))));
    }

    /// The scheduler finds no node for a pod that was let go: it takes the nomination away.
    fn fail(&mut self, name: &str) {
        let mut pod = self.pods[name].clone();
        pod["status"]["nominatedNodeName"] = Value::Null;
        self.put(name, pod);
    }

    /// A pair on a node of two modules, of which one was bound, and the other's place was taken.
    fn torn(&mut self, owner: &str) {
        let batch = json!({"vnpu.dev/batch-size": "2"});
        for name in ["a", "b"] {
            self.pod_with(name, owner, batch.clone());
            if owner.is_empty() {
                let mut pod = self.pods[name].clone();
                pod["metadata"]["labels"] = json!({"vnpu.dev/batch": "pair"});
                self.tell(Change::PodGone(name.to_owned()));
                self.put(name, pod);
            }
        }
        assert_eq!(self.settle().len(), 2);
        self.bind("a", "node-0");
        self.take("node-0", 0);
        self.take("node-0", 1);
        self.fail("b");
        self.settle();
        self.later(20);
    }

    fn recreate(&mut self) {
        let mut config = ControllerConfig::default();
        config.placement.on_partial = OnPartial::Recreate;
        self.desk.set_settings(Settings::of(&config), Config::default());
    }
}

#[test]
fn what_is_not_bound_in_time_is_planned_again_and_told() {
    let mut bench = Bench::new(2, 2);
    bench.job("pair", 2);
    bench.pod("a", "pair");
    bench.pod("b", "pair");
    let placed = bench.settle();
    let home = placed["a"].clone();
    bench.bind("a", &home);
    bench.later(19);
    assert!(bench.settle().is_empty());
    bench.later(2);
    let again = bench.settle();
    assert!(again.contains_key("b"), "{again:?}");
    assert!(bench.told("PartialBatch"));
    assert_eq!(bench.desk.counts().partial, 1);
}

#[test]
fn a_batch_that_grows_goes_where_it_is() {
    let mut bench = Bench::new(4, 4);
    bench.job("train", 2);
    bench.pod("a", "train");
    bench.pod("b", "train");
    let home = bench.settle()["a"].clone();
    bench.bind("a", &home);
    bench.bind("b", &home);
    bench.job("train", 4);
    bench.pod("c", "train");
    bench.pod("d", "train");
    let placed = bench.settle();
    assert_eq!(nodes_of(&placed), BTreeSet::from([home.as_str()]));
}

#[test]
fn a_pod_that_is_deleted_while_it_is_planned_gives_its_place_back() {
    let mut bench = Bench::new(1, 2);
    bench.job("pair", 2);
    bench.pod("a", "pair");
    bench.pod("b", "pair");
    let actions = bench.desk.step(bench.now);
    assert!(actions.iter().any(|action| matches!(action, Action::Place { pods, .. } if pods.len() == 2)));
    bench.pods.remove("b");
    bench.tell(Change::PodGone("b".to_owned()));
    let mut placed = BTreeMap::new();
    for action in actions {
        bench.act(action, &mut placed);
    }
    assert_eq!(placed.keys().collect::<Vec<_>>(), ["a"]);
    bench.pod("other", "");
    assert_eq!(bench.settle().len(), 1, "the other module is free again");
}

#[test]
fn a_node_that_vanishes_is_planned_around() {
    let mut bench = Bench::new(2, 1);
    bench.pod("a", "");
    let home = bench.settle()["a"].clone();
    bench.tell(Change::NodeGone(NodeName::new(home.clone()).unwrap()));
    bench.later(21);
    let again = bench.settle();
    assert_ne!(again["a"], home);
}

#[test]
fn capacity_that_somebody_else_took_is_seen() {
    let mut bench = Bench::new(1, 1);
    let results =
        json!([{"request": "m", "driver": "vnpu.dev", "pool": "node-0/ascend", "device": "module-0"}]);
    let selector = json!({"nodeSelectorTerms": [{"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": ["node-0"]},
    ]}]});
    let taken = json!({
        "metadata": {"name": "taken", "namespace": "bank", "uid": "11111111-2222-4333-8444-555555555555"},
        "spec": {},
        "status": {"allocation": {"devices": {"results": results}, "nodeSelector": selector}},
    });
    let name = ("bank".to_owned(), "taken".to_owned());
    bench.tell(Change::Claim(name.clone(), claim::read(&object(taken)).unwrap()));
    bench.pod("a", "");
    assert!(bench.settle().is_empty());
    bench.tell(Change::ClaimGone(name));
    assert_eq!(bench.settle().len(), 1);
}

#[test]
fn a_pod_that_is_bound_elsewhere_is_a_deviation() {
    let mut bench = Bench::new(2, 2);
    bench.pod("a", "");
    let placed = bench.settle();
    let other = if placed["a"] == "node-0" { "node-1" } else { "node-0" };
    bench.bind("a", other);
    bench.settle();
    assert!(bench.told("PlanDeviation"));
    assert_eq!((bench.desk.counts().deviations, bench.desk.counts().as_planned), (1, 0));
}

#[test]
fn a_partial_batch_waits_for_room_however_often_it_is_looked_at() {
    let mut bench = Bench::new(1, 2);
    bench.torn("pair");
    assert!(bench.settle().is_empty());
    assert!(bench.told("PartialBatch") && bench.told("WaitingForCapacity"), "{:?}", bench.told);
    assert_eq!(bench.recorded, ["bank/a", "bank/b"]);
    // The scheduler says of the pod again and again that there is no room.
    for _ in 0..5 {
        bench.later(3);
        bench.fail("b");
        assert!(bench.settle().is_empty());
    }
    bench.give_back("node-0", 1);
    assert_eq!(bench.settle(), BTreeMap::from([("b".to_owned(), "node-0".to_owned())]));
    assert_eq!(bench.desk.counts().partial, 1);
    // And the scheduler has its time again.
    bench.fail("b");
    bench.later(19);
    assert!(bench.settle().is_empty());
}

#[test]
fn pods_of_a_partial_batch_are_deleted_where_that_is_wanted() {
    let mut bench = Bench::new(1, 2);
    bench.recreate();
    bench.torn("pair");
    assert!(bench.settle().is_empty());
    assert_eq!(bench.deleted, ["b"]);
    let told = bench.told.iter().find(|(reason, _)| reason == "PartialBatch").unwrap();
    assert!(told.1.ends_with("they are deleted, for their owner to make again"), "{}", told.1);
}

#[test]
fn pods_that_nobody_would_make_again_are_never_deleted() {
    let mut bench = Bench::new(1, 2);
    bench.recreate();
    bench.torn("");
    bench.settle();
    assert!(bench.deleted.is_empty(), "{:?}", bench.deleted);
    bench.give_back("node-0", 1);
    assert_eq!(bench.settle().keys().collect::<Vec<_>>(), ["b"], "it is planned again instead");
}

#[test]
fn pods_that_may_not_be_deleted_are_planned_again_and_that_is_told() {
    let mut bench = Bench::new(1, 2);
    bench.recreate();
    bench.keeps = true;
    bench.torn("pair");
    bench.settle();
    let told = bench.told.iter().find(|(reason, _)| reason == "PodNotRecreated");
    assert!(told.is_some_and(|(_, text)| text.contains("forbidden")), "{:?}", bench.told);
    assert_eq!((bench.deleted.len(), bench.desk.counts().not_recreated), (1, 1));
    // Not in a loop, but once the right may have been given.
    bench.later(19);
    bench.settle();
    assert_eq!(bench.deleted.len(), 1);
    bench.later(2);
    bench.settle();
    assert_eq!(bench.deleted.len(), 2);
    bench.give_back("node-0", 1);
    assert_eq!(bench.settle().keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_waiting_batch_that_shrinks_takes_the_room_there_is() {
    let mut bench = Bench::new(1, 2);
    for name in ["a", "b", "c"] {
        bench.pod_with(name, "set", json!({"vnpu.dev/batch-size": "3"}));
    }
    assert!(bench.settle().is_empty());
    bench.pods.remove("c");
    bench.tell(Change::PodGone("c".to_owned()));
    // Nobody says that there are to be two only: it is found out by waiting.
    bench.settle();
    bench.later(31);
    assert_eq!(bench.settle().len(), 2);
}

#[test]
fn whoever_asks_for_a_pod_that_was_there_before_is_told_of_its_batch() {
    let mut bench = Bench::new(2, 4);
    bench.job("train", 1);
    bench.pod("a", "train");
    let home = bench.settle()["a"].clone();
    bench.bind("a", &home);
    bench.job("train", 2);
    bench.pod("b", "train");
    bench.settle();
    assert_eq!(bench.recorded, ["bank/a", "bank/b"]);
}

/// A pod of a PodGroup.
fn grouped(bench: &mut Bench, name: &str) {
    bench.pod(name, "");
    let mut pod = bench.pods[name].clone();
    pod["spec"]["schedulingGroup"] = json!({"podGroupName": "gang"});
    bench.tell(Change::PodGone(name.to_owned()));
    bench.put(name, pod);
}

#[test]
fn pods_of_a_pod_group_come_together_when_its_minimum_is_there() {
    let mut bench = Bench::new(4, 4);
    let name = ("bank".to_owned(), "gang".to_owned());
    bench.tell(Change::PodGroup(name.clone(), Some(3)));
    grouped(&mut bench, "a");
    grouped(&mut bench, "b");
    bench.later(60);
    assert!(bench.settle().is_empty());
    // Somebody lowers the minimum: that alone is news enough.
    bench.tell(Change::PodGroup(name, Some(2)));
    let placed = bench.settle();
    assert_eq!(placed.len(), 2, "{placed:?}");
}

#[test]
fn newcomers_without_room_do_not_keep_their_pod_group_back() {
    let mut bench = Bench::new(2, 1);
    bench.tell(Change::PodGroup(("bank".to_owned(), "gang".to_owned()), Some(2)));
    grouped(&mut bench, "a");
    grouped(&mut bench, "b");
    bench.later(1);
    assert_eq!(bench.settle().len(), 2);
    grouped(&mut bench, "c");
    bench.later(1);
    assert_eq!(bench.settle(), BTreeMap::from([("c".to_owned(), "pod_group".to_owned())]));
}
