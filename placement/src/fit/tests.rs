use std::collections::BTreeMap;

use vnpu_driver::id::NodeName;

use super::*;
use crate::resources::Resources;

fn node() -> Node {
    Node {
        name: NodeName::new("n1").unwrap(),
        labels: BTreeMap::from([("zone".into(), "a".into()), ("rack".into(), "7".into())]),
        taints: vec![],
        unschedulable: false,
        allocatable: Resources::default(),
    }
}

fn require(key: &str, operator: Operator, values: &[&str]) -> Requirement {
    Requirement { key: key.into(), operator, values: values.iter().map(|v| (*v).to_owned()).collect() }
}

#[test]
fn affinity_and_selectors() {
    use Operator::{DoesNotExist, Exists, Gt, In, Lt, NotIn};
    for (requirement, expected) in [
        (require("zone", In, &["a", "b"]), true),
        (require("zone", In, &["b"]), false),
        (require("zone", NotIn, &["b"]), true),
        (require("absent", NotIn, &["b"]), true),
        (require("zone", Exists, &[]), true),
        (require("absent", Exists, &[]), false),
        (require("absent", DoesNotExist, &[]), true),
        (require("rack", Gt, &["6"]), true),
        (require("rack", Lt, &["6"]), false),
        (require("zone", Gt, &["6"]), false),
        (require("metadata.name", In, &["n1"]), true),
        (require("metadata.name", In, &["n2"]), false),
    ] {
        let fit = NodeFit { terms: vec![vec![requirement.clone()]], ..NodeFit::default() };
        assert_eq!(fits(&fit, &node()), expected, "{requirement:?}");
    }
    let either = vec![vec![require("zone", In, &["b"])], vec![require("rack", Exists, &[])]];
    assert!(fits(&NodeFit { terms: either, ..NodeFit::default() }, &node()), "one term is enough");
    assert!(
        !fits(&NodeFit { terms: vec![vec![]], ..NodeFit::default() }, &node()),
        "an empty term matches nothing"
    );
    let selector =
        |v: &str| NodeFit { labels: [("zone".to_owned(), v.to_owned())].into(), ..NodeFit::default() };
    assert!(fits(&selector("a"), &node()) && !fits(&selector("b"), &node()));
}

#[test]
fn taints_and_tolerations() {
    let taint =
        |value: &str| NodeTaint { key: "npu".into(), value: value.into(), effect: "NoSchedule".into() };
    let tolerate = |key: &str, value: Option<&str>, effect: &str| Toleration {
        key: key.into(),
        value: value.map(str::to_owned),
        effect: effect.into(),
    };
    for (toleration, expected) in [
        (tolerate("npu", Some("x"), ""), true),
        (tolerate("npu", Some("y"), ""), false),
        (tolerate("npu", None, "NoSchedule"), true),
        (tolerate("npu", None, "NoExecute"), false),
        (tolerate("", None, ""), true),
        (tolerate("gpu", None, ""), false),
    ] {
        assert_eq!(tolerates(std::slice::from_ref(&toleration), &taint("x")), expected, "{toleration:?}");
    }
    let cordoned = Node { unschedulable: true, ..node() };
    assert_eq!(refusal(&NodeFit::default(), &cordoned), Some("unschedulable"));
    let tolerant = NodeFit { tolerations: vec![tolerate("", None, "")], ..NodeFit::default() };
    assert!(fits(&tolerant, &cordoned));
}
