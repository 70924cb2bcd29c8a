//! What every backend promises, as a test of any of them: run it on yours over healthy hardware
//! (docs/adding-a-vendor.md says the rest, which needs hardware that misbehaves).

use std::collections::{BTreeMap, BTreeSet};

use vnpu_driver::id::NodeName;
use vnpu_driver::planner::{NodeLabels, PlanInput, plan_pool};
use vnpu_driver::quantity::Bytes;

use crate::backend::Backend;

/// Panics at the first promise that is broken. The hardware must be healthy, without problems and at rest.
pub(crate) fn keep(backend: &dyn Backend) {
    let inventory = backend.discover().expect("hardware that can be looked at");
    assert_eq!(inventory.vendor, backend.vendor(), "an inventory is its backend's");
    assert_eq!(inventory.problems, [], "the hardware of this test is healthy");
    assert!(!inventory.chips.is_empty(), "the hardware of this test has chips");
    assert_eq!(backend.discover().as_ref(), Ok(&inventory), "the same hardware gives the same inventory");

    let uuids: BTreeSet<_> = inventory.chips.iter().map(|chip| &chip.uuid).collect();
    let names: BTreeSet<_> = inventory.chips.iter().map(|chip| chip.name()).collect();
    assert_eq!(
        (uuids.len(), names.len()),
        (inventory.chips.len(), inventory.chips.len()),
        "identities are unique"
    );
    for chip in &inventory.chips {
        assert!(chip.memory > Bytes(0), "{}: memory is never guessed and never 0", chip.name());
        let edits = backend.edits(std::slice::from_ref(chip)).expect("edits of a chip that is there");
        assert!(!edits.device_nodes.is_empty(), "{}: a chip without a device node is of no use", chip.name());
        for node in &edits.device_nodes {
            assert!(node.container_path.starts_with("/dev"), "{node:?}: containers see standard paths");
        }
        // Processes, or a reason; never a panic.
        let _ = backend.processes(chip);
    }
    let all = backend.edits(&inventory.chips).expect("edits of all chips");
    let paths: BTreeSet<_> = all.device_nodes.iter().map(|node| &node.container_path).collect();
    assert_eq!(paths.len(), all.device_nodes.len(), "a container sees a node once");

    let plan = plan_pool(&PlanInput {
        node: &NodeName::new("node-1").expect("a name"),
        inventory: &inventory,
        labels: &NodeLabels::default(),
        in_use: &BTreeSet::new(),
        vanished: &[],
        sick: &BTreeMap::new(),
        order: &Default::default(),
    });
    let plan = plan.expect("a plan");
    assert_eq!(plan.problems, [], "everything can be published");
    let vendor = plan.pool.parts().map(|(_, vendor)| vendor);
    assert_eq!(vendor, Some(backend.vendor()), "the pool is the vendor's");
}
