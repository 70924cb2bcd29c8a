//! The region of one chip, and which of its entries belongs to which claim. The claims' own quota files are the
//! only record of that, so that a restarted agent knows what the last one knew.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::share::ChipShare;
use vnpu_quota_abi::DEVICE_ENTRIES;
use vnpu_quota_abi::device::DEVICE_SIZE;
use vnpu_quota_abi::view::DeviceView;

use crate::AgentError;
use crate::claim::mode_number;
use crate::layout::Layout;
use crate::map::RegionFile;

/// Entries in use, per chip.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    chips: BTreeMap<DeviceUuid, BTreeMap<u16, ClaimUid>>,
}

impl Entries {
    /// Notes that `claim` has `entry` of `chip`.
    pub(crate) fn insert(&mut self, chip: &DeviceUuid, entry: u16, claim: &ClaimUid) {
        self.chips.entry(chip.clone()).or_default().insert(entry, claim.clone());
    }

    /// The entry of `claim` on `chip`: the one it has, else the lowest free one.
    pub(crate) fn pick(&self, chip: &DeviceUuid, claim: &ClaimUid) -> Result<u16, AgentError> {
        let empty = BTreeMap::new();
        let taken = self.chips.get(chip).unwrap_or(&empty);
        if let Some((entry, _)) = taken.iter().find(|(_, c)| *c == claim) {
            return Ok(*entry);
        }
        (0..DEVICE_ENTRIES)
            .find(|entry| !taken.contains_key(entry))
            .ok_or_else(|| AgentError::DeviceFull(chip.clone()))
    }

    /// Forgets one entry of `claim` and returns it, with whether it was the chip's last; `None` when it has none.
    pub(crate) fn take(&mut self, claim: &ClaimUid) -> Option<(DeviceUuid, u16, bool)> {
        let (chip, entry) = self.chips.iter().find_map(|(chip, taken)| {
            taken.iter().find(|(_, c)| *c == claim).map(|(entry, _)| (chip.clone(), *entry))
        })?;
        let taken = self.chips.get_mut(&chip)?;
        taken.remove(&entry);
        let last = taken.is_empty();
        if last {
            self.chips.remove(&chip);
        }
        Some((chip, entry, last))
    }

    /// The claims on `chip`.
    pub(crate) fn claims_on(&self, chip: &DeviceUuid) -> Vec<ClaimUid> {
        self.chips.get(chip).map(|taken| taken.values().cloned().collect()).unwrap_or_default()
    }

    /// Whether any claim is on `chip`.
    pub(crate) fn serves(&self, chip: &DeviceUuid) -> bool {
        self.chips.contains_key(chip)
    }
}

/// Writes the claim's entry into the chip's region, which is made if it is absent or unusable.
pub(crate) fn write_entry(
    layout: &Layout,
    share: &ChipShare,
    entry: u16,
    generation: u64,
) -> Result<(), AgentError> {
    let path = layout.device(&share.uuid);
    let existing = RegionFile::open(&path)?;
    // Nothing of a memory quota lives here, so an unusable region is simply replaced.
    let usable = match &existing {
        Some(file) => DeviceView::open(file.mapping()?).is_ok(),
        None => false,
    };
    let file = match existing {
        Some(file) if usable => file,
        _ => {
            let mut file = RegionFile::create(&path, DEVICE_SIZE, 0o666)?;
            DeviceView::create(file.mapping()?, generation).map_err(|e| file.unusable(e))?;
            file.rename(&path)?;
            file
        }
    };
    let view = DeviceView::open(file.mapping()?).map_err(|e| file.unusable(e))?;
    if let Some(to) = view.entry(entry) {
        to.priority.store(share.priority, Ordering::Relaxed);
        to.mode.store(mode_number(share.mode), Ordering::Relaxed);
        to.share_milli.store(share.cores.0.saturating_mul(10), Ordering::Release);
    }
    Ok(())
}

/// Zeroes an entry that no claim has any more.
pub(crate) fn clear_entry(layout: &Layout, chip: &DeviceUuid, entry: u16) -> Result<(), AgentError> {
    let Some(file) = RegionFile::open(&layout.device(chip))? else { return Ok(()) };
    let Ok(view) = DeviceView::open(file.mapping()?) else { return Ok(()) };
    if let Some(to) = view.entry(entry) {
        to.share_milli.store(0, Ordering::Release);
        to.priority.store(0, Ordering::Relaxed);
        to.mode.store(0, Ordering::Relaxed);
        to.last_active_tick.store(0, Ordering::Relaxed);
        to.waiting_until.store(0, Ordering::Relaxed);
        to.busy_ns.store(0, Ordering::Relaxed);
        to.tat.store(0, Ordering::Relaxed);
    }
    Ok(())
}
