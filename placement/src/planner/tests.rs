use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::batch::{Mode, Reach};
use crate::decision::{Outcome, Placement, Tier, WaitReason};
use crate::fixtures::*;
use crate::ledger::ClaimKey;
use crate::node::BoundPod;

mod properties;
mod recordings;

pub(super) fn placed(decisions: &[Decision]) -> &Placement {
    match decisions {
        [Decision { outcome: Outcome::Placed(placement), .. }] => placement,
        other => panic!("not one placement: {other:#?}"),
    }
}

fn counts(placement: &Placement) -> BTreeMap<String, usize> {
    placement.assignments.iter().fold(BTreeMap::new(), |mut counts, a| {
        *counts.entry(a.node.to_string()).or_default() += 1;
        counts
    })
}

/// Holds so many modules of a node.
fn hold(planner: &mut Planner, number: u64, node: &str, modules: std::ops::Range<u32>) {
    for card in modules {
        planner.update(Change::Claim(allocated(
            number * 100 + u64::from(card),
            node,
            &[&format!("module-{card}")],
        )));
    }
}

/// Gives modules of [`hold`] back.
fn free(planner: &mut Planner, number: u64, modules: std::ops::Range<u64>) {
    for card in modules {
        planner.update(Change::ClaimGone(claim_uid(number * 100 + card)));
    }
}

fn decide(planner: &mut Planner, batch: Batch) -> Vec<Decision> {
    planner.submit(batch, at(0));
    planner.decide(at(0))
}

#[test]
fn three_tiers_in_their_order() {
    // Two super-pods of two leaves of two nodes of four modules.
    for (pods, modules, tier, nodes) in [
        (4, 1, Tier::Node, 1),
        (2, 2, Tier::Node, 1),
        (2, 4, Tier::Leaf, 2),
        (8, 1, Tier::Leaf, 2),
        (3, 4, Tier::Superpod, 3),
        (4, 4, Tier::Superpod, 4),
        (5, 4, Tier::Across, 5),
        (8, 4, Tier::Across, 8),
    ] {
        let mut planner = planner(changes(8, 2, 2, 4));
        let decisions = decide(&mut planner, batch("train", pods, whole(modules)));
        let placement = placed(&decisions);
        assert_eq!((placement.tier, counts(placement).len()), (tier, nodes), "{pods} x {modules}");
        assert_eq!(placement.leaf.is_some(), tier <= Tier::Leaf);
        assert_eq!(placement.superpod.is_some(), tier <= Tier::Superpod);
        assert_eq!(planner.waiting_count(), 0);
    }
}

#[test]
fn the_tightest_node_wins_and_half_modules_are_filled_first() {
    let mut planner = planner(changes(4, 2, 2, 4));
    hold(&mut planner, 1, "node-2", 0..2);
    hold(&mut planner, 2, "node-3", 0..3);
    assert_eq!(
        counts(placed(&decide(&mut planner, batch("a", 2, whole(1))))).keys().next().unwrap(),
        "node-2"
    );
    assert_eq!(
        counts(placed(&decide(&mut planner, batch("b", 1, whole(1))))).keys().next().unwrap(),
        "node-3"
    );
    // A chip goes where a half module waits for it, however much else is free there.
    planner.update(Change::Claim(allocated(900, "node-1", &["chip-0-1"])));
    assert_eq!(
        counts(placed(&decide(&mut planner, batch("c", 1, plain_chips(1))))).keys().next().unwrap(),
        "node-1"
    );
    assert_eq!(planner.view_mut().free(&node_name("node-1")).unwrap().halves, 0);
}

#[test]
fn all_or_nothing() {
    let mut planner = planner(changes(2, 2, 1, 4));
    hold(&mut planner, 1, "node-0", 0..1);
    let decisions = decide(&mut planner, batch("train", 8, whole(1)));
    assert!(
        matches!(decisions[0].outcome, Outcome::Waiting { reason: WaitReason::NoRoom, .. }),
        "{decisions:#?}"
    );
    assert_eq!(planner.view().reservations().count(), 0, "nothing is reserved for a part of it");
    assert_eq!(planner.decide(at(1)), [], "said once");
    planner.update(Change::ClaimGone(claim_uid(100)));
    assert_eq!(placed(&planner.decide(at(2))).assignments.len(), 8);
    assert_eq!(planner.view().reservations().count(), 8);
}

#[test]
fn one_per_node_and_whole_nodes() {
    let mut planner = planner(changes(8, 4, 1, 4));
    let spread = Batch { mode: Mode::OnePerNode, ..batch("ring", 4, whole(1)) };
    let decisions = decide(&mut planner, spread);
    let placement = placed(&decisions);
    assert_eq!((placement.tier, counts(placement).len()), (Tier::Leaf, 4));
    let leaf = placement.leaf.clone();

    // Only the other leaf has nodes without use.
    let alone = Batch { mode: Mode::WholeNodes, ..batch("alone", 3, whole(2)) };
    let decisions = decide(&mut planner, alone);
    let alone = placed(&decisions);
    assert_ne!(alone.leaf, leaf);
    assert_eq!(counts(alone).len(), 2);
    let names: Vec<String> = counts(alone).into_keys().collect();
    let number = |name: &String| name.strip_prefix("node-").unwrap().parse::<u32>().unwrap();
    assert_eq!(number(&names[0]) + 1, number(&names[1]), "neighbours");
    // What its second node has left is not for others.
    let others = decide(&mut planner, batch("others", 8, whole(1)));
    assert!(counts(placed(&others)).keys().all(|node| !names.contains(node)));
}

#[test]
fn ranks_run_along_leaf_and_node() {
    let mut planner = planner(changes(16, 2, 4, 2));
    let mut batch = batch("train", 12, whole(1));
    batch.members.reverse();
    for member in &mut batch.members {
        member.rank = None;
    }
    let decisions = decide(&mut planner, batch);
    let placement = placed(&decisions);
    let names: Vec<&str> = placement.assignments.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(
        names[..3],
        ["bank/train-0", "bank/train-1", "bank/train-2"],
        "names count where ranks are absent"
    );
    assert_eq!(names[11], "bank/train-11");
    let numbers = placement.assignments.iter().map(|a| a.node.as_str().strip_prefix("node-").unwrap());
    let numbers: Vec<u32> = numbers.map(|n| n.parse().unwrap()).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
}

#[test]
fn required_reach_is_kept_or_the_batch_waits() {
    for (reach, pods, fits) in [
        (Reach::RequiredNode, 4, true),
        (Reach::RequiredNode, 5, false),
        (Reach::RequiredLeaf, 8, true),
        (Reach::RequiredLeaf, 9, false),
        (Reach::RequiredSuperpod, 16, true),
        (Reach::RequiredSuperpod, 17, false),
        (Reach::Preferred, 32, true),
        (Reach::Preferred, 33, false),
    ] {
        let mut planner = planner(changes(8, 2, 2, 4));
        let decisions = decide(&mut planner, Batch { reach, ..batch("train", pods, whole(1)) });
        let never = matches!(decisions[0].outcome, Outcome::NeverFits);
        assert_eq!(!never, fits, "{reach:?} {pods}: {decisions:#?}");
    }
}

#[test]
fn members_that_come_later_go_near_the_others() {
    let mut planner = planner(changes(16, 4, 2, 4));
    let first = decide(&mut planner, batch("train", 3, whole(1)));
    let home = placed(&first).assignments[0].node.clone();
    let leaf = placed(&first).leaf.clone();
    // Two more: one fits beside them, the other on their leaf.
    let decisions = decide(&mut planner, batch("train", 5, whole(1)));
    let placement = placed(&decisions);
    assert_eq!(placement.assignments.len(), 2);
    assert_eq!(placement.assignments[0].name, "bank/train-3");
    assert_eq!(placement.leaf, leaf);
    assert_eq!(placement.tier, Tier::Leaf);
    assert!(placement.assignments.iter().any(|a| a.node == home));
    // What is told as placed counts the same, and nothing is placed twice.
    assert_eq!(decide(&mut planner, batch("train", 5, whole(1))), []);
    let told =
        Batch { placed: vec![("elsewhere".into(), node_name("node-15"))], ..batch("told", 1, whole(1)) };
    assert_eq!(placed(&decide(&mut planner, told)).assignments[0].node.as_str(), "node-15");
    // Unlike members of which only one may be on a node.
    let ring = Batch {
        mode: Mode::OnePerNode,
        placed: vec![("elsewhere".into(), node_name("node-15"))],
        ..batch("ring", 3, whole(1))
    };
    let decisions = decide(&mut planner, ring);
    assert_eq!(placed(&decisions).leaf.as_deref(), Some("leaf-3"));
    assert!(!counts(placed(&decisions)).contains_key("node-15"));
}

#[test]
fn unlike_members_and_fixed_claims() {
    let mut planner = planner(changes(4, 2, 2, 4));
    let demands = [whole(3), whole(1), plain_chips(1), whole(2)].map(|claim| Arc::new(demand(vec![claim])));
    let decisions = decide(&mut planner, batch_of("mixed", demands.to_vec()));
    assert_eq!(placed(&decisions).tier, Tier::Leaf);
    assert_eq!(counts(placed(&decisions)).len(), 2, "3 + 1 on one node, 2 and a chip on the other");

    planner.update(Change::Claim(allocated(7, "node-3", &["chip-3-1"])));
    let mut bound_to = demand(vec![plain_chips(1), whole(1)]);
    bound_to.claims[0].uid = Some(claim_uid(7));
    bound_to.claims[0].shared = true;
    let demands = vec![Arc::new(bound_to), Arc::new(demand(vec![whole(1)]))];
    let decisions = decide(&mut planner, batch_of("fixed", demands));
    assert_eq!(counts(placed(&decisions)), BTreeMap::from([("node-3".to_owned(), 2)]));

    let mut torn = demand(vec![whole(1), whole(1)]);
    torn.claims[0].node = Some(node_name("node-0"));
    torn.claims[1].node = Some(node_name("node-1"));
    let decisions = decide(&mut planner, batch_of("torn", vec![Arc::new(torn)]));
    assert!(matches!(decisions[0].outcome, Outcome::NeverFits));
}

#[test]
fn pods_that_share_a_claim_go_to_one_node() {
    let mut planner = planner(changes(4, 2, 2, 2));
    let mut shared = demand(vec![whole(1)]);
    shared.claims[0].uid = Some(claim_uid(1));
    shared.claims[0].shared = true;
    let shared = Arc::new(shared);
    let own = Arc::new(demand(vec![whole(2)]));
    let decisions = decide(&mut planner, batch_of("b", vec![shared.clone(), own, shared.clone()]));
    let placement = placed(&decisions);
    let node = |i: usize| &placement.assignments[i].node;
    assert_eq!(node(0), node(2));
    assert_ne!(node(0), node(1));
    let reservation = planner.view().reservation("b-0").unwrap();
    assert_eq!(reservation.claims[0].key, ClaimKey::Uid(claim_uid(1)));
    // A pod that comes later follows the claim that is only reserved.
    let late = decide(&mut planner, batch_of("late", vec![shared]));
    assert_eq!(&placed(&late).assignments[0].node, node(0));
}

#[test]
fn resources_labels_and_taints_count() {
    let mut planner = planner(changes(3, 3, 1, 4));
    planner.update(Change::Pod(BoundPod {
        uid: "hog".into(),
        node: node_name("node-0"),
        resources: resources(&[("cpu", 190_500), ("pods", 1)]),
    }));
    let mut cordoned = node("node-1", "leaf-0", "pod-0");
    cordoned.unschedulable = true;
    planner.update(Change::Node(cordoned));
    let decisions = decide(&mut planner, batch("a", 2, whole(1)));
    assert_eq!(
        counts(placed(&decisions)),
        BTreeMap::from([("node-2".to_owned(), 2)]),
        "one CPU is left on node-0"
    );
    let mut strange = demand(vec![whole(1)]);
    strange.resources.0.insert("rdma/hca".into(), 1);
    let decisions = decide(&mut planner, batch_of("b", vec![Arc::new(strange)]));
    assert!(matches!(decisions[0].outcome, Outcome::NeverFits), "no node has it at all");
}

#[test]
fn patience_waits_for_the_smallest_size_and_then_takes_what_there_is() {
    let mut planner = planner(changes(2, 2, 1, 4));
    hold(&mut planner, 1, "node-0", 0..1);
    hold(&mut planner, 2, "node-1", 0..2);
    let patient = Batch { patience: Duration::from_secs(60), ..batch("patient", 4, whole(1)) };
    let decisions = decide(&mut planner, patient.clone());
    let expected = Outcome::Waiting { reason: WaitReason::Patience, target: None, until: Some(at(60)) };
    assert_eq!(decisions[0].outcome, expected);
    assert_eq!(planner.next_deadline(), Some(at(60)));
    // Nothing is held for it.
    let other = decide(&mut planner, Batch { arrived: at(1), ..batch("other", 2, whole(1)) });
    assert_eq!(counts(placed(&other)), BTreeMap::from([("node-1".to_owned(), 2)]));
    // A node becomes free: the batch goes there.
    planner.update(Change::ClaimGone(claim_uid(100)));
    let decisions = planner.decide(at(10));
    assert_eq!(counts(placed(&decisions)), BTreeMap::from([("node-0".to_owned(), 4)]));

    let mut late = crate::fixtures::planner(changes(2, 2, 1, 4));
    hold(&mut late, 1, "node-0", 0..1);
    hold(&mut late, 2, "node-1", 0..2);
    late.submit(patient, at(0));
    late.decide(at(0));
    assert_eq!(placed(&late.decide(at(60))).tier, Tier::Leaf, "then its best plan");
    assert_eq!(late.next_deadline(), None);
}

#[test]
fn patience_counts_from_when_a_batch_could_be_placed() {
    let mut planner = planner(changes(2, 2, 1, 4));
    hold(&mut planner, 1, "node-0", 0..3);
    hold(&mut planner, 2, "node-1", 0..3);
    let patient = Batch { patience: Duration::from_secs(60), ..batch("patient", 4, whole(1)) };
    assert!(matches!(decide(&mut planner, patient)[0].outcome, Outcome::Waiting { target: None, .. }));
    free(&mut planner, 1, 0..2);
    free(&mut planner, 2, 0..2);
    let decisions = planner.decide(at(500));
    let Outcome::Waiting { until, .. } = decisions[0].outcome else { panic!("{decisions:#?}") };
    assert_eq!(until, Some(at(560)));
    assert_eq!(placed(&planner.decide(at(560))).tier, Tier::Leaf);
}

#[test]
fn batches_of_several_pods_that_fit_one_node_come_first() {
    let mut planner = planner(changes(2, 2, 1, 4));
    hold(&mut planner, 1, "node-0", 0..4);
    hold(&mut planner, 2, "node-1", 0..4);
    let keys = |decisions: Vec<Decision>| {
        let placed = decisions.into_iter().filter(|d| matches!(d.outcome, Outcome::Placed(_)));
        placed.map(|d| d.batch.0.to_string()).collect::<Vec<_>>()
    };
    planner.submit(Batch { arrived: at(1), ..batch("single", 1, whole(4)) }, at(1));
    planner.submit(Batch { arrived: at(2), ..batch("wide", 5, whole(1)) }, at(2));
    planner.submit(Batch { arrived: at(3), ..batch("compact", 2, whole(2)) }, at(3));
    assert_eq!(keys(planner.decide(at(3))), [""; 0]);
    free(&mut planner, 1, 0..4);
    assert_eq!(keys(planner.decide(at(4))), ["compact"]);
    free(&mut planner, 2, 0..4);
    assert_eq!(keys(planner.decide(at(5))), ["single"]);
}

#[test]
fn an_aged_batch_comes_first_and_closes_the_nodes_that_have_room_for_it() {
    let mut planner = planner(changes(4, 4, 1, 4));
    for node in 0..4 {
        hold(&mut planner, node + 1, &format!("node-{node}"), 0..3);
    }
    planner.update(Change::Claim(allocated(900, "node-0", &["chip-3-0"])));
    let day = 24 * 3600;
    let large = decide(&mut planner, batch("large", 8, whole(1)));
    let expected = |target: Option<&str>, until| Outcome::Waiting {
        reason: WaitReason::NoRoom,
        target: target.map(Into::into),
        until,
    };
    assert_eq!(large[0].outcome, expected(None, Some(at(day))));
    // Until then others pass it.
    planner.submit(Batch { arrived: at(1), ..batch("small", 1, whole(1)) }, at(1));
    assert_eq!(placed(&planner.decide(at(1))).assignments.len(), 1);
    let aged = planner.decide(at(day));
    assert_eq!(aged[0].outcome, expected(Some("super-pod pod-0"), None));
    planner.submit(Batch { arrived: at(day), ..batch("late", 1, whole(1)) }, at(day));
    let late = planner.decide(at(day));
    assert!(matches!(late[0].outcome, Outcome::Waiting { .. }), "{late:#?}");
    // A node that has no room for it is open: its half module serves no pod of the batch.
    planner.submit(Batch { arrived: at(day), ..batch("chip", 1, plain_chips(1)) }, at(day));
    assert_eq!(counts(placed(&planner.decide(at(day)))), BTreeMap::from([("node-0".to_owned(), 1)]));
    // Higher priority is asked first.
    planner.submit(Batch { priority: 10, ..batch("urgent", 1, whole(1)) }, at(day + 1));
    assert_eq!(placed(&planner.decide(at(day + 1))).assignments.len(), 1);
    // Room has added up: it takes the first plan, and the others may go on.
    for node in 0..4 {
        free(&mut planner, node + 1, 0..3);
    }
    let decisions = planner.decide(at(day + 2));
    assert_eq!(decisions.first().map(|d| d.batch.0.as_ref()), Some("large"));
    assert_eq!(planner.waiting_count(), 0);
}

#[test]
fn priority_then_arrival() {
    let mut planner = planner(changes(1, 1, 1, 1));
    for (key, priority, arrived) in [("late", 0, 20), ("early", 0, 10), ("urgent", 5, 30)] {
        planner.submit(Batch { priority, arrived: at(arrived), ..batch(key, 1, whole(1)) }, at(30));
    }
    let order: Vec<String> = planner.waiting().map(|e| e.batch.key.to_string()).collect();
    assert_eq!(order, ["urgent", "early", "late"]);
    let decisions = planner.decide(at(30));
    assert!(matches!(decisions[0].outcome, Outcome::Placed(_)));
    assert_eq!(decisions[0].batch.to_string(), "urgent");
    planner.update(Change::PodGone("urgent-0".into()));
    assert_eq!(planner.decide(at(31))[0].batch.to_string(), "early");
}

#[test]
fn only_so_much_of_the_queue_is_looked_at() {
    let mut planner = Planner::new(Config { depth: 1, ..Config::default() });
    changes(2, 2, 1, 1).into_iter().for_each(|change| planner.update(change));
    planner.submit(Batch { arrived: at(1), ..batch("large", 3, whole(1)) }, at(2));
    planner.submit(Batch { arrived: at(2), ..batch("small", 1, whole(1)) }, at(2));
    assert!(matches!(planner.decide(at(2))[0].outcome, Outcome::NeverFits));
    assert_eq!(planner.decide(at(2)), [], "the second is not looked at");
}
