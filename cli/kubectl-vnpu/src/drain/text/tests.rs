//! What is said of drains.

use serde_json::json;
use vnpu_driver::slices::TaintEffect::{NoExecute, NoSchedule};

use super::super::{plan, target};
use super::*;
use crate::devices;
use crate::objects::bank;

/// `node-1` of the bank, where one claim tolerates eviction, and one for some time.
fn node(name: &str) -> Node {
    let (slices, mut claims) = bank();
    for (claim, seconds) in [("infer-a", None), ("infer-b", Some(60))] {
        let toleration = json!({"key": "vnpu.dev/drain", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": seconds});
        let claim = claims.iter_mut().find(|c| c.metadata.name.as_deref() == Some(claim)).unwrap();
        let allocation = claim.status.as_mut().unwrap().allocation.as_mut().unwrap();
        let results = allocation.devices.as_mut().unwrap().results.as_mut().unwrap();
        results[0].tolerations = Some(vec![serde_json::from_value(toleration).unwrap()]);
    }
    let holders: Vec<_> = claims.iter().filter_map(devices::holder).collect();
    devices::nodes(&slices, &holders, &[]).into_iter().find(|node| node.name == name).unwrap()
}

fn targets(node: &Node, names: &[&str]) -> Vec<Target> {
    names.iter().map(|name| target::resolve(name, node, &Rules::new()).unwrap()).collect()
}

#[test]
fn a_drain_says_who_stays() {
    let node = node("node-1");
    let targets = targets(&node, &["chip-4-0", "module-2", "chip-7-0"]);
    let wanted = plan::drained(&Rules::new(), &targets, NoSchedule);
    let text = drain(&node, &targets, &Rules::new(), &wanted, false);
    insta::assert_snapshot!(text);
    let documentation = include_str!("../../../../../docs/kubectl.md");
    assert!(documentation.contains(&text), "docs/kubectl.md shows what is printed");
}

#[test]
fn a_drain_with_eviction_says_who_goes() {
    let node = node("node-1");
    let targets = targets(&node, &["module-4", "module-5", "chip-6-0"]);
    let wanted = plan::drained(&Rules::new(), &targets, NoExecute);
    insta::assert_snapshot!(drain(&node, &targets, &Rules::new(), &wanted, true));
}

#[test]
fn a_claim_goes_when_the_first_of_its_devices_makes_it_go() {
    let mut node = node("node-1");
    let chips = &mut node.pools[0].modules[6].chips;
    for (chip, tolerance) in chips.iter_mut().zip([Tolerance::Forever, Tolerance::Seconds(5)]) {
        chip.held[0].pods = vec!["idle-0".to_owned()];
        chip.held[0].tolerance = tolerance;
    }
    let targets = targets(&node, &["module-6"]);
    let wanted = plan::drained(&Rules::new(), &targets, NoExecute);
    let text = drain(&node, &targets, &Rules::new(), &wanted, true);
    assert!(text.contains("risk/idle  risk/idle-0  64Gi 20%  evicted after 5 s"), "{text}");
}

#[test]
fn coming_back_says_what_still_keeps_claims_away() {
    let node = node("node-3");
    let both = targets(&node, &["chip-6-0", "chip-6-1"]);
    let wanted = plan::drained(&Rules::new(), &both, NoSchedule);
    let objects: Vec<_> =
        wanted.iter().map(|(place, effect)| super::super::rule::object(place, *effect)).collect();
    let rules = super::super::rule::own(&objects);
    let say = |names: &[&str], dry_run: bool| {
        let targets = targets(&node, names);
        undrain(&node, &targets, &rules, &plan::returned(&rules, &targets), dry_run)
    };
    assert_eq!(
        say(&["chip-6-0"], false),
        "node-3/ascend:chip-6-0 is back in service\n  module-6 is not given out whole: its other chip is drained\n"
    );
    assert_eq!(
        say(&["module-6"], true),
        "node-3/ascend:module-6 would be back in service\n  chip-6-1 still has the taint \
         vnpu.dev/unhealthy=unhealthy:NoSchedule\n"
    );
    assert_eq!(say(&["chip-1-0"], false), "node-3/ascend:chip-1-0 was not drained\n");
    let again = drain(&node, &both, &rules, &wanted, false);
    assert!(again.starts_with("node-3/ascend:chip-6-0 was drained already; module-6"), "{again}");
}
