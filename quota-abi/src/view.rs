//! Bounds-checked views over mapped regions. Building one checks the header against the mapped length; after
//! that every access is inside the mapping whatever a tenant writes into it.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(loom))]
use crate::device::ChipTable;
use crate::device::{DEVICE_ENTRY_SIZE, DEVICE_SIZE, DeviceEntry, ENTRIES_OFFSET, LEASE_OFFSET};
use crate::header::{HEADER_SIZE, Header, HeaderInit, Kind, Unusable};
use crate::quota::{QUOTA_ENTRY_SIZE, QuotaEntry, quota_size};
use crate::slot::{SLOT_CELL_SIZE, SLOT_HEAD_SIZE, SlotCell, SlotHead, SlotTable};
use crate::usage::{
    USAGE_DEVICE_SIZE, USAGE_DEVICES_OFFSET, UsageDevice, slot_stride, slots_offset, usage_size,
};
use crate::{DEVICE_ENTRIES, LAYOUT_VERSION};

/// A mapped range that outlives every use of the view.
#[derive(Debug, Clone, Copy)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a Mapping is an address range; all that is reached through it are atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Describes `len` mapped bytes from `base`.
    ///
    /// # Safety
    /// The range stays mapped readable (and writable where a view writes) for as long as this value or anything
    /// made from it is used, and is only accessed atomically by others.
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    /// A reference to a `T` of atomics at `offset`, if it lies inside and aligned.
    fn at<T>(&self, offset: usize) -> Option<&T> {
        let end = offset.checked_add(size_of::<T>())?;
        let address = self.base.as_ptr().wrapping_add(offset).cast::<T>();
        if end > self.len || !address.is_aligned() {
            return None;
        }
        // SAFETY: inside the mapping (checked above), aligned, mapped for as long as `self` (contract of
        // `new`), and `T` consists of atomics, for which any bits are valid.
        Some(unsafe { &*address })
    }

    fn checked(&self, kind: Kind) -> Result<&Header, Unusable> {
        if !self.base.as_ptr().cast::<Header>().is_aligned() {
            return Err(Unusable::Misaligned);
        }
        let header = self.header().ok_or(Unusable::Truncated)?;
        header.check(kind, self.len)?;
        Ok(header)
    }

    /// The header, if the range can hold one.
    pub fn header(&self) -> Option<&Header> {
        self.at(0)
    }

    /// The lowest layout that the region's writer asks of readers, with the one this crate is.
    pub fn versions(&self) -> Option<(u16, u16)> {
        self.header().map(|h| (h.min_reader.load(Ordering::Relaxed), LAYOUT_VERSION))
    }
}

/// A `quota` region.
#[derive(Debug, Clone, Copy)]
pub struct QuotaView {
    map: Mapping,
    devices: u16,
}

impl QuotaView {
    /// Views a finished region.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(map: Mapping) -> Result<Self, Unusable> {
        let devices = map.checked(Kind::Quota)?.device_count.load(Ordering::Relaxed);
        if quota_size(devices) > map.len {
            return Err(Unusable::BadCounts);
        }
        Ok(Self { map, devices })
    }

    /// Makes a region in zeroed memory: header first, entries to be written, then [`QuotaView::publish`].
    ///
    /// # Errors
    /// The range is too short or not aligned.
    pub fn prepare(map: Mapping, devices: u16) -> Result<Self, Unusable> {
        prepare(&map, quota_size(devices))?;
        Ok(Self { map, devices })
    }

    /// Writes the header, which makes the region usable.
    pub fn publish(&self, claim_uid: [u8; 16], generation: u64) {
        let region_size = u32::try_from(quota_size(self.devices)).unwrap_or(u32::MAX);
        publish(
            &self.map,
            Kind::Quota,
            &HeaderInit { region_size, device_count: self.devices, slot_count: 0, claim_uid, generation },
        );
    }

    /// Chips of the claim.
    pub fn devices(&self) -> usize {
        usize::from(self.devices)
    }

    /// The entry of chip `device`.
    pub fn entry(&self, device: usize) -> Option<&QuotaEntry> {
        if device >= self.devices() {
            return None;
        }
        self.map.at(HEADER_SIZE + device * QUOTA_ENTRY_SIZE)
    }

    /// The header.
    pub fn header(&self) -> Option<&Header> {
        self.map.header()
    }
}

/// A `usage` region.
#[derive(Debug, Clone, Copy)]
pub struct UsageView {
    map: Mapping,
    devices: u16,
    slots: u16,
}

impl UsageView {
    /// Views a finished region.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(map: Mapping) -> Result<Self, Unusable> {
        let header = map.checked(Kind::Usage)?;
        let devices = header.device_count.load(Ordering::Relaxed);
        let slots = header.slot_count.load(Ordering::Relaxed);
        if slots == 0 || usage_size(devices, slots) > map.len {
            return Err(Unusable::BadCounts);
        }
        Ok(Self { map, devices, slots })
    }

    /// Views a region of known counts without a look at its header, which every process of the claim can write.
    ///
    /// # Errors
    /// The range is too short or not aligned.
    pub fn over(map: Mapping, devices: u16, slots: u16) -> Result<Self, Unusable> {
        prepare(&map, usage_size(devices, slots))?;
        Ok(Self { map, devices, slots })
    }

    /// Makes a region in zeroed memory and publishes it.
    ///
    /// # Errors
    /// The range is too short or not aligned.
    pub fn create(
        map: Mapping,
        devices: u16,
        slots: u16,
        claim_uid: [u8; 16],
        generation: u64,
    ) -> Result<Self, Unusable> {
        let size = usage_size(devices, slots);
        prepare(&map, size)?;
        let region_size = u32::try_from(size).map_err(|_| Unusable::BadCounts)?;
        publish(
            &map,
            Kind::Usage,
            &HeaderInit { region_size, device_count: devices, slot_count: slots, claim_uid, generation },
        );
        Ok(Self { map, devices, slots })
    }

    /// Counters of chip `device`.
    pub fn device(&self, device: usize) -> Option<&UsageDevice> {
        if device >= usize::from(self.devices) {
            return None;
        }
        self.map.at(USAGE_DEVICES_OFFSET + device * USAGE_DEVICE_SIZE)
    }

    /// The header.
    pub fn header(&self) -> Option<&Header> {
        self.map.header()
    }

    fn slot(&self, slot: usize) -> Option<usize> {
        (slot < usize::from(self.slots))
            .then(|| slots_offset(self.devices) + slot * slot_stride(self.devices))
    }
}

#[cfg(not(loom))]
impl SlotTable for UsageView {
    fn capacity(&self) -> usize {
        usize::from(self.slots)
    }

    fn devices(&self) -> usize {
        usize::from(self.devices)
    }

    fn high_water(&self) -> usize {
        self.map.header().map_or(0, |h| usize::from(h.slots_high_water.load(Ordering::SeqCst)))
    }

    fn raise_high_water(&self, slots: usize) {
        if let (Some(header), Ok(slots)) = (self.map.header(), u16::try_from(slots)) {
            header.slots_high_water.fetch_max(slots, Ordering::SeqCst);
        }
    }

    fn head(&self, slot: usize) -> Option<&SlotHead> {
        self.map.at(self.slot(slot)?)
    }

    fn cell(&self, slot: usize, device: usize) -> Option<&SlotCell> {
        if device >= usize::from(self.devices) {
            return None;
        }
        self.map.at(self.slot(slot)? + SLOT_HEAD_SIZE + device * SLOT_CELL_SIZE)
    }
}

/// A `device` region.
#[derive(Debug, Clone, Copy)]
pub struct DeviceView {
    map: Mapping,
}

impl DeviceView {
    /// Views a finished region.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(map: Mapping) -> Result<Self, Unusable> {
        map.checked(Kind::Device)?;
        if DEVICE_SIZE > map.len {
            return Err(Unusable::BadCounts);
        }
        Ok(Self { map })
    }

    /// Makes a region in zeroed memory and publishes it.
    ///
    /// # Errors
    /// The range is too short or not aligned.
    pub fn create(map: Mapping, generation: u64) -> Result<Self, Unusable> {
        prepare(&map, DEVICE_SIZE)?;
        publish(
            &map,
            Kind::Device,
            &HeaderInit {
                region_size: u32::try_from(DEVICE_SIZE).unwrap_or(u32::MAX),
                device_count: DEVICE_ENTRIES,
                slot_count: 0,
                claim_uid: [0; 16],
                generation,
            },
        );
        Ok(Self { map })
    }

    /// The lease word.
    pub fn lease(&self) -> Option<&AtomicU64> {
        self.map.at(LEASE_OFFSET)
    }

    /// The entry of one claim.
    pub fn entry(&self, entry: u16) -> Option<&DeviceEntry> {
        if entry >= DEVICE_ENTRIES {
            return None;
        }
        self.map.at(ENTRIES_OFFSET + usize::from(entry) * DEVICE_ENTRY_SIZE)
    }
}

#[cfg(not(loom))]
impl ChipTable for DeviceView {
    fn lease(&self) -> Option<&AtomicU64> {
        Self::lease(self)
    }

    fn entry(&self, entry: u16) -> Option<&DeviceEntry> {
        Self::entry(self, entry)
    }
}

fn prepare(map: &Mapping, size: usize) -> Result<(), Unusable> {
    if size > map.len || u32::try_from(size).is_err() {
        return Err(Unusable::Truncated);
    }
    if !map.base.as_ptr().cast::<Header>().is_aligned() {
        return Err(Unusable::Misaligned);
    }
    Ok(())
}

fn publish(map: &Mapping, kind: Kind, init: &HeaderInit) {
    if let Some(header) = map.header() {
        header.init(kind, init);
    }
}
