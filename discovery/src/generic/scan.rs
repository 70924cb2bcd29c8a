//! One look at the devices of a description. What is wrong with one device is that device's problem: one whose files
//! do not answer is kept as it was seen last, with unknown health; one that cannot be used is named and left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use vnpu_driver::hardware::{
    Chip, Health, Inventory, MultiDiePolicy, PciAddress, Problem, Traits, Vendor, VendorName,
};
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::Bytes;
use vnpu_driver::slices::MAX_ATTRIBUTE;

use super::description::{GenericDevice, GenericDevices, HealthFile, Sharing, Text, TextFile};
use super::files::{Files, Mute, is_node_name};
use crate::found::{Found, Identity};
use crate::sysfs;

/// The most characters of a health text that are passed on.
const LONGEST_HEALTH: usize = 256;

/// What no two devices may share, beside the numbers and nodes that are compared before.
const IDENTITIES: [Identity; 2] = [
    Identity {
        what: "several devices have the same uuid",
        reason: "duplicate_uuid",
        remedy: REMEDY,
        same: |one, other| one.uuid == other.uuid,
    },
    Identity {
        what: "several devices have the same PCI address",
        reason: "duplicate_pci",
        remedy: REMEDY,
        same: |one, other| one.pci.is_some() && one.pci == other.pci,
    },
];
const REMEDY: &str = "correct the file";

/// What earlier looks learnt.
#[derive(Debug, Default)]
pub(crate) struct Known {
    chips: BTreeMap<u32, Chip>,
    /// Device nodes of the chips.
    pub(crate) nodes: BTreeMap<DeviceUuid, Vec<String>>,
    driver_version: String,
}

/// Where things are on this node.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) driver_root: PathBuf,
    pub(crate) dev_root: PathBuf,
    pub(crate) sys_root: PathBuf,
}

/// Looks at everything that the description names. `known` is updated to what this look found.
pub(crate) fn scan(
    files: &Files,
    places: &Places,
    vendor: VendorName,
    description: &GenericDevices,
    known: &mut Known,
) -> Inventory {
    let mut look = Look { files, places, vendor, description, problems: Vec::new() };
    look.common();
    let (candidates, silent) = look.candidates(known);
    let mut found = Found::<u32>::default();
    for (card, why) in silent {
        found.carry(card, &known.chips, &Health::Unknown(why));
    }
    let mut nodes = BTreeMap::new();
    for Candidate { device, uuid, index } in candidates {
        match look.chip(device, &uuid) {
            Ok(chip) => {
                nodes.insert(uuid, device.nodes.clone());
                found.see(device.card, chip);
            }
            Err(Flaw::Unusable { message, reason }) => look.problem(name(index, device), reason, message),
            Err(Flaw::Silent { message, reason }) => {
                found.carry(device.card, &known.chips, &Health::Unknown(message.clone()));
                look.problem(name(index, device), reason, message);
            }
        }
    }
    let object = |card: u32| format!("card {card}");
    let chips = found.settle(&known.chips, &IDENTITIES, object, &mut look.problems);
    for chip in chips.values() {
        if let Some(old) = known.nodes.get(&chip.uuid) {
            nodes.entry(chip.uuid.clone()).or_insert_with(|| old.clone());
        }
    }
    if let Some(version) = look.driver_version() {
        known.driver_version = version;
    }
    (known.chips, known.nodes) = (chips, nodes);
    Inventory {
        vendor: Vendor::Other(vendor),
        chips: known.chips.values().cloned().collect(),
        multi_die_policy: MultiDiePolicy::Independent,
        driver_version: known.driver_version.clone(),
        cuda_version: String::new(),
        superpod: None,
        problems: look.problems,
    }
}

/// Why a device cannot be used, or not be looked at.
enum Flaw {
    /// As it is described or found.
    Unusable { message: String, reason: &'static str },
    /// A file about it does not answer now.
    Silent { message: String, reason: &'static str },
}

impl Flaw {
    fn unusable(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Unusable { message: message.into(), reason }
    }
}

/// A device whose identity is known.
struct Candidate<'a> {
    device: &'a GenericDevice,
    uuid: DeviceUuid,
    index: usize,
}

struct Look<'a> {
    files: &'a Files,
    places: &'a Places,
    vendor: VendorName,
    description: &'a GenericDevices,
    problems: Vec<Problem>,
}

fn name(index: usize, device: &GenericDevice) -> String {
    format!("devices[{index}] (card {})", device.card)
}

impl<'a> Look<'a> {
    fn problem(&mut self, object: impl Into<String>, reason: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            object: object.into(),
            message: message.into(),
            reason: reason.to_owned(),
        });
    }

    /// What is wrong beside the devices.
    fn common(&mut self) {
        let description = self.description;
        for (field, text) in [("model", &description.model), ("productName", &description.product_name)] {
            if text.len() > MAX_ATTRIBUTE {
                let message = format!("it has {} bytes, the first {MAX_ATTRIBUTE} are published", text.len());
                self.problem(field, "text_too_long", message);
            }
        }
        for node in description.control_nodes.iter().filter(|node| !is_node_name(node)) {
            self.problem("controlNodes", "invalid_device_node", not_a_node(node));
        }
        for pattern in &description.mounts {
            if !is_mount(pattern) {
                let message = format!("{:?} is no absolute path without ..", pattern.display().to_string());
                self.problem("mounts", "invalid_mount", message);
                continue;
            }
            match self.files.mounts(&self.places.driver_root, pattern) {
                Ok(found) if found.is_empty() => {
                    let root = self.places.driver_root.display();
                    let pattern = pattern.display();
                    self.problem(
                        "mounts",
                        "mount_missing",
                        format!("nothing is at {pattern} below {root}: containers go without it"),
                    );
                }
                Ok(_) => {}
                Err(mute) => self.problem("mounts", mute.reason(), mute.message(pattern)),
            }
        }
    }

    /// The devices whose uuid, card and nodes are theirs alone; and the cards of those whose uuid cannot be read now.
    fn candidates(&mut self, known: &Known) -> (Vec<Candidate<'a>>, Vec<(u32, String)>) {
        let (mut candidates, mut silent) = (Vec::new(), Vec::new());
        for (index, device) in self.description.devices.iter().enumerate() {
            match self.uuid(device) {
                Ok(uuid) => candidates.push(Candidate { device, uuid, index }),
                Err(Flaw::Unusable { message, reason }) => {
                    self.problem(name(index, device), reason, message);
                }
                Err(Flaw::Silent { message, reason }) => {
                    self.problem(name(index, device), reason, message.clone());
                    silent.push((device.card, message));
                }
            }
        }
        let was = |candidate: &Candidate<'_>| {
            known.chips.get(&candidate.device.card).is_some_and(|chip| chip.uuid == candidate.uuid)
        };
        let candidates = self.alone(candidates, ("card", "duplicate_card"), |c| {
            BTreeMap::from([(c.device.card.to_string(), was(c))])
        });
        let candidates = self.alone(candidates, ("device node", "duplicate_device_node"), |c| {
            let had = known.nodes.get(&c.uuid);
            let had = |node: &String| was(c) && had.is_some_and(|had| had.contains(node));
            c.device.nodes.iter().map(|node| (node.clone(), had(node))).collect()
        });
        (candidates, silent)
    }

    /// Drops devices that have something in common with another; the one that had it at the last look keeps it.
    /// `things` says what a device has, and whether it had it.
    fn alone(
        &mut self,
        candidates: Vec<Candidate<'a>>,
        (what, reason): (&str, &str),
        things: impl Fn(&Candidate<'a>) -> BTreeMap<String, bool>,
    ) -> Vec<Candidate<'a>> {
        let mut holders: BTreeMap<String, Vec<(usize, bool)>> = BTreeMap::new();
        for (place, candidate) in candidates.iter().enumerate() {
            for (thing, had) in things(candidate) {
                holders.entry(thing).or_default().push((place, had));
            }
        }
        let mut dropped = BTreeSet::new();
        for (thing, holders) in holders.iter().filter(|(_, holders)| holders.len() > 1) {
            let keeps: Vec<usize> = holders.iter().filter(|(_, had)| *had).map(|(place, _)| *place).collect();
            let keeper = if let [keeper] = keeps[..] { Some(keeper) } else { None };
            dropped.extend(holders.iter().map(|(place, _)| *place).filter(|place| Some(*place) != keeper));
            let names: Vec<String> = holders
                .iter()
                .filter_map(|(place, _)| candidates.get(*place))
                .map(|candidate| name(candidate.index, candidate.device))
                .collect();
            let message = format!("several devices have the {what} {thing:?}: {REMEDY}");
            self.problem(names.join(", "), reason, message);
        }
        let kept = candidates.into_iter().enumerate().filter(|(place, _)| !dropped.contains(place));
        kept.map(|(_, candidate)| candidate).collect()
    }

    /// A value that the description gives, or a file.
    fn text(&self, text: &Text) -> Result<String, (PathBuf, Mute)> {
        match text {
            Text::Literal(text) => Ok(text.trim().to_owned()),
            Text::File(TextFile { file }) => self.files.value(file).map_err(|mute| (file.clone(), mute)),
        }
    }

    fn uuid(&self, device: &GenericDevice) -> Result<DeviceUuid, Flaw> {
        let text = self.text(&device.uuid).map_err(|(file, mute)| match mute {
            Mute::Absent => Flaw::unusable("missing_uuid", format!("its uuid: {}", mute.message(&file))),
            _ => {
                Flaw::Silent { message: format!("its uuid: {}", mute.message(&file)), reason: mute.reason() }
            }
        })?;
        if text.is_empty() {
            return Err(Flaw::unusable(
                "missing_uuid",
                "its uuid is empty, so it cannot be told from another",
            ));
        }
        DeviceUuid::new(text).map_err(|error| Flaw::unusable("invalid_uuid", error.to_string()))
    }

    fn chip(&mut self, device: &GenericDevice, uuid: &DeviceUuid) -> Result<Chip, Flaw> {
        self.check_nodes(device)?;
        let memory = self.memory(device)?;
        let pci = self.pci(device);
        let sys_root = &self.places.sys_root;
        let numa_node = match device.numa_node {
            Some(node) => Some(i64::from(node)),
            None => pci.and_then(|address| sysfs::numa_node(sys_root, address)),
        };
        let pcie_root = pci.and_then(|address| sysfs::pcie_root(sys_root, address));
        let whole_only = match device.sharing.unwrap_or(self.description.sharing) {
            Sharing::Counted => None,
            Sharing::Whole => Some(format!(
                "nothing holds programs to a share of {}'s devices, and the file does not say sharing: counted",
                self.vendor
            )),
        };
        let link_group = self.link_group(device);
        Ok(Chip {
            card: device.card,
            die: 0,
            uuid: uuid.clone(),
            module: None,
            model: self.description.model.clone(),
            product_name: self.description.product_name.clone(),
            memory,
            phys_id: device.card,
            pci,
            numa_node,
            pcie_root,
            health: self.health(device),
            traits: Traits { link_group, whole_only, ..Traits::default() },
        })
    }

    fn check_nodes(&self, device: &GenericDevice) -> Result<(), Flaw> {
        if device.nodes.is_empty() {
            return Err(Flaw::unusable(
                "no_device_node",
                "it has no device node, so nothing can be given out",
            ));
        }
        for node in &device.nodes {
            if !is_node_name(node) {
                return Err(Flaw::unusable("invalid_device_node", not_a_node(node)));
            }
            let path = self.places.dev_root.join(node);
            if let Err(error) = self.files.node(&path) {
                return Err(Flaw::unusable("device_node_missing", error.to_string()));
            }
        }
        Ok(())
    }

    fn memory(&self, device: &GenericDevice) -> Result<Bytes, Flaw> {
        let Some(text) = device.memory.as_ref().or(self.description.memory.as_ref()) else {
            return Err(Flaw::unusable("missing_memory", "neither the device nor the file says its memory"));
        };
        let text = self.text(text).map_err(|(file, mute)| Flaw::Silent {
            message: format!("its memory: {}", mute.message(&file)),
            reason: mute.reason(),
        })?;
        match text.parse::<Bytes>() {
            Ok(Bytes(0)) => Err(Flaw::unusable("zero_memory", "its memory is 0")),
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(Flaw::unusable("invalid_memory", format!("its memory: {error}"))),
        }
    }

    /// A wrong address only costs what follows from it.
    fn pci(&mut self, device: &GenericDevice) -> Option<PciAddress> {
        let text = device.pci.as_deref()?;
        match text.parse() {
            Ok(address) => Some(address),
            Err(error) => {
                let message = format!("{error}; the device is published without it");
                self.problem(format!("card {}", device.card), "invalid_pci", message);
                None
            }
        }
    }

    /// A word that is too long is none: cut, it could be another group's.
    fn link_group(&mut self, device: &GenericDevice) -> String {
        let group = &device.link_group;
        if group.len() <= MAX_ATTRIBUTE {
            return group.clone();
        }
        let message =
            format!("its linkGroup has {} bytes, the most is {MAX_ATTRIBUTE}: it is left out", group.len());
        self.problem(format!("card {}", device.card), "text_too_long", message);
        String::new()
    }

    fn health(&self, device: &GenericDevice) -> Health {
        let Some(HealthFile { file, healthy }) = device.health.as_ref().or(self.description.health.as_ref())
        else {
            return Health::Healthy;
        };
        match self.files.value(file) {
            Ok(text) if text.is_empty() => Health::Unknown(format!("{} is empty", file.display())),
            Ok(text) if healthy.contains(&text) => Health::Healthy,
            Ok(text) => {
                let clean = text.chars().filter(|c| !c.is_control()).take(LONGEST_HEALTH);
                let words: String = clean.collect();
                let code = words.split_whitespace().next().unwrap_or_default().to_lowercase();
                Health::fault(&code, words)
            }
            Err(mute) => Health::Unknown(mute.message(file)),
        }
    }

    /// `None` while it cannot be read: then what was read last stays.
    fn driver_version(&mut self) -> Option<String> {
        let text = self.description.driver_version.as_ref()?;
        match self.text(text) {
            Ok(version) => Some(version),
            Err((file, mute)) => {
                self.problem("driverVersion", mute.reason(), mute.message(&file));
                None
            }
        }
    }
}

fn not_a_node(node: &str) -> String {
    format!("{node:?} is no name below /dev: write acme0, not /dev/acme0")
}

/// Absolute, of more than the root, and nowhere upwards.
pub(crate) fn is_mount(pattern: &Path) -> bool {
    use std::path::Component;
    let mut parts = pattern.components();
    parts.next() == Some(Component::RootDir)
        && pattern.components().count() > 1
        && parts.all(|part| matches!(part, Component::Normal(_)))
}
