//! The `device` region: one per chip, shared by the claims on it. It holds the compute lease and one entry per
//! claim; the memory half needs nothing of it, so that a hostile neighbour cannot touch a claim's bytes.

use crate::DEVICE_ENTRIES;
use crate::sync::{AtomicI64, AtomicU8, AtomicU32, AtomicU64};

/// Offset of the lease word `{epoch:16, owner:16, expiry_tick:32}`.
pub const LEASE_OFFSET: usize = 64;
/// Offset of entry 0.
pub const ENTRIES_OFFSET: usize = 128;

/// One claim on the chip.
#[derive(Debug)]
#[repr(C)]
pub struct DeviceEntry {
    /// The bucket with debt, a word of [`crate::bucket`].
    pub tat: AtomicI64,
    /// Thousandths of the chip's compute; 0 in an unused entry.
    pub share_milli: AtomicU32,
    /// 0 to 10.
    pub priority: AtomicU8,
    /// Compute mode as in the quota.
    pub mode: AtomicU8,
    /// 0.
    pub reserved16: [AtomicU8; 2],
    /// Tick of the claim's last activity.
    pub last_active_tick: AtomicU32,
    /// Tick until which the claim waits for the lease.
    pub waiting_until: AtomicU32,
    /// Nanoseconds of device time charged to the claim.
    pub busy_ns: AtomicU64,
    /// 0.
    pub reserved: [AtomicU64; 12],
}

impl DeviceEntry {
    /// An unused entry, for tests and model checking; regions are mapped instead.
    pub fn new() -> Self {
        Self {
            tat: AtomicI64::new(0),
            share_milli: AtomicU32::new(0),
            priority: AtomicU8::new(0),
            mode: AtomicU8::new(0),
            reserved16: core::array::from_fn(|_| AtomicU8::new(0)),
            last_active_tick: AtomicU32::new(0),
            waiting_until: AtomicU32::new(0),
            busy_ns: AtomicU64::new(0),
            reserved: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Default for DeviceEntry {
    fn default() -> Self {
        Self::new()
    }
}

/// One chip as the claims on it share it: a mapped `device` region, or a stand-in for model checking.
pub trait ChipTable {
    /// The lease word of [`crate::lease`].
    fn lease(&self) -> Option<&AtomicU64>;
    /// The entry of one claim; `None` behind the last.
    fn entry(&self, entry: u16) -> Option<&DeviceEntry>;
}

/// Bytes of [`DeviceEntry`].
pub const DEVICE_ENTRY_SIZE: usize = 128;

#[cfg(not(loom))]
const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<DeviceEntry>() == DEVICE_ENTRY_SIZE);
    assert!(offset_of!(DeviceEntry, share_milli) == 8);
    assert!(offset_of!(DeviceEntry, last_active_tick) == 16);
    assert!(offset_of!(DeviceEntry, busy_ns) == 24);
};

/// Bytes of a `device` region.
pub const DEVICE_SIZE: usize = ENTRIES_OFFSET + DEVICE_ENTRIES as usize * DEVICE_ENTRY_SIZE;
