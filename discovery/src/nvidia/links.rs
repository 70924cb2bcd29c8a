//! Which GPUs NVLink joins: directly, or over the same switches.

use std::collections::{BTreeMap, BTreeSet};

use vnpu_driver::hardware::PciAddress;

/// Stands for the switches of a node that does not show them: in virtual machines, and on GB200, links end at an address
/// of all ones. No device has this one.
pub(crate) const HIDDEN_SWITCH: PciAddress =
    PciAddress { domain: u32::MAX, bus: u8::MAX, device: 31, function: 7 };

/// What one GPU says of its links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Links {
    /// The GPU itself.
    pub(crate) own: Option<PciAddress>,
    /// The other ends, GPUs or switches.
    pub(crate) ends: Vec<PciAddress>,
}

/// For each GPU (by UUID) the name of its group: the smallest UUID in it, which no other node has. Empty for a GPU
/// that no other can be reached from.
pub(crate) fn groups<'a>(gpus: &[(&'a str, &Links)]) -> BTreeMap<&'a str, &'a str> {
    // Whoever can be reached in one step from an address: a GPU's own, or a switch's.
    let mut around: BTreeMap<PciAddress, BTreeSet<usize>> = BTreeMap::new();
    for (place, (_, links)) in gpus.iter().enumerate() {
        for address in links.ends.iter().chain(&links.own) {
            around.entry(*address).or_default().insert(place);
        }
    }
    let mut found = BTreeMap::new();
    for (start, (uuid, _)) in gpus.iter().enumerate() {
        let mut reached = BTreeSet::from([start]);
        let mut ahead = vec![start];
        while let Some((_, links)) = ahead.pop().and_then(|place| gpus.get(place)) {
            for address in links.ends.iter().chain(&links.own) {
                let next = around.get(address).into_iter().flatten();
                ahead.extend(next.filter(|place| reached.insert(**place)));
            }
        }
        let members = reached.iter().filter_map(|place| gpus.get(*place)).map(|(uuid, _)| *uuid);
        let name = if reached.len() > 1 { members.min().unwrap_or_default() } else { "" };
        found.insert(*uuid, name);
    }
    found
}
