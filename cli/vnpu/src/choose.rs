//! Which chip a program gets: the one that was named, or the only one.

use vnpu_driver::hardware::{Chip, Inventory};

use crate::error::RunError;

/// The chip for `wanted` (a UUID).
pub(crate) fn choose<'a>(inventory: &'a Inventory, wanted: Option<&str>) -> Result<&'a Chip, RunError> {
    let chips = &inventory.chips;
    match (wanted, chips.as_slice()) {
        (_, []) => {
            let problems =
                inventory.problems.iter().map(|p| format!("\n  {}: {}", p.object, p.message)).collect();
            Err(RunError::NoChip { problems })
        }
        (Some(uuid), _) => chips
            .iter()
            .find(|c| c.uuid.as_str() == uuid)
            .ok_or_else(|| RunError::UnknownDevice { wanted: uuid.to_owned(), known: list(chips) }),
        (None, [only]) => Ok(only),
        (None, _) => Err(RunError::DeviceNeeded { known: list(chips) }),
    }
}

fn list(chips: &[Chip]) -> String {
    chips.iter().map(|c| format!("\n  {}  {} {} {}", c.uuid, c.name(), c.model, c.memory)).collect()
}

#[cfg(test)]
mod tests {
    use vnpu_driver::hardware::{Health, MultiDiePolicy, Vendor};
    use vnpu_driver::id::DeviceUuid;
    use vnpu_driver::quantity::Bytes;

    use super::*;

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
        };
        Inventory {
            vendor: Vendor::Ascend,
            chips: uuids.iter().enumerate().map(chip).collect(),
            multi_die_policy: MultiDiePolicy::Independent,
            driver_version: String::new(),
            superpod: None,
            problems: Vec::new(),
        }
    }

    #[test]
    fn the_only_chip_needs_no_name() {
        let one = inventory(&["A"]);
        assert_eq!(choose(&one, None).unwrap().uuid.as_str(), "A");
    }

    #[test]
    fn several_chips_are_listed_until_one_is_named() {
        let two = inventory(&["A", "B"]);
        let message = choose(&two, None).unwrap_err().to_string();
        assert!(message.contains("--device") && message.contains("\n  B  chip-1-0 910B 64Gi"), "{message}");
        assert_eq!(choose(&two, Some("B")).unwrap().phys_id, 1);
        let message = choose(&two, Some("C")).unwrap_err().to_string();
        assert!(message.starts_with("there is no chip C"), "{message}");
    }

    #[test]
    fn no_chip_is_refused() {
        assert!(matches!(choose(&inventory(&[]), None), Err(RunError::NoChip { .. })));
    }
}
