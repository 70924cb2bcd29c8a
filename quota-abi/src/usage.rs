//! The `usage` region: counters per chip, then the slots. Written by the claim's processes, read and reaped by
//! the agent.

use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::recent::Recent;
use crate::slot::{SLOT_CELL_SIZE, SLOT_HEAD_SIZE};

/// Counters of one chip since the region was made.
#[derive(Debug)]
#[repr(C)]
pub struct UsageDevice {
    /// Nanoseconds of waiting for compute.
    pub throttled_ns: AtomicU64,
    /// Nanoseconds of device time.
    pub busy_ns: AtomicU64,
    /// Launches.
    pub launches: AtomicU64,
    /// Leases taken.
    pub leases: AtomicU64,
    /// Allocations refused because of the quota.
    pub oom_denied: AtomicU64,
    /// Nanoseconds of draining before a lease was handed over.
    pub drain_ns: AtomicU64,
    /// Launches let through because a wait had lasted too long.
    pub forced_admits: AtomicU64,
    /// 0.
    pub flags: AtomicU32,
    /// Calls that could not be accounted: allocations that went round the ledger by policy.
    pub unhooked: AtomicU32,
    /// Frees of pointers that the ledger does not know.
    pub unknown_frees: AtomicU64,
    /// Processes that found every slot taken; each counts once. The table is the claim's and not a chip's, so
    /// only the first chip's counter is used.
    pub slotless_processes: AtomicU64,
    /// Allocations refused to processes without a slot. Those let through instead are in `unhooked`.
    pub slotless_denied: AtomicU64,
    /// Samples of `busy_ns`, for "how busy lately".
    pub recent: Recent,
    /// Functions of the vendor's that take memory or launch, that a program got and that have no hook; in the first
    /// chip's counters, whichever it will be.
    pub unhooked_functions: AtomicU64,
    /// 0.
    pub reserved: [AtomicU64; 2],
}

/// Bytes of [`UsageDevice`].
pub const USAGE_DEVICE_SIZE: usize = 128;

/// Offset of the first [`UsageDevice`]: the header's 64 bytes and as many unused, for whole 128-byte lines.
pub const USAGE_DEVICES_OFFSET: usize = 128;

const _: () = {
    assert!(size_of::<UsageDevice>() == USAGE_DEVICE_SIZE);
    assert!(offset_of!(UsageDevice, oom_denied) == 32);
    assert!(offset_of!(UsageDevice, unhooked) == 60);
    assert!(offset_of!(UsageDevice, unknown_frees) == 64);
    assert!(offset_of!(UsageDevice, slotless_processes) == 72);
    assert!(offset_of!(UsageDevice, slotless_denied) == 80);
    assert!(offset_of!(UsageDevice, recent) == 88);
    assert!(offset_of!(UsageDevice, unhooked_functions) == 104);
    assert!(offset_of!(UsageDevice, reserved) == 112);
};

/// Offset of slot 0.
pub const fn slots_offset(devices: u16) -> usize {
    USAGE_DEVICES_OFFSET + devices as usize * USAGE_DEVICE_SIZE
}

/// Bytes from one slot to the next.
pub const fn slot_stride(devices: u16) -> usize {
    (SLOT_HEAD_SIZE + devices as usize * SLOT_CELL_SIZE).next_multiple_of(128)
}

/// Bytes of a `usage` region.
pub const fn usage_size(devices: u16, slots: u16) -> usize {
    slots_offset(devices) + slots as usize * slot_stride(devices)
}
