//! How the published devices are, from how their chips are: what the kubelet shows in the status of the pods that
//! use them. Where a chip's health comes from is not decided here.

use std::collections::{BTreeMap, BTreeSet};

use crate::hardware::{Chip, Health, Inventory};
use crate::id::{DeviceName, NodeName, PoolName};
use crate::order::PublishedOrder;
use crate::planner::{NodeLabels, PlanError, PlanInput, plan_pool};

/// Longest message in bytes: the kubelet cuts what is longer, in the middle of a character if need be
/// (`core/v1` `ResourceHealthMessageMaxLength`).
pub const LONGEST_MESSAGE: usize = 1024;

/// Says that a message was cut.
const CUT: &str = "...";
/// Of a chip that is held and not seen.
const GONE: &str = "it is not there any more";
/// Of one where another has its name now.
const REPLACED: &str = "it is not there any more, another chip has its place";

/// How a device is, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceState {
    /// Nothing is wrong.
    Healthy,
    /// It cannot be said.
    Unknown,
    /// It is broken, or gone.
    Unhealthy,
}

/// One published device and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceHealth {
    /// The pool that it is published in.
    pub pool: PoolName,
    /// Its name there.
    pub device: DeviceName,
    /// How it is.
    pub state: DeviceState,
    /// Why, for people: which chips, and what is wrong with each. At most [`LONGEST_MESSAGE`] bytes; empty for a
    /// healthy device.
    pub message: String,
}

/// How each chip is that is there, by its name.
pub type ChipHealth = BTreeMap<DeviceName, Health>;

/// The devices of one pool and how they are. `devices` are the published ones ([`published_devices`]); one of whose
/// chips `chips` says nothing is published only because it is held, and that chip is gone.
///
/// A device is as its worst chip is: a module as the worse of its dies, whose mates on their own are as they are.
pub fn device_health(
    pool: &PoolName,
    devices: impl IntoIterator<Item = DeviceName>,
    chips: &ChipHealth,
) -> Vec<DeviceHealth> {
    let told = devices.into_iter().map(|device| {
        let (mut state, mut said) = (DeviceState::Healthy, Said::default());
        for chip in chips_of(device) {
            let (one, why) = match chips.get(&chip) {
                Some(Health::Healthy) => continue,
                Some(unknown @ Health::Unknown(_)) => (DeviceState::Unknown, unknown.to_string()),
                Some(sick @ Health::Unhealthy(_)) => (DeviceState::Unhealthy, sick.to_string()),
                None => (DeviceState::Unhealthy, GONE.to_owned()),
            };
            state = state.max(one);
            said.note(chip, &why);
        }
        DeviceHealth { pool: pool.clone(), device, state, message: said.message() }
    });
    told.collect()
}

/// The chips that a device stands for.
fn chips_of(device: DeviceName) -> impl Iterator<Item = DeviceName> {
    let (first, second) = match device {
        DeviceName::Module { card } => {
            (DeviceName::Chip { card, die: 0 }, Some(DeviceName::Chip { card, die: 1 }))
        }
        DeviceName::Chip { .. } | DeviceName::Partition { .. } => (device, None),
    };
    std::iter::once(first).chain(second)
}

/// What is wrong with which chips; what is wrong with both dies of a module is said once.
#[derive(Default)]
struct Said(Vec<(Vec<DeviceName>, String)>);

impl Said {
    fn note(&mut self, chip: DeviceName, why: &str) {
        match self.0.iter_mut().find(|(_, said)| said == why) {
            Some((chips, _)) => chips.push(chip),
            None => self.0.push((vec![chip], why.to_owned())),
        }
    }

    fn message(&self) -> String {
        let parts = self.0.iter().map(|(chips, why)| {
            let chips: Vec<String> = chips.iter().map(DeviceName::to_string).collect();
            format!("{}: {why}", chips.join(" and "))
        });
        cut(parts.collect::<Vec<_>>().join("; "))
    }
}

/// At most [`LONGEST_MESSAGE`] bytes of it, in whole characters.
fn cut(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        let end = (0..=LONGEST_MESSAGE - CUT.len()).rev().find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or_default());
        message.push_str(CUT);
    }
    message
}

/// How the chips of a pool are, by the vendor library's word. With a `doubt`, why the library does not answer any
/// more, nothing good that it said before is believed.
///
/// A chip that claims hold and that vanished is gone also where another one has its place now: theirs it is not.
pub fn chip_health(inventory: &Inventory, vanished: &[Chip], doubt: Option<&str>) -> ChipHealth {
    let mut chips = ChipHealth::new();
    for chip in &inventory.chips {
        let health = match (&chip.health, doubt) {
            (Health::Healthy | Health::Unknown(_), Some(why)) => Health::Unknown(why.to_owned()),
            (health, _) => health.clone(),
        };
        // Of two that claim one place the first is published.
        chips.entry(chip.name()).or_insert(health);
    }
    for chip in vanished {
        if let Some(health) = chips.get_mut(&chip.name()) {
            *health = Health::fault("replaced", REPLACED);
        }
    }
    chips
}

/// The chips of `devices`, of none of which anything is known, and why.
pub fn unknown_chips(devices: impl IntoIterator<Item = DeviceName>, why: &str) -> ChipHealth {
    let chips = devices.into_iter().flat_map(chips_of);
    chips.map(|chip| (chip, Health::Unknown(why.to_owned()))).collect()
}

/// What is known of the hardware of one pool.
#[derive(Debug, Clone, Copy)]
pub struct PoolInput<'a> {
    /// The node.
    pub node: &'a NodeName,
    /// What was seen last.
    pub inventory: &'a Inventory,
    /// Devices of the pool that claims hold.
    pub in_use: &'a BTreeSet<DeviceName>,
    /// Chips that claims hold and that are not seen any more.
    pub vanished: &'a [Chip],
}

/// The names of the devices that the pool publishes, in its order; [`plan_pool`] has the word. Nothing that only
/// the API server knows (labels, features that it lacks) decides which they are.
///
/// # Errors
/// As of [`plan_pool`].
pub fn published_devices(input: &PoolInput<'_>) -> Result<Vec<DeviceName>, PlanError> {
    let plan = plan_pool(&PlanInput {
        node: input.node,
        inventory: input.inventory,
        labels: &NodeLabels::default(),
        in_use: input.in_use,
        vanished: input.vanished,
        sick: &BTreeMap::new(),
        order: &PublishedOrder::new(),
    })?;
    Ok(plan.devices().map(|device| device.name).collect())
}

#[cfg(test)]
mod tests;
