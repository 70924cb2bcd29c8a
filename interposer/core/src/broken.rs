//! A claim of this process that it takes no part in: whom that concerns, what happens to allocations meanwhile,
//! and where they are counted if the reason is a table without a free slot.

use std::sync::atomic::{AtomicU64, Ordering};

use vnpu_quota_abi::usage::UsageDevice;
use vnpu_quota_abi::view::UsageView;

use crate::chips::Chip;
use crate::map::Region;

/// A claim whose regions cannot be used.
pub(crate) struct Broken {
    /// The chips it is about; `None` when not even that could be read.
    pub(crate) chips: Option<Vec<Chip>>,
    /// Whether allocations are refused.
    pub(crate) closed: bool,
    /// The regions are sound, but every slot is taken.
    pub(crate) full: Option<FullTable>,
}

/// A `usage` region with every slot taken. Its counters can be used; no lock was taken on its file.
pub(crate) struct FullTable {
    pub(crate) usage: UsageView,
    // Behind the view.
    pub(crate) _region: Region,
}

impl Broken {
    /// Whether it may be about `chip`: certainly not only when both are known.
    pub(crate) fn concerns(&self, chip: Option<Chip>) -> bool {
        match (&self.chips, chip) {
            (Some(chips), Some(chip)) => chips.contains(&chip),
            _ => true,
        }
    }

    /// Counts this process as one without a slot.
    pub(crate) fn count_process(&self) {
        // The first chip's: the table is the claim's.
        self.count(0, |counters| &counters.slotless_processes);
    }

    /// Counts an allocation on `chip` that was refused for want of a slot.
    pub(crate) fn count_denied(&self, chip: Option<Chip>) {
        self.count(self.device_of(chip), |counters| &counters.slotless_denied);
    }

    /// Counts an allocation on `chip` that was let through. Returns whether there is a place to count it.
    pub(crate) fn count_unhooked(&self, chip: Option<Chip>) -> bool {
        let counters = self.full.as_ref().and_then(|full| full.usage.device(self.device_of(chip)));
        counters.map(|counters| counters.unhooked.fetch_add(1, Ordering::Relaxed)).is_some()
    }

    fn count(&self, device: usize, counter: impl Fn(&UsageDevice) -> &AtomicU64) {
        if let Some(counters) = self.full.as_ref().and_then(|full| full.usage.device(device)) {
            counter(counters).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The claim's index of `chip`; the first when that cannot be told.
    fn device_of(&self, chip: Option<Chip>) -> usize {
        let chips = self.chips.as_deref().unwrap_or_default();
        chips.iter().position(|c| Some(*c) == chip).unwrap_or(0)
    }
}
