//! What the desk knows of the room there is.

use serde_json::json;

use vnpu_driver::slices::TaintEffect;
use vnpu_kube_types::taint_rule::TaintRule;

use super::super::*;
use super::bench::{Bench, object};
use crate::observe::{claim, node, slice};

/// What the node plugin publishes is what the planner understands.
#[test]
fn slices_of_the_node_plugin_are_understood() {
    use vnpu_driver::hardware::{Chip, Health, Inventory, MultiDiePolicy, PciAddress, Traits, Vendor};
    use vnpu_driver::id::DeviceUuid;
    use vnpu_driver::planner::{NodeLabels, PlanInput, plan_pool};
    use vnpu_driver::quantity::Bytes;
    use vnpu_kube_types::slice::{NodeOwner, resource_slices};

    let mut bench = Bench::new(0, 0);
    let chip = |card: u32, die: u32| Chip {
        card,
        die,
        uuid: DeviceUuid::new(format!("VDIE-{card}-{die}")).unwrap(),
        module: Some(card),
        model: "910C".to_owned(),
        product_name: "Stand-in".to_owned(),
        memory: Bytes::gib(64),
        phys_id: card * 2 + die,
        pci: Some(PciAddress { domain: 0, bus: 1, device: 0, function: 0 }),
        numa_node: Some(0),
        pcie_root: Some("pci0000:01".to_owned()),
        health: Health::Healthy,
        traits: Traits::default(),
    };
    let inventory = Inventory {
        vendor: Vendor::Ascend,
        chips: (0..8).flat_map(|card| [chip(card, 0), chip(card, 1)]).collect(),
        multi_die_policy: MultiDiePolicy::Independent,
        driver_version: "25.0.rc1".to_owned(),
        cuda_version: String::new(),
        superpod: None,
        problems: Vec::new(),
    };
    let owner = NodeOwner { name: NodeName::new("node-7").unwrap(), uid: "u".to_owned() };
    let plan = plan_pool(&PlanInput {
        node: &owner.name,
        inventory: &inventory,
        labels: &NodeLabels::default(),
        in_use: &BTreeSet::new(),
        vanished: &[],
        sick: &BTreeMap::new(),
        order: &BTreeMap::new(),
    })
    .unwrap();
    // It is there before it says what it has.
    let empty = json!({"metadata": {"name": "node-7"}});
    bench.tell(Change::Node(node::read(&object(empty)).unwrap()));
    bench.pod("early", "");
    bench.settle();
    bench.tell(Change::PodGone("early".to_owned()));
    let node = json!({
        "metadata": {"name": "node-7", "labels": {"fleet": "x"}},
        "spec": {"taints": [{"key": "fleet", "value": "x", "effect": "NoSchedule"}]},
        "status": {"allocatable": {"cpu": "256", "memory": "2Ti", "pods": "1000"}},
    });
    bench.tell(Change::Node(node::read(&object(node)).unwrap()));
    for (at, mut slice) in resource_slices(&plan, &owner, 1).into_iter().enumerate() {
        slice.metadata.name = Some(format!("slice-{at}"));
        let change = bench.slices.put(slice::read(&slice).unwrap());
        bench.tell(Change::Pool(change));
    }
    bench.pod("a", "");
    let mut pod = bench.pods["a"].clone();
    pod["spec"]["nodeSelector"] = json!({"fleet": "x"});
    pod["spec"]["tolerations"] = json!([{"key": "fleet", "operator": "Exists"}]);
    bench.put("a", pod);
    assert_eq!(bench.settle().len(), 1, "{:?}", bench.told);
}

#[test]
fn what_an_administrators_rule_taints_goes_only_to_claims_that_tolerate_it() {
    let mut bench = Bench::new(1, 2);
    let rule = TaintRule {
        name: "drain".to_owned(),
        pool: Some("node-0/ascend".to_owned()),
        device: None,
        key: "vnpu.dev/drain".to_owned(),
        value: String::new(),
        effect: TaintEffect::NoSchedule,
    };
    for change in bench.slices.put_rule(rule) {
        bench.tell(Change::Pool(change));
    }
    let exactly = json!({"deviceClassName": "npu-module.vnpu.dev", "count": 1,
        "tolerations": [{"key": "vnpu.dev/drain", "operator": "Exists"}]});
    let spec = json!({"devices": {"requests": [{"name": "m", "exactly": exactly}]}});
    let spec = Arc::new(claim::spec(&object(spec)));
    bench.tell(Change::Template(("bank".to_owned(), "tolerant".to_owned()), spec));
    bench.pod("tolerant", "");
    let mut pod = bench.pods["tolerant"].clone();
    pod["spec"]["resourceClaims"][0]["resourceClaimTemplateName"] = json!("tolerant");
    bench.put("tolerant", pod);
    bench.pod("other", "");
    assert_eq!(bench.settle().keys().collect::<Vec<_>>(), ["tolerant"], "{:?}", bench.told);
    for change in bench.slices.remove_rule("drain") {
        bench.tell(Change::Pool(change));
    }
    assert_eq!(bench.settle().keys().collect::<Vec<_>>(), ["other"], "{:?}", bench.told);
}
