//! What rules make of pools.

use serde_json::{Value, json};
use vnpu_driver::slices::TaintEffect;

use super::*;

fn slice(node: &str) -> Slice {
    let pool = json!({"name": format!("{node}/ascend"), "generation": 1, "resourceSliceCount": 1});
    let taints = json!([{"key": "own", "effect": "NoSchedule"}, {"key": "dry", "effect": "None"}]);
    let devices: Value =
        json!([{"name": "module-0"}, {"name": "chip-0-0", "taints": taints}, {"name": "chip-0-1"}]);
    let object = json!({"metadata": {"name": format!("slice-{node}")},
        "spec": {"driver": "vnpu.dev", "nodeName": node, "pool": pool, "devices": devices}});
    read(&serde_json::from_value(object).unwrap()).unwrap()
}

fn rule(name: &str, pool: Option<&str>, device: Option<&str>) -> TaintRule {
    TaintRule {
        name: name.to_owned(),
        pool: pool.map(str::to_owned),
        device: device.map(str::to_owned),
        key: "rule".to_owned(),
        value: "hot".to_owned(),
        effect: TaintEffect::NoExecute,
    }
}

/// `pool/device=keys` of all that is tainted.
fn tainted(changes: &[PoolChange]) -> Vec<String> {
    let pools = changes.iter().map(|change| match change {
        PoolChange::Known(pool) => pool,
        other => panic!("{other:?}"),
    });
    pools
        .flat_map(|pool| {
            let tainted = pool.devices.iter().filter(|device| !device.taints.is_empty());
            tainted.map(|device| {
                let keys: Vec<&str> = device.taints.iter().map(|taint| taint.key.as_str()).collect();
                format!("{} {} {}", pool.node, device.name, keys.join("+"))
            })
        })
        .collect()
}

#[test]
fn rules_taint_the_devices_that_they_name_whatever_comes_first() {
    let mut slices = Slices::default();
    assert!(slices.put_rule(rule("late", Some("a/ascend"), Some("chip-0-0"))).is_empty());
    assert_eq!(tainted(&[slices.put(slice("a"))]), ["a chip-0-0 own+rule"]);
    assert_eq!(tainted(&[slices.put(slice("b"))]), ["b chip-0-0 own"]);
    let changes = slices.put_rule(rule("module", Some("b/ascend"), Some("module-0")));
    assert_eq!(tainted(&changes), ["b module-0 rule", "b chip-0-0 own"], "one pool, and not the other");
    let PoolChange::Known(pool) = &changes[0] else { panic!() };
    let taint = NodeTaint { key: "rule".to_owned(), value: "hot".to_owned(), effect: "NoExecute".to_owned() };
    assert_eq!(pool.devices[0].taints, [taint]);
    let everywhere = slices.put_rule(rule("everywhere", None, Some("chip-0-1")));
    assert_eq!(
        tainted(&everywhere),
        ["a chip-0-0 own+rule", "a chip-0-1 rule", "b module-0 rule", "b chip-0-0 own", "b chip-0-1 rule"]
    );
}

#[test]
fn a_rule_that_changes_or_goes_lets_go_of_what_it_named() {
    let mut slices = Slices::default();
    slices.put(slice("a"));
    slices.put(slice("b"));
    slices.put_rule(rule("r", Some("a/ascend"), None));
    let moved = slices.put_rule(rule("r", Some("b/ascend"), Some("chip-0-1")));
    assert_eq!(tainted(&moved), ["a chip-0-0 own", "b chip-0-0 own", "b chip-0-1 rule"]);
    let same = slices.put_rule(rule("r", Some("b/ascend"), Some("chip-0-1")));
    assert!(same.is_empty(), "only its status changed");
    assert_eq!(tainted(&slices.remove_rule("r")), ["b chip-0-0 own"]);
    assert!(slices.remove_rule("r").is_empty());
}
