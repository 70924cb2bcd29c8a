//! Drawings of whole clusters, and what their numbers mean.

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};

use super::super::detail;
use super::*;
use crate::devices;
use crate::objects::{self, Hardware, PLAIN, bank, claim};

fn nodes(slices: &[ResourceSlice], claims: &[ResourceClaim]) -> Vec<Node> {
    let holders: Vec<_> = claims.iter().filter_map(devices::holder).collect();
    devices::nodes(slices, &holders, &[])
}

fn bank_nodes() -> Vec<Node> {
    let (slices, claims) = bank();
    nodes(&slices, &claims)
}

fn documented(text: &str) {
    let documentation = include_str!("../../../../../docs/kubectl.md");
    assert!(documentation.contains(text), "docs/kubectl.md shows what is printed:\n{text}");
}

#[test]
fn a_cluster_is_a_line_for_each_node() {
    let text = table(&bank_nodes(), &Strokes::ASCII, false);
    insta::assert_snapshot!(text);
    documented(&text);
}

#[test]
fn terminals_of_today_get_bars_and_whoever_asks_gets_more_columns() {
    insta::assert_snapshot!(table(&bank_nodes(), &Strokes::UNICODE, true));
}

#[test]
fn single_nodes_are_shown_chip_by_chip() {
    let named = |node: &Node| ["node-1", "node-3", "gpu-1"].contains(&node.name.as_str());
    let mut nodes: Vec<Node> = bank_nodes().into_iter().filter(named).collect();
    insta::assert_snapshot!(detail::nodes(&nodes));
    nodes.retain(|node| node.name == "node-1");
    documented(&detail::nodes(&nodes));
}

#[test]
fn json_has_everything() {
    let nodes: Vec<Node> = bank_nodes().into_iter().filter(|node| node.name == "gpu-1").collect();
    let mut value = json(&nodes);
    let modules = value["nodes"][0]["pools"][0]["modules"].as_array_mut().unwrap();
    assert_eq!(modules.len(), 8);
    modules.truncate(2);
    insta::assert_snapshot!(serde_json::to_string_pretty(&value).unwrap());
}

#[test]
fn sixty_four_nodes_are_sixty_four_lines_no_wider_than_a_terminal() {
    let mut slices = Vec::new();
    for number in 0..64 {
        let (node, leaf) = (format!("worker-{number}"), format!("leaf-{}", number / 8));
        slices.extend(objects::slices(&Hardware { node: &node, leaf: &leaf, superpod: "sp-0", ..PLAIN }));
    }
    let text = table(&nodes(&slices, &[]), &Strokes::ASCII, false);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.iter().filter(|line| line.starts_with("worker-")).count(), 64);
    assert!(lines.iter().all(|line| line.chars().count() <= 120), "{text}");
    let last = "ascend 910C: 64 nodes, 512 of 512 modules free and 0 half free; 1024 of 1024 chips free; 65536 of \
                65536Gi memory free";
    assert_eq!(lines.last(), Some(&last));
}

#[test]
fn parts_of_gpus_have_a_column_where_there_are_some() {
    let (slices, claims) = objects::mixed();
    let nodes = nodes(&slices, &claims);
    let text = table(&nodes, &Strokes::ASCII, false);
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
    let cells = |start: &str| line(start).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(cells("NODE")[5..8], ["CHIPS", "PARTS", "MEMORY"], "{text}");
    assert_eq!(cells("gpu-2")[5..8], ["1/1", "2/3", "130/140Gi"], "{text}");
    assert_eq!(cells("gpu-1")[5..7], ["6/8", "-"], "{text}");
    let last = "nvidia H100 1g.10gb: 1 node, 1 of 2 partitions free; 10 of 20Gi memory free";
    assert_eq!(line("nvidia H100 1g"), last);
}

#[test]
fn a_chip_is_as_full_as_its_fuller_dimension() {
    let slices = objects::slices(&Hardware { node: "n", cards: 1, ..PLAIN });
    for (memory, cores, drawn, state) in [
        (1, 1, '1', State::Shared(1)),
        (32, 10, '5', State::Shared(50)),
        (6, 89, '9', State::Shared(89)),
        (63, 1, '9', State::Shared(98)),
        (64, 10, '#', State::Full),
        (1, 100, '#', State::Full),
    ] {
        let claims = [claim("a/b", None, "n/ascend", &[("chip-0-1", Some((memory, cores)))])];
        let nodes = nodes(&slices, &claims);
        let module = &nodes[0].pools[0].modules[0];
        assert_eq!(module.chips[1].state(), state, "{memory} {cores}");
        assert_eq!(Strokes::ASCII.module(module), format!(".{drawn}"));
        let totals = Totals::of(&nodes[0].pools);
        assert_eq!((totals.free_modules, totals.half_modules, totals.free_chips), (0, 1, 1));
        let left = if state == State::Full { 64 } else { 128 - memory };
        assert_eq!(totals.free_memory, left << 30);
    }
}

#[test]
fn administrative_access_takes_nothing_and_other_drivers_are_not_seen() {
    let slices = objects::slices(&Hardware { node: "n", cards: 1, ..PLAIN });
    let mut looks = claim("a/b", None, "n/ascend", &[("module-0", None)]);
    let mut other = looks.clone();
    for (claim, driver, admin) in [(&mut looks, "vnpu.dev", true), (&mut other, "gpu.example.com", false)] {
        let allocation = claim.status.as_mut().unwrap().allocation.as_mut().unwrap();
        for result in allocation.devices.as_mut().unwrap().results.as_mut().unwrap() {
            result.driver = driver.to_owned();
            result.admin_access = Some(admin);
        }
    }
    assert_eq!(Totals::of(&nodes(&slices, &[looks, other])[0].pools).free_modules, 1);
}

#[test]
fn a_pool_that_is_being_rewritten_says_so() {
    let mut slices = objects::slices(&Hardware { node: "n", cards: 1, ..PLAIN });
    slices.retain(|slice| slice.spec.devices.is_some());
    let nodes = nodes(&slices, &[]);
    assert!(nodes[0].pools[0].incomplete);
    assert!(table(&nodes, &Strokes::ASCII, false).contains("n/ascend: slices are missing"));
}
