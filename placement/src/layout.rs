//! Devices as the search sees them: the form that pools of equal hardware share, and the attributes of their own
//! (identities, addresses, the node's place). Which of them are free is in `usage.rs`.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Weak};

use crate::cells::cells;
use crate::interner::Interner;
use crate::node::{Attribute, Capacity, Device, NodeTaint, Pool};

/// The domain of an attribute or capacity that is published without one.
pub(crate) const DOMAIN: &str = vnpu_driver::DRIVER_NAME;

/// Attributes that differ between pools of equal hardware. Only compactness depends on this list: an attribute that
/// is missing here costs a form per value.
const OWN: [&str; 5] = [
    "vnpu.dev/uuid",
    "vnpu.dev/leaf",
    "vnpu.dev/superpod",
    vnpu_driver::attributes::PCI_BUS_ID,
    vnpu_driver::attributes::PCIE_ROOT,
];

/// Attributes as (name, value), by name.
pub(crate) type AttributeSet = [(u32, u32)];

/// One device without what is its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    /// Name, as a text.
    pub(crate) name: u32,
    /// The set of attributes that it shares with others.
    pub(crate) attributes: u32,
    /// The set of capacities.
    pub(crate) capacity: u32,
    /// `allowMultipleAllocations`.
    pub(crate) shareable: bool,
    /// Counters that it pays, by position among the pool's.
    pub(crate) pays: Box<[(u16, u64)]>,
    /// The set of taints; `None` without any.
    pub(crate) taints: Option<u32>,
}

/// What makes two pools equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Blueprint {
    /// Devices in the order in which they are tried.
    pub(crate) devices: Box<[Form]>,
    /// Counters: set, name, amount.
    pub(crate) counters: Box<[(u32, u32, u64)]>,
    /// Counters that devices name and the pool has not: device, set, name, amount.
    pub(crate) missing: Box<[(u16, u32, u32, u64)]>,
}

/// A blueprint with what follows from it.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Its number; never given twice.
    pub(crate) id: u32,
    /// What it is made of.
    pub(crate) blueprint: Blueprint,
    /// A device names a counter that is not there, or a name is there twice: the allocator skips such a pool.
    pub(crate) broken: bool,
    /// Devices by name.
    by_name: HashMap<u32, u16>,
    /// Capacities of each device: where they begin among those of the pool, and how many they are.
    rooms: Box<[(u32, u16)]>,
    /// All capacities of all shareable devices, in that order.
    pub(crate) sizes: Box<[u64]>,
    /// The names of those capacities.
    pub(crate) room_names: Box<[u32]>,
    /// Devices that stand for several others (whole modules): the counters of each.
    pub(crate) modules: Box<[Box<[u16]>]>,
    /// The module of each counter, by number; `u16::MAX` for none.
    of_counter: Box<[u16]>,
    /// Chips that belong to no module, by position.
    pub(crate) singles: Box<[u16]>,
    /// The devices of each cell.
    pub(crate) cells: Box<[Range<u16>]>,
}

impl Layout {
    /// The device of that name.
    pub(crate) fn device(&self, name: u32) -> Option<usize> {
        self.by_name.get(&name).map(|position| usize::from(*position))
    }

    /// Where the capacities of a device lie; empty for one that is not shareable.
    pub(crate) fn rooms(&self, device: usize) -> std::ops::Range<usize> {
        let (start, count) = self.rooms.get(device).copied().unwrap_or_default();
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        start..start.saturating_add(usize::from(count))
    }

    /// The counters of the module to which a counter belongs.
    pub(crate) fn module_of(&self, counter: u16) -> Option<&[u16]> {
        let module = self.of_counter.get(usize::from(counter))?;
        self.modules.get(usize::from(*module)).map(|counters| &**counters)
    }

    /// The form of a device.
    pub(crate) fn form(&self, device: usize) -> Option<&Form> {
        self.blueprint.devices.get(device)
    }
}

/// Everything about devices that is kept once.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    /// Names of all kinds.
    pub(crate) texts: Interner<str>,
    /// Values of attributes.
    pub(crate) values: Interner<Attribute>,
    /// Sets of attributes.
    pub(crate) attributes: Interner<AttributeSet>,
    /// Sets of capacities.
    pub(crate) capacities: Interner<[(u32, Capacity)]>,
    /// Sets of device taints.
    pub(crate) taints: Interner<[NodeTaint]>,
    /// The pools of a node, as numbers of layouts.
    pub(crate) kits: Interner<[u32]>,
    layouts: HashMap<Blueprint, Weak<Layout>>,
    made: u32,
}

/// An attribute's qualified name.
pub(crate) fn qualified(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("{DOMAIN}/{name}") }
}

impl Catalog {
    /// The layout of a pool, and each device's own attributes as a set.
    pub(crate) fn layout(&mut self, pool: &Pool) -> (Arc<Layout>, Box<[u32]>) {
        let counters: Box<[(u32, u32, u64)]> = pool
            .counters
            .iter()
            .map(|(set, counter, amount)| {
                (self.texts.id(set.as_str()), self.texts.id(counter.as_str()), *amount)
            })
            .collect();
        let mut missing = Vec::new();
        let mut own = Vec::with_capacity(pool.devices.len());
        let mut devices = Vec::with_capacity(pool.devices.len());
        for (position, device) in (0u16..).zip(&pool.devices) {
            let (form, set, unknown) = self.form(device, &counters);
            missing.extend(unknown.into_iter().map(|(set, name, amount)| (position, set, name, amount)));
            own.push(set);
            devices.push(form);
        }
        let blueprint = Blueprint { devices: devices.into(), counters, missing: missing.into() };
        if let Some(known) = self.layouts.get(&blueprint).and_then(Weak::upgrade) {
            return (known, own.into());
        }
        let layout = Arc::new(self.derive(blueprint));
        if self.layouts.len() > 256 {
            self.layouts.retain(|_, kept| kept.strong_count() > 0);
        }
        self.layouts.insert(layout.blueprint.clone(), Arc::downgrade(&layout));
        (layout, own.into())
    }

    fn form(&mut self, device: &Device, counters: &[(u32, u32, u64)]) -> (Form, u32, Vec<(u32, u32, u64)>) {
        let (mut shared, mut own) = (Vec::new(), Vec::new());
        for (name, value) in &device.attributes {
            let name = qualified(name);
            let pair = (self.texts.id(name.as_str()), self.value(value));
            if OWN.contains(&name.as_str()) { own.push(pair) } else { shared.push(pair) }
        }
        shared.sort_unstable();
        own.sort_unstable();
        let capacity: Vec<(u32, Capacity)> =
            device.capacity.iter().map(|(name, c)| (self.texts.id(name.as_str()), c.clone())).collect();
        let mut unknown = Vec::new();
        let mut pays = Vec::with_capacity(device.counters.len());
        for (set, counter, amount) in &device.counters {
            let key = (self.texts.id(set.as_str()), self.texts.id(counter.as_str()));
            let position = counters.iter().position(|(s, c, _)| (*s, *c) == key);
            match position.and_then(|p| u16::try_from(p).ok()) {
                Some(position) => pays.push((position, *amount)),
                None => unknown.push((key.0, key.1, *amount)),
            }
        }
        let taints =
            if device.taints.is_empty() { None } else { Some(self.taints.id(device.taints.as_slice())) };
        let form = Form {
            name: self.texts.id(device.name.as_str()),
            attributes: self.attributes.id(shared.as_slice()),
            capacity: self.capacities.id(capacity.as_slice()),
            shareable: device.shareable,
            pays: pays.into(),
            taints,
        };
        (form, self.attributes.id(own.as_slice()), unknown)
    }

    fn value(&mut self, value: &Attribute) -> u32 {
        match self.values.find(value) {
            Some(id) => id,
            None => self.values.adopt(Arc::new(value.clone())),
        }
    }

    fn derive(&mut self, blueprint: Blueprint) -> Layout {
        let mut by_name = HashMap::with_capacity(blueprint.devices.len());
        let (mut rooms, mut sizes, mut room_names) = (Vec::new(), Vec::new(), Vec::new());
        for (position, form) in blueprint.devices.iter().enumerate() {
            by_name.insert(form.name, u16::try_from(position).unwrap_or(u16::MAX));
            let start = u32::try_from(sizes.len()).unwrap_or(u32::MAX);
            let capacities = self.capacities.get(form.capacity).filter(|_| form.shareable);
            let capacities = capacities.map_or(&[][..], |set| set);
            rooms.push((start, u16::try_from(capacities.len()).unwrap_or(u16::MAX)));
            sizes.extend(capacities.iter().map(|(_, c)| c.value));
            room_names.extend(capacities.iter().map(|(name, _)| *name));
        }
        let compound = |form: &&Form| !form.shareable && form.pays.len() > 1;
        let modules: Box<[Box<[u16]>]> = blueprint
            .devices
            .iter()
            .filter(compound)
            .map(|form| form.pays.iter().map(|(counter, _)| *counter).collect())
            .collect();
        let in_module = |counter: &u16| modules.iter().any(|m| m.contains(counter));
        let singles = (0u16..)
            .zip(blueprint.devices.iter())
            .filter(|(_, form)| !compound(form) && !form.pays.iter().any(|(counter, _)| in_module(counter)))
            .map(|(position, _)| position)
            .collect();
        let module_of = |counter: u16| modules.iter().position(|m| m.contains(&counter));
        let counters = 0..u16::try_from(blueprint.counters.len()).unwrap_or(u16::MAX);
        let of_counter =
            counters.map(|c| module_of(c).and_then(|m| u16::try_from(m).ok()).unwrap_or(u16::MAX));
        let of_counter = of_counter.collect();
        self.made = self.made.saturating_add(1);
        let broken = !blueprint.missing.is_empty() || by_name.len() < blueprint.devices.len();
        Layout {
            broken,
            id: self.made,
            by_name,
            rooms: rooms.into(),
            sizes: sizes.into(),
            room_names: room_names.into(),
            modules,
            of_counter,
            singles,
            cells: cells(&blueprint.devices),
            blueprint,
        }
    }

    /// The value of an attribute of a device, as a number.
    pub(crate) fn attribute(&self, layout: &Layout, own: &[u32], device: usize, name: u32) -> Option<u32> {
        let shared = layout.form(device).map(|form| form.attributes);
        [shared, own.get(device).copied()].into_iter().flatten().find_map(|set| {
            let set = self.attributes.get(set)?;
            let found = set.binary_search_by_key(&name, |(n, _)| *n).ok()?;
            set.get(found).map(|(_, value)| *value)
        })
    }
}

/// Whether an attribute may differ between pools of one layout.
pub(crate) fn is_own(name: &str) -> bool {
    OWN.contains(&name)
}
