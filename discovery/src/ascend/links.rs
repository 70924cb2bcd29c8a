//! Which dies HCCS joins. The wiring of a node does not change while its dies are the same, so it is asked once.

use std::collections::{BTreeMap, BTreeSet};

use vnpu_driver::hardware::Chip;
use vnpu_driver::id::DeviceUuid;

use super::dcmi::Slot;

/// What is known of a node's links.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// The dies that were asked about; `None` until all have answered.
    asked: Option<Vec<(Slot, DeviceUuid)>>,
    groups: BTreeMap<DeviceUuid, String>,
}

/// What a question about two dies brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// HCCS joins them.
    Joined,
    /// Nothing but PCIe does.
    Apart,
    /// The library does not tell of this hardware.
    Untold,
    /// It does not answer now.
    Silent,
}

impl Links {
    /// Gives every chip the name of its group: the smallest UUID that was in it when it was seen first, which no other
    /// node has; none for a chip that no other is joined to. A die that goes takes the name of nobody's group away.
    /// Where the library is silent, what was known stays, and it is asked again.
    pub(crate) fn apply(&mut self, chips: &mut BTreeMap<Slot, Chip>, ask: impl FnMut(Slot, Slot) -> Link) {
        let dies: Vec<(Slot, DeviceUuid)> =
            chips.iter().map(|(slot, chip)| (*slot, chip.uuid.clone())).collect();
        if self.asked.as_ref() != Some(&dies) {
            let (parts, silent) = parts(chips, ask);
            let groups = self.named(chips, &parts);
            if silent {
                let new = groups.into_iter().filter(|(uuid, _)| !self.groups.contains_key(uuid));
                self.groups.extend(new.collect::<Vec<_>>());
            } else {
                self.groups = groups;
            }
            self.asked = (!silent).then_some(dies);
        }
        for chip in chips.values_mut() {
            chip.traits.link_group = self.groups.get(&chip.uuid).cloned().unwrap_or_default();
        }
    }

    fn named(&self, chips: &BTreeMap<Slot, Chip>, parts: &[BTreeSet<Slot>]) -> BTreeMap<DeviceUuid, String> {
        let (mut named, mut taken) = (BTreeMap::new(), BTreeSet::new());
        for part in parts.iter().filter(|part| part.len() > 1) {
            let mut members: Vec<&DeviceUuid> =
                part.iter().filter_map(|slot| chips.get(slot)).map(|chip| &chip.uuid).collect();
            members.sort();
            let before = members.iter().filter_map(|uuid| self.groups.get(*uuid)).map(String::as_str);
            let mut names = before.chain(members.iter().map(|uuid| uuid.as_str()));
            let name = names.find(|name| !taken.contains(*name)).unwrap_or_default().to_owned();
            taken.insert(name.clone());
            named.extend(members.into_iter().map(|uuid| (uuid.clone(), name.clone())));
        }
        named
    }
}

/// The dies that hang together, and whether any answer lacks. Dies that are joined over others are not asked about.
fn parts(
    chips: &BTreeMap<Slot, Chip>,
    mut ask: impl FnMut(Slot, Slot) -> Link,
) -> (Vec<BTreeSet<Slot>>, bool) {
    let mut parts: Vec<BTreeSet<Slot>> = Vec::new();
    let mut silent = false;
    for (slot, chip) in chips {
        let mut mine = BTreeSet::from([*slot]);
        let mut apart = Vec::new();
        for part in parts {
            let mut joined = false;
            for other in &part {
                let same_module =
                    chip.module.is_some() && chips.get(other).is_some_and(|mate| mate.module == chip.module);
                let link = if same_module { Link::Joined } else { ask(*other, *slot) };
                match link {
                    Link::Untold => return (Vec::new(), false),
                    Link::Silent => silent = true,
                    Link::Apart => {}
                    Link::Joined => {
                        joined = true;
                        break;
                    }
                }
            }
            if joined { mine.extend(part) } else { apart.push(part) }
        }
        apart.push(mine);
        parts = apart;
    }
    (parts, silent)
}
