//! Which chip a program gets: the one that was named, or the only one.

use vnpu_driver::hardware::{Chip, Inventory};
use vnpu_driver::quantity::Bytes;

use crate::error::RunError;

/// The chip for `wanted` (a UUID) with at least `memory`.
pub(crate) fn choose<'a>(
    inventory: &'a Inventory,
    wanted: Option<&str>,
    memory: Bytes,
) -> Result<&'a Chip, RunError> {
    if memory.0 == 0 {
        return Err(RunError::NoMemory);
    }
    let chips = &inventory.chips;
    let chip = match (wanted, chips.as_slice()) {
        (_, []) => {
            let problems =
                inventory.problems.iter().map(|p| format!("\n  {}: {}", p.object, p.message)).collect();
            return Err(RunError::NoChip { problems });
        }
        (Some(uuid), _) => chips
            .iter()
            .find(|c| c.uuid.as_str() == uuid)
            .ok_or_else(|| RunError::UnknownDevice { wanted: uuid.to_owned(), known: list(chips) })?,
        (None, [only]) => only,
        (None, _) => return Err(RunError::DeviceNeeded { known: list(chips) }),
    };
    if memory > chip.memory {
        let name = chip.uuid.to_string();
        return Err(RunError::TooMuchMemory { wanted: memory, chip: name, has: chip.memory });
    }
    Ok(chip)
}

fn list(chips: &[Chip]) -> String {
    chips.iter().map(|c| format!("\n  {}  {} {} {}", c.uuid, c.name(), c.model, c.memory)).collect()
}

#[cfg(test)]
mod tests {
    use vnpu_driver::hardware::{Health, MultiDiePolicy, Vendor};
    use vnpu_driver::id::DeviceUuid;

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
        assert_eq!(choose(&one, None, Bytes::gib(4)).unwrap().uuid.as_str(), "A");
        assert_eq!(choose(&one, None, Bytes::gib(64)).unwrap().uuid.as_str(), "A", "all of it");
    }

    #[test]
    fn several_chips_are_listed_until_one_is_named() {
        let two = inventory(&["A", "B"]);
        let message = choose(&two, None, Bytes::gib(4)).unwrap_err().to_string();
        assert!(message.contains("--device") && message.contains("\n  B  chip-1-0 910B 64Gi"), "{message}");
        assert_eq!(choose(&two, Some("B"), Bytes::gib(4)).unwrap().phys_id, 1);
        let message = choose(&two, Some("C"), Bytes::gib(4)).unwrap_err().to_string();
        assert!(message.starts_with("there is no chip C"), "{message}");
    }

    #[test]
    fn no_chip_no_memory_and_too_much_memory_are_refused() {
        assert!(matches!(choose(&inventory(&[]), None, Bytes(1)), Err(RunError::NoChip { .. })));
        assert!(matches!(choose(&inventory(&["A"]), None, Bytes(0)), Err(RunError::NoMemory)));
        let error = choose(&inventory(&["A"]), None, Bytes::gib(65)).unwrap_err();
        assert_eq!(error.to_string(), "--memory 65Gi is more than chip A has (64Gi)");
    }
}
