//! Tables of whole clusters, and what their numbers mean.

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};

use super::*;
use crate::devices;
use crate::objects::{self, GPUS, Hardware, PLAIN, claim, mixed};

fn nodes(slices: &[ResourceSlice], claims: &[ResourceClaim]) -> Vec<Node> {
    let holders: Vec<_> = claims.iter().filter_map(devices::holder).collect();
    devices::nodes(slices, &holders, &[])
}

fn mixed_nodes() -> Vec<Node> {
    let (slices, claims) = mixed();
    nodes(&slices, &claims)
}

/// The sums of the only kind.
fn only(slices: &[ResourceSlice], claims: &[ResourceClaim]) -> Totals {
    let nodes = nodes(slices, claims);
    let stocks = kinds(&nodes);
    assert_eq!(stocks.len(), 1, "{stocks:?}");
    stocks[0].totals
}

#[test]
fn kinds_of_several_vendors_are_one_table() {
    let text = table(&mixed_nodes(), false);
    insta::assert_snapshot!(text);
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    let documentation = include_str!("../../../../../docs/kubectl.md");
    assert!(documentation.contains(&text), "docs/kubectl.md shows what is printed");
}

#[test]
fn whoever_asks_gets_more_columns() {
    insta::assert_snapshot!(table(&mixed_nodes(), true));
}

#[test]
fn json_has_everything_under_stable_names() {
    let nodes: Vec<Node> =
        mixed_nodes().into_iter().filter(|n| ["gpu-2", "node-3"].contains(&&*n.name)).collect();
    insta::assert_snapshot!(serde_json::to_string_pretty(&json(&nodes)).unwrap());
}

#[test]
fn a_share_leaves_the_rest_of_its_chip_and_a_full_chip_leaves_nothing() {
    let slices = objects::slices(&Hardware { node: "n", cards: 1, ..PLAIN });
    for (memory, cores, left) in [(16, 25, (48, 75)), (1, 1, (63, 99)), (64, 10, (0, 0)), (1, 100, (0, 0))] {
        let held = [claim("a/b", None, "n/ascend", &[("chip-0-1", Some((memory, cores)))])];
        let totals = only(&slices, &held);
        assert_eq!(
            (totals.free_memory >> 30, totals.free_cores),
            (64 + left.0, 100 + left.1),
            "{memory} {cores}"
        );
        assert_eq!(
            (totals.memory >> 30, totals.cores, totals.shares),
            (128, 200, u64::from(cores < 100 || memory < 64))
        );
        assert_eq!((totals.free_modules, totals.half_modules, totals.free_chips, totals.chips), (0, 1, 1, 2));
    }
}

#[test]
fn the_mate_of_a_sick_or_dead_die_is_half_a_module_and_no_whole_one() {
    let plain = Hardware { node: "n", cards: 2, ..PLAIN };
    let sick = only(&objects::slices(&Hardware { sick: &["chip-1-0"], ..plain }), &[]);
    assert_eq!((sick.modules, sick.free_modules, sick.half_modules, sick.free_chips), (2, 1, 1, 3));
    assert_eq!((sick.chips, sick.sick, sick.gone, sick.cores, sick.free_cores), (4, 1, 0, 400, 300));
    let dead = only(&objects::slices(&Hardware { dead: &[(1, 0)], ..plain }), &[]);
    assert_eq!((dead.modules, dead.free_modules, dead.half_modules, dead.free_chips), (2, 1, 1, 3));
    assert_eq!((dead.chips, dead.sick, dead.gone, dead.cores, dead.free_cores), (3, 0, 1, 300, 300));
}

#[test]
fn a_module_that_no_claim_can_get_whole_is_not_free() {
    let mut slices = objects::slices(&Hardware { node: "n", cards: 1, ..PLAIN });
    assert_eq!(only(&slices, &[]).free_modules, 1);
    let devices = slices.iter_mut().flat_map(|slice| slice.spec.devices.iter_mut().flatten());
    let module = devices.filter(|device| device.name == "module-0");
    let taint = serde_json::json!({"key": "example.com/no", "effect": "NoSchedule"});
    module.for_each(|device| device.taints = Some(vec![serde_json::from_value(taint.clone()).unwrap()]));
    let totals = only(&slices, &[]);
    assert_eq!((totals.free_modules, totals.half_modules, totals.free_chips, totals.sick), (0, 0, 2, 0));
}

#[test]
fn parts_of_a_gpu_are_counted_by_profile_and_are_no_chips() {
    let parts = [(0, "1g.10gb", 10, 14), (0, "1g.10gb", 10, 14), (0, "", 20, 28)];
    let slices =
        objects::slices(&Hardware { node: "n", cards: 2, parts: &parts, sick: &["partition-0-2-0"], ..GPUS });
    let held = [claim("a/b", None, "n/nvidia", &[("partition-0-1-0", None)])];
    let nodes = nodes(&slices, &held);
    let stocks = kinds(&nodes);
    let names: Vec<String> = stocks.iter().map(|stock| stock.kind.to_string()).collect();
    assert_eq!(names, ["nvidia H100", "nvidia H100 1g.10gb", "nvidia H100 partition"]);
    let [whole, small, unnamed] = &stocks[..] else { panic!("{stocks:?}") };
    assert_eq!((whole.totals.chips, whole.totals.partitions, whole.sharing()), (1, 0, Sharing::Held));
    let sums = |stock: &Stock<'_>| {
        let Totals { chips, partitions, free_partitions, sick, cores, free_cores, .. } = stock.totals;
        (chips, partitions, free_partitions, sick, cores, free_cores)
    };
    assert_eq!((sums(small), small.sharing()), ((0, 2, 0, 1, 28, 0), Sharing::Whole));
    assert_eq!(sums(unnamed), (0, 1, 1, 0, 28, 28));
    assert_eq!(nodes[0].pools[0].model, "H100");
}

#[test]
fn sizes_of_one_model_are_one_kind_and_models_of_one_node_are_several() {
    let of = |node: &'static str, model: &'static str, memory: u64| {
        objects::slices(&Hardware { node, model, memory, cards: 1, ..GPUS })
    };
    let slices = [of("a", "A100", 40), of("b", "A100", 80), of("c", "L40", 48)].concat();
    let all = nodes(&slices, &[]);
    let text = table(&all, true);
    assert!(text.contains("40Gi,80Gi"), "{text}");
    assert_eq!(kinds(&all).len(), 2);
    // The same devices in one pool.
    let mut one = of("a", "A100", 40);
    let mut other = of("a", "L40", 48);
    for device in other.iter_mut().flat_map(|slice| slice.spec.devices.iter_mut().flatten()) {
        device.name = "chip-1-0".to_owned();
    }
    one[0].spec.devices.as_mut().unwrap().append(other[0].spec.devices.as_mut().unwrap());
    let mixed = nodes(&one, &[]);
    assert_eq!(kinds(&mixed).len(), 2);
    assert_eq!(mixed[0].pools[0].model, "A100,L40");
}

#[test]
fn devices_that_go_whole_only_say_so_and_some_that_do_are_counted() {
    let whole = Hardware { node: "a", vendor: "acme", cards: 2, whole_only: true, ..GPUS };
    let shared = Hardware { node: "b", whole_only: false, ..whole };
    let word = |slices: &[ResourceSlice]| sharing(&kinds(&nodes(slices, &[]))[0]);
    assert_eq!(word(&objects::slices(&whole)), "whole");
    assert_eq!(word(&objects::slices(&shared)), "counted");
    assert_eq!(word(&[objects::slices(&whole), objects::slices(&shared)].concat()), "counted 2/4");
    assert_eq!(word(&objects::slices(&Hardware { node: "c", ..PLAIN })), "held");
}

#[test]
fn a_pool_that_is_being_rewritten_says_so() {
    let mut slices = objects::slices(&Hardware { node: "n", cards: 1, ..PLAIN });
    slices.retain(|slice| slice.spec.devices.is_some());
    let nodes = nodes(&slices, &[]);
    assert!(table(&nodes, false).contains("n/ascend: slices are missing"));
    assert_eq!(json(&nodes)["incomplete"], serde_json::json!(["n/ascend"]));
}
