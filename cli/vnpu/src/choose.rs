//! Which chip a program gets: the one that was named, or the only one.

use vnpu_driver::hardware::Chip;

use crate::error::RunError;
use crate::vendors::{Found, Looked};

/// The chip for `wanted` (a UUID), and its vendor.
pub(crate) fn choose<'a>(
    looked: &'a Looked,
    wanted: Option<&str>,
) -> Result<(&'a Found, &'a Chip), RunError> {
    let of = |found: &'a Found| found.inventory.chips.iter().map(move |chip| (found, chip));
    let all: Vec<(&Found, &Chip)> = looked.found.iter().flat_map(of).collect();
    match (wanted, all.as_slice()) {
        (_, []) => Err(none(looked)),
        (Some(uuid), _) => {
            let found = all.iter().find(|(_, chip)| chip.uuid.as_str() == uuid);
            let known = || list(&all);
            found.copied().ok_or_else(|| RunError::UnknownDevice { wanted: uuid.to_owned(), known: known() })
        }
        (None, [only]) => Ok(*only),
        (None, _) => Err(RunError::DeviceNeeded { known: list(&all) }),
    }
}

/// Why there is no chip: what failed, what the drivers say, or that there is no driver.
fn none(looked: &Looked) -> RunError {
    if !looked.failed.is_empty() {
        return RunError::Discovery(looked.failed.clone());
    }
    if looked.found.is_empty() {
        return RunError::Discovery(looked.missing.clone());
    }
    let problems = looked.found.iter().flat_map(|found| &found.inventory.problems);
    RunError::NoChip { problems: problems.map(|p| format!("\n  {}: {}", p.object, p.message)).collect() }
}

fn list(chips: &[(&Found, &Chip)]) -> String {
    let line = |(_, c): &(&Found, &Chip)| format!("\n  {}  {} {} {}", c.uuid, c.name(), c.model, c.memory);
    chips.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vnpu_discovery::ascend::{Ascend, AscendOptions};
    use vnpu_discovery::{DiscoveryError, VendorLibrary};
    use vnpu_driver::hardware::{Health, Inventory, MultiDiePolicy, Traits, Vendor};
    use vnpu_driver::id::DeviceUuid;
    use vnpu_driver::quantity::Bytes;

    use super::*;

    /// A machine where this was found of each vendor; who was asked does not matter here.
    fn looked(inventories: Vec<Inventory>) -> Looked {
        let found = inventories.into_iter().map(|inventory| Found {
            vendor: "",
            node: "",
            backend: Arc::new(Ascend::new(AscendOptions::default())),
            library: "/lib".into(),
            inventory,
        });
        Looked { found: found.collect(), ..Looked::default() }
    }

    fn chosen(looked: &Looked, wanted: Option<&str>) -> Result<String, String> {
        choose(looked, wanted).map(|(_, chip)| chip.uuid.to_string()).map_err(|e| e.to_string())
    }

    fn inventory(uuids: &[&str]) -> Inventory {
        let chip = |(i, uuid): (usize, &&str)| Chip {
            card: i as u32,
            die: 0,
            uuid: DeviceUuid::new(*uuid).unwrap(),
            module: None,
            model: "910B".to_owned(),
            product_name: String::new(),
            memory: Bytes::gib(64),
            phys_id: i as u32,
            pci: None,
            numa_node: None,
            pcie_root: None,
            health: Health::Healthy,
            traits: Traits::default(),
        };
        Inventory {
            vendor: Vendor::Ascend,
            chips: uuids.iter().enumerate().map(chip).collect(),
            multi_die_policy: MultiDiePolicy::Independent,
            driver_version: String::new(),
            cuda_version: String::new(),
            superpod: None,
            problems: Vec::new(),
        }
    }

    #[test]
    fn the_only_chip_needs_no_name() {
        let one = looked(vec![inventory(&["A"])]);
        assert_eq!(chosen(&one, None).unwrap(), "A");
        // Of whichever vendor.
        let one = looked(vec![inventory(&[]), inventory(&["GPU-1"])]);
        assert_eq!(chosen(&one, None).unwrap(), "GPU-1");
        assert!(std::ptr::eq(choose(&one, None).unwrap().0, &one.found[1]));
    }

    #[test]
    fn several_chips_are_listed_until_one_is_named() {
        let three = looked(vec![inventory(&["A", "B"]), inventory(&["GPU-1"])]);
        let message = chosen(&three, None).unwrap_err();
        assert!(message.contains("--device") && message.contains("\n  B  chip-1-0 910B 64Gi"), "{message}");
        assert!(message.contains("\n  GPU-1  chip-0-0"), "{message}");
        assert_eq!(choose(&three, Some("B")).unwrap().1.phys_id, 1);
        assert!(std::ptr::eq(choose(&three, Some("GPU-1")).unwrap().0, &three.found[1]));
        assert!(chosen(&three, Some("C")).unwrap_err().starts_with("there is no chip C"));
    }

    #[test]
    fn no_chip_is_refused_with_what_failed_or_else_what_is_missing() {
        assert!(matches!(choose(&looked(vec![inventory(&[])]), None), Err(RunError::NoChip { .. })));
        let missing = |library| DiscoveryError::LibraryMissing { library, searched: vec!["/lib".into()] };
        let mut machine = looked(Vec::new());
        machine.missing = vec![missing(VendorLibrary::Dcmi), missing(VendorLibrary::Nvml)];
        let message = chosen(&machine, None).unwrap_err();
        assert!(message.contains("no DCMI library") && message.contains("; no NVML library"), "{message}");
        machine.failed = vec![DiscoveryError::Hanging { function: "nvmlInit_v2" }];
        assert!(chosen(&machine, None).unwrap_err().starts_with("nvmlInit_v2 does not return"));
        // It hides no chip of another vendor.
        let failed = std::mem::take(&mut machine.failed);
        assert_eq!(chosen(&Looked { failed, ..looked(vec![inventory(&["A"])]) }, None).unwrap(), "A");
    }
}
