//! The same objects make the same view, in whichever order they come.

use std::sync::Arc;

use proptest::prelude::*;
use vnpu_driver::id::PoolName;

use super::*;
use crate::fixtures::*;
use crate::ledger::ReservedClaim;
use crate::node::{BoundPod, Class};
use crate::shape::{Halving, ShapeForm};
use crate::units;

fn bound(uid: &str, node: &str) -> Change {
    Change::Pod(BoundPod {
        uid: uid.to_owned(),
        node: node_name(node),
        resources: resources(&[("cpu", 4000), ("memory", GI), ("pods", 1)]),
    })
}

fn reservation(pod: &str, node: &str, order: u64, key: ClaimKey, spec: crate::demand::ClaimSpec) -> Change {
    Change::Reserve(Reservation {
        pod: Arc::from(pod),
        node: node_name(node),
        order,
        resources: Arc::new(resources(&[("cpu", 2000), ("pods", 1)])),
        claims: vec![ReservedClaim { key, spec: Arc::new(spec) }],
        alone: None,
    })
}

/// Objects of a small cluster; every one may come at any time.
fn news() -> Vec<Change> {
    let mut news = changes(3, 2, 1, 3);
    news.push(Change::Claim(allocated(1, "node-0", &["chip-0-0"])));
    news.push(Change::Claim(allocated(2, "node-0", &["module-1"])));
    news.push(Change::Claim(allocated(3, "node-1", &["chip-2-0", "chip-2-1"])));
    news.push(bound("bound-1", "node-0"));
    news.push(bound("bound-2", "node-2"));
    let of = |pod: &str| ClaimKey::Of { pod: Arc::from(pod), index: 0 };
    news.push(reservation("planned-1", "node-0", 1, of("planned-1"), plain_chips(1)));
    news.push(reservation("planned-2", "node-1", 2, of("planned-2"), whole(1)));
    // Bound already, its claim allocated elsewhere than planned.
    news.push(reservation("bound-1", "node-2", 3, ClaimKey::Uid(claim_uid(1)), plain_chips(1)));
    // Not bound, its claim allocated.
    news.push(reservation("planned-3", "node-1", 4, ClaimKey::Uid(claim_uid(3)), pair()));
    // Two that share a claim.
    news.push(reservation("planned-4", "node-2", 5, ClaimKey::Uid(claim_uid(9)), whole(1)));
    news.push(reservation("planned-5", "node-2", 6, ClaimKey::Uid(claim_uid(9)), whole(1)));
    news
}

/// Everything about a view that does not depend on the order of arrival.
fn facts(view: &mut View) -> Vec<String> {
    view.settle();
    let snapshot = serde_json::to_string(&view.snapshot().changes).unwrap();
    let mut facts = vec![format!("snapshot {:x}", crate::rendezvous::digest(snapshot.as_bytes()))];
    let specs = [whole(1), plain_chips(1), pair(), share(8 * GI, 10), even_chips(4)];
    for spec in specs {
        let spec = view.shapes.spec(&spec);
        let asked = view.shapes.asked(&[spec]);
        let form = ShapeForm { resources: Box::default(), fits: Box::default(), pods: Box::new([asked]) };
        let shape = view.refresh(&form);
        for name in view.node_names() {
            let node = view.find_node(&name).unwrap() as usize;
            let shape = view.shapes.get(shape).unwrap();
            let number = u32::try_from(node).unwrap();
            let halving = Halving { shape, sheets: &view.sheets };
            let halves: Vec<i32> =
                (0..=shape.counts[node]).map(|pods| halving.halves(number, pods)).collect();
            facts.push(format!("{name} {} {halves:?} {}", shape.counts[node], shape.empty[node]));
        }
    }
    let free = |view: &View, name: &str| {
        let node = view.node(view.find_node(&node_name(name)).unwrap()).unwrap();
        let amount = |r: &str| node.standing.free.get(view.resources.find(r).unwrap() as usize).copied();
        format!("{name} {:?} {:?} {}", amount("cpu"), amount("pods"), node.standing.crowded)
    };
    facts.extend(["node-0", "node-1", "node-2"].map(|name| free(view, name)));
    facts
}

fn view(news: &[Change]) -> View {
    let mut view = View::default();
    news.iter().cloned().for_each(|change| view.apply(change));
    view
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn news_may_come_in_any_order_and_twice(
        order in Just(news()).prop_shuffle(),
        again in proptest::collection::vec(0usize..15, 0..6),
        settle in proptest::collection::vec(0usize..15, 0..4),
    ) {
        let expected = facts(&mut view(&news()));
        let mut shuffled = View::default();
        for (number, change) in order.iter().enumerate() {
            shuffled.apply(change.clone());
            if settle.contains(&number) {
                shuffled.settle();
            }
        }
        again.iter().for_each(|number| shuffled.apply(order[*number].clone()));
        prop_assert_eq!(facts(&mut shuffled), expected);
    }

    #[test]
    fn what_came_and_went_leaves_nothing(order in Just(news()).prop_shuffle(), keep in 0usize..15) {
        let (kept, gone) = order.split_at(keep.min(order.len()));
        let mut view = view(&order);
        view.settle();
        for change in gone {
            match change.clone() {
                Change::Node(node) => view.remove_node(&node.name),
                Change::Pool(pool) => view.remove_pool(&pool.name),
                Change::Claim(claim) => view.remove_claim(&claim.uid),
                Change::Pod(pod) => view.remove_pod(&pod.uid),
                Change::Class(class) => view.remove_class(&class.name),
                Change::Reserve(reservation) => view.release(&reservation.pod),
                other => panic!("{other:?}"),
            }
        }
        let mut expected = View::default();
        // A pod that goes takes its reservation with it.
        let gone_pods: Vec<&str> = gone.iter().filter_map(|c| match c {
            Change::Pod(pod) => Some(pod.uid.as_str()),
            _ => None,
        }).collect();
        for change in kept {
            let struck = matches!(change, Change::Reserve(r) if gone_pods.contains(&&*r.pod));
            if !struck {
                expected.apply(change.clone());
            }
        }
        // What a reservation ended with is not brought back by later removals; only compare where none did.
        let ended = view.reservations().count() != expected.reservations().count();
        prop_assume!(!ended);
        let strip = |view: &mut View| { view.settle(); format!("{:?}", view.snapshot().changes) };
        prop_assert_eq!(strip(&mut view), strip(&mut expected));
    }
}

#[test]
fn reservations_give_way_to_what_they_stood_for() {
    let free = |view: &mut View, node: &str| view.free(&node_name(node)).unwrap().modules;
    let mut view = view(&changes(2, 2, 1, 2));
    let key = |pod: &str| ClaimKey::Of { pod: Arc::from(pod), index: 0 };
    view.apply(reservation("p", "node-0", 1, key("p"), whole(1)));
    assert_eq!((free(&mut view, "node-0"), free(&mut view, "node-1")), (1, 2));
    // The claim gets made, and allocated on the other node.
    view.name_claim("p", 0, &claim_uid(5));
    assert_eq!(free(&mut view, "node-0"), 1);
    view.apply(Change::Claim(allocated(5, "node-1", &["module-0"])));
    assert_eq!((free(&mut view, "node-0"), free(&mut view, "node-1")), (2, 1), "charged where it lies");
    assert_eq!(view.reserved("p"), Some(&node_name("node-0")), "its CPU is still promised");
    view.apply(bound("p", "node-1"));
    assert_eq!(view.reserved("p"), None, "nothing is left to stand for");
    view.apply(Change::PodGone("p".into()));
    view.apply(Change::ClaimGone(claim_uid(5)));
    assert_eq!((free(&mut view, "node-0"), free(&mut view, "node-1")), (2, 2));
}

#[test]
fn a_promise_that_cannot_be_kept_closes_the_node() {
    let mut view = view(&changes(1, 1, 1, 1));
    view.apply(reservation("p", "node-0", 1, ClaimKey::Uid(claim_uid(7)), whole(1)));
    view.apply(Change::Claim(allocated(1, "node-0", &["chip-0-0"])));
    view.settle();
    assert!(view.nodes[0].standing.crowded, "somebody else took a chip of its module");
    view.release("p");
    view.settle();
    assert!(!view.nodes[0].standing.crowded);
}

#[test]
fn pools_move_and_change_their_order() {
    let mut view = view(&changes(1, 1, 1, 2));
    let node = node("node-0", "leaf-0", "pod-0");
    view.apply(Change::Claim(allocated(1, "node-0", &["chip-1-0"])));
    assert_eq!(view.free(&node.name).unwrap(), Free { modules: 1, halves: 1, chips: 0 });
    view.apply(Change::Pool(modules(&node, &[1, 0])));
    assert_eq!(view.free(&node.name).unwrap(), Free { modules: 1, halves: 1, chips: 0 }, "holds go by name");
    view.remove_pool(&PoolName::new("node-0/ascend").unwrap());
    assert_eq!(view.free(&node.name).unwrap(), Free::default());
    view.apply(Change::Pool(modules(&node, &[0, 1])));
    assert_eq!(view.free(&node.name).unwrap().halves, 1, "the claim was there all the time");
    view.apply(Change::Class(Class { name: "npu.vnpu.dev".into(), selectors: vec![] }));
    assert_eq!(view.version(), view.hardware);
}

#[test]
fn pods_that_share_a_claim_are_one_unit() {
    let mut view = view(&changes(2, 2, 1, 2));
    let mut batch = batch("b", 4, whole(1));
    let share = |uid: u64| {
        let mut demand = demand(vec![whole(1)]);
        demand.claims[0].uid = Some(claim_uid(uid));
        demand.claims[0].shared = true;
        Arc::new(demand)
    };
    batch.members[0].demand = share(1);
    batch.members[2].demand = share(1);
    let units = units::units(&mut view, &batch, &[3, 2, 1, 0]);
    let members: Vec<_> = units.iter().map(|unit| unit.members.clone()).collect();
    assert_eq!(members, [vec![0, 2], vec![1], vec![3]]);
    // Once it is allocated its node is fixed, and it costs nothing more.
    view.apply(Change::Claim(allocated(1, "node-1", &["module-0"])));
    let units = units::units(&mut view, &batch, &[0, 1, 2, 3]);
    assert_eq!(units.len(), 4);
    assert_eq!(units[0].fixed, view.find_node(&node_name("node-1")));
    assert!(!units[0].torn && view.shapes.specs(units[0].form.pods[0]).is_empty());
}
