//! What names mean.

use super::super::rule::{self, Rules};
use super::*;
use crate::devices;
use crate::objects::{self, GPUS, Hardware, PLAIN};
use vnpu_driver::slices::TaintEffect;

/// A node with modules, of which one has a dead die, and with GPUs, of which one is in parts.
fn node() -> Node {
    let modules = Hardware { node: "node-1", cards: 4, dead: &[(3, 0)], ..PLAIN };
    let parts = [(5, "1g.10gb", 10, 14), (5, "1g.10gb", 10, 14)];
    let gpus = Hardware { node: "node-1", cards: 6, parts: &parts, ..GPUS };
    let slices = [objects::slices(&modules), objects::slices(&gpus)].concat();
    devices::nodes(&slices, &[], &[]).remove(0)
}

fn rules(places: &[(&str, &str)]) -> Rules {
    let places = places.iter().map(|(pool, device)| ((*pool).to_owned(), (*device).to_owned()));
    let objects: Vec<_> = places.map(|place| rule::object(&place, TaintEffect::NoSchedule)).collect();
    rule::own(&objects)
}

/// `pool:device chips module` of what is meant, or why not.
fn meant(text: &str, rules: &Rules) -> String {
    match resolve(text, &node(), rules) {
        Ok(Target { pool, device, chips, module }) => {
            format!("{pool}:{device} {} {}", chips.join("+"), module.unwrap_or_default())
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_name_is_a_chip_with_its_module_a_module_with_its_chips_or_a_part() {
    for (text, expected) in [
        ("chip-3-1", "node-1/ascend:chip-3-1 chip-3-1 module-3"),
        ("module-2", "node-1/ascend:module-2 chip-2-0+chip-2-1 module-2"),
        // A dead die may come back.
        ("module-3", "node-1/ascend:module-3 chip-3-0+chip-3-1 module-3"),
        ("chip-4-0", "node-1/nvidia:chip-4-0 chip-4-0 "),
        ("partition-5-2-0", "node-1/nvidia:partition-5-2-0 partition-5-2-0 "),
        ("node-1/nvidia:chip-0-0", "node-1/nvidia:chip-0-0 chip-0-0 "),
        ("node-1/ascend:chip-0-0", "node-1/ascend:chip-0-0 chip-0-0 module-0"),
    ] {
        assert_eq!(meant(text, &Rules::new()), expected, "{text}");
    }
}

#[test]
fn a_module_that_goes_whole_only_is_drained_with_the_chips_that_it_would_have() {
    let mut node = node();
    for chip in &mut node.pools[0].modules[1].chips {
        chip.device = "module-1".to_owned();
    }
    let target = resolve("module-1", &node, &Rules::new()).unwrap();
    assert_eq!(
        (target.chips.join("+"), target.module.as_deref()),
        ("chip-1-0+chip-1-1".to_owned(), Some("module-1"))
    );
    assert!(matches!(
        resolve("node-1/ascend:chip-1-0", &node, &Rules::new()),
        Err(TargetError::Unknown { .. })
    ));
}

#[test]
fn what_is_not_clear_says_what_to_write() {
    for (text, expected) in [
        (
            "chip-0-0",
            "chip-0-0 is in several pools of node-1: write node-1/ascend:chip-0-0 or node-1/nvidia:chip-0-0",
        ),
        ("chip-9-0", "node-1 publishes no chip-9-0; `kubectl vnpu get nodes node-1` shows what it has"),
        ("chip-5-0", "chip-5-0 of node-1/nvidia is in parts: name partition-5-1-0, partition-5-2-0"),
        ("node-2/ascend:chip-0-0", "node-1 has no pool node-2/ascend: it has node-1/ascend, node-1/nvidia"),
        (
            "node-1/nvidia:module-0",
            "node-1 publishes no module-0; `kubectl vnpu get nodes node-1` shows what it has",
        ),
    ] {
        assert_eq!(meant(text, &Rules::new()), expected, "{text}");
    }
    let error = meant("gpu0", &Rules::new());
    assert!(error.contains("chip-<card>-<die>"), "{error}");
}

#[test]
fn what_has_rules_is_known_although_nobody_publishes_it() {
    let rules = rules(&[
        ("node-1/ascend", "chip-9-1"),
        ("node-1/ascend", "module-9"),
        ("node-1/acme", "chip-7-0"),
        ("node-10/acme", "chip-8-0"),
    ]);
    assert_eq!(meant("chip-9-1", &rules), "node-1/ascend:chip-9-1 chip-9-1 module-9");
    assert_eq!(meant("module-9", &rules), "node-1/ascend:module-9 chip-9-1 module-9");
    assert_eq!(meant("chip-7-0", &rules), "node-1/acme:chip-7-0 chip-7-0 ");
    assert!(meant("chip-8-0", &rules).starts_with("node-1 publishes no chip-8-0"));
}
