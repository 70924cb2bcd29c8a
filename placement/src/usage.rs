//! What of one pool's devices is used: exclusive allocations, shares and counters. How a claim finds devices in what
//! is left is in `search.rs`.

use crate::layout::Layout;

/// A claim's hold on one device of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    /// The device's name, as a text.
    pub(crate) device: u32,
    /// What was counted against its capacities, by name; empty for an exclusive device.
    pub(crate) consumed: Box<[(u32, u64)]>,
}

/// The use of one pool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// Exclusive allocations of each device; more than one is somebody's error and stays blocked until all are gone.
    pub(crate) blocked: Box<[u16]>,
    /// Shares of each device.
    pub(crate) shares: Box<[u16]>,
    /// What is used of each capacity, in the layout's order.
    pub(crate) rooms: Box<[u64]>,
    /// What is used of each counter.
    pub(crate) counters: Box<[u64]>,
    /// A counter is used beyond its amount: the allocator then gives no device that pays counters.
    pub(crate) overdrawn: bool,
}

impl Usage {
    /// Nothing used.
    pub(crate) fn empty(layout: &Layout) -> Self {
        let devices = layout.blueprint.devices.len();
        Self {
            blocked: vec![0; devices].into(),
            shares: vec![0; devices].into(),
            rooms: vec![0; layout.sizes.len()].into(),
            counters: vec![0; layout.blueprint.counters.len()].into(),
            overdrawn: false,
        }
    }

    /// What the holders of a pool use, in whichever order they come.
    pub(crate) fn of<'a>(layout: &Layout, held: impl Iterator<Item = &'a Held>) -> Self {
        let mut usage = Self::empty(layout);
        for hold in held {
            if let Some(device) = layout.device(hold.device) {
                usage.charge(layout, device, hold);
            }
        }
        usage.pay_counters(layout);
        usage
    }

    fn charge(&mut self, layout: &Layout, device: usize, hold: &Held) {
        let shareable = layout.form(device).is_some_and(|form| form.shareable);
        // A hold without amounts on a shareable device is from before it became one: it blocks the device.
        let share = shareable && (!hold.consumed.is_empty() || layout.rooms(device).is_empty());
        let count = if share { &mut self.shares } else { &mut self.blocked };
        if let Some(count) = count.get_mut(device) {
            *count = count.saturating_add(1);
        }
        for position in layout.rooms(device) {
            let name = layout.room_names.get(position);
            let amount = hold.consumed.iter().find(|(n, _)| Some(n) == name).map_or(0, |(_, amount)| *amount);
            if let Some(used) = self.rooms.get_mut(position) {
                *used = used.saturating_add(amount);
            }
        }
    }

    fn pay_counters(&mut self, layout: &Layout) {
        for (device, form) in layout.blueprint.devices.iter().enumerate() {
            if !self.is_used(device) {
                continue;
            }
            for (counter, amount) in &form.pays {
                if let Some(used) = self.counters.get_mut(usize::from(*counter)) {
                    *used = used.saturating_add(*amount);
                }
            }
        }
        let total = layout.blueprint.counters.iter().map(|(_, _, amount)| amount);
        self.overdrawn = self.counters.iter().zip(total).any(|(used, total)| used > total);
    }

    /// Whether anything of a device is allocated.
    pub(crate) fn is_used(&self, device: usize) -> bool {
        let some = |counts: &[u16]| counts.get(device).is_some_and(|count| *count > 0);
        some(&self.blocked) || some(&self.shares)
    }

    /// Whether anything at all is allocated.
    pub(crate) fn is_idle(&self) -> bool {
        self.blocked.iter().chain(self.shares.iter()).all(|count| *count == 0)
    }

    /// Modules of which some chips are used and some are not.
    pub(crate) fn halves(&self, layout: &Layout) -> u32 {
        self.count_modules(layout, |used, of| used > 0 && used < of)
    }

    /// Modules of which nothing is used.
    pub(crate) fn whole(&self, layout: &Layout) -> u32 {
        self.count_modules(layout, |used, _| used == 0)
    }

    fn count_modules(&self, layout: &Layout, wanted: impl Fn(usize, usize) -> bool) -> u32 {
        let used = |counter: &&u16| self.counters.get(usize::from(**counter)).is_some_and(|used| *used > 0);
        let fits = |module: &[u16]| wanted(module.iter().filter(used).count(), module.len());
        u32::try_from(layout.modules.iter().filter(|module| fits(module)).count()).unwrap_or(u32::MAX)
    }

    /// Chips outside modules of which nothing is used.
    pub(crate) fn free_singles(&self, layout: &Layout) -> u32 {
        let free = layout.singles.iter().filter(|device| !self.is_used(usize::from(**device))).count();
        u32::try_from(free).unwrap_or(u32::MAX)
    }
}
