//! One process of a claim: its slot in the `usage` region. Free, owned, or being reaped; the owner word alone
//! says which, and every change of it is one compare-and-swap.
//!
//! Whoever takes or reaps slot `i` first takes the POSIX record lock on byte `i` of the usage file; the kernel
//! drops it when the process dies, however it dies. So an owned slot whose lock is free belongs to a dead
//! process, unless that process closed the file by accident, which the caller cross-checks.

use crate::mark::{Mark, reached};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Owner word of a slot that nobody has.
pub const FREE: u64 = 0;
/// Owner word of a slot that is being zeroed.
pub const REAPING: u64 = u64::MAX;

/// The fixed part of a slot.
#[derive(Debug)]
#[repr(C)]
pub struct SlotHead {
    /// [`FREE`], [`REAPING`] or the [`owner_word`] of a process.
    pub owner: AtomicU64,
    /// Inode number of the owner's PID namespace: its pid means something only there.
    pub pidns_inode: AtomicU32,
    /// 0; kept for the compute half.
    pub state: AtomicU32,
    /// Counts operations of the owner.
    pub heartbeat: AtomicU64,
    /// 0.
    pub reserved: [AtomicU64; 13],
}

/// Bytes of [`SlotHead`].
pub const SLOT_HEAD_SIZE: usize = 128;

/// What one process holds on one chip.
#[derive(Debug)]
#[repr(C)]
pub struct SlotCell {
    /// Bytes of successful allocations.
    pub committed: AtomicU64,
    /// Bytes of allocations that are being made.
    pub reserved: AtomicU64,
    /// Bytes of runtime overhead that the agent attributes to the process.
    pub overhead: AtomicU64,
    /// 0.
    pub padding: AtomicU64,
}

/// Bytes of [`SlotCell`].
pub const SLOT_CELL_SIZE: usize = 32;

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<SlotHead>() == SLOT_HEAD_SIZE);
    assert!(size_of::<SlotCell>() == SLOT_CELL_SIZE);
    assert!(core::mem::offset_of!(SlotHead, heartbeat) == 16);
};

impl SlotHead {
    /// A free slot, for tests and model checking; regions are mapped instead.
    pub fn new() -> Self {
        Self {
            owner: AtomicU64::new(FREE),
            pidns_inode: AtomicU32::new(0),
            state: AtomicU32::new(0),
            heartbeat: AtomicU64::new(0),
            reserved: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Default for SlotHead {
    fn default() -> Self {
        Self::new()
    }
}

impl SlotCell {
    /// An empty cell, for tests and model checking; regions are mapped instead.
    pub fn new() -> Self {
        Self {
            committed: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            overhead: AtomicU64::new(0),
            padding: AtomicU64::new(0),
        }
    }
}

impl Default for SlotCell {
    fn default() -> Self {
        Self::new()
    }
}

/// A table of slots: a mapped `usage` region, or a stand-in for model checking.
pub trait SlotTable {
    /// All slots.
    fn capacity(&self) -> usize;
    /// Chips per slot.
    fn devices(&self) -> usize;
    /// One more than the highest slot ever taken.
    fn high_water(&self) -> usize;
    /// Raises [`SlotTable::high_water`] to at least `slots`, sequentially consistent.
    fn raise_high_water(&self, slots: usize);
    /// Head of slot `slot`.
    fn head(&self, slot: usize) -> Option<&SlotHead>;
    /// Cell of slot `slot` for chip `device`.
    fn cell(&self, slot: usize, device: usize) -> Option<&SlotCell>;
}

/// The owner word of a process: the low half of its start time (field 22 of `/proc/<pid>/stat`) above its pid.
pub const fn owner_word(pid: u32, starttime: u64) -> u64 {
    (starttime & 0xffff_ffff) << 32 | pid as u64
}

/// The pid in an owner word.
pub const fn owner_pid(owner: u64) -> u32 {
    (owner & 0xffff_ffff) as u32
}

/// The low half of the start time in an owner word.
pub const fn owner_starttime(owner: u64) -> u32 {
    (owner >> 32) as u32
}

/// Takes slot `slot` for `owner` (neither [`FREE`] nor [`REAPING`]). The caller holds the slot's record lock.
/// Returns whether it was free.
pub fn claim<T: SlotTable>(table: &T, slot: usize, owner: u64, pidns_inode: u32) -> bool {
    let Some(head) = table.head(slot) else { return false };
    // Raised before the slot can hold bytes, so that no sum misses them.
    table.raise_high_water(slot + 1);
    reached(Mark::HighWaterRaised);
    // SYNC POINT: Acquire pairs with the Release at the end of `finish_reap`: the new owner sees zeroed cells.
    if head.owner.compare_exchange(FREE, owner, Ordering::SeqCst, Ordering::Relaxed).is_err() {
        return false;
    }
    reached(Mark::SlotTaken);
    head.pidns_inode.store(pidns_inode, Ordering::Relaxed);
    reached(Mark::SlotNamed);
    true
}

/// Starts to reap slot `slot` if `owner` still has it. The caller found the owner dead, or is the owner.
/// Exactly one caller gets `true` and must call [`finish_reap`].
pub fn begin_reap<T: SlotTable>(table: &T, slot: usize, owner: u64) -> bool {
    let begun = table.head(slot).is_some_and(|head| {
        owner != FREE
            && head.owner.compare_exchange(owner, REAPING, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    });
    if begun {
        reached(Mark::ReapBegun);
    }
    begun
}

/// Zeroes the slot after [`begin_reap`] and frees it; returns the bytes it held over all chips. Also finishes
/// what a reaper that died left as [`REAPING`]; the caller then holds the slot's record lock.
///
/// A caller that lost its lock and comes late, when somebody else has finished, stops at the first step that it finds
/// the slot in other hands at. The one in which it was stopped may take a cell of the next owner's; never the slot.
pub fn finish_reap<T: SlotTable>(table: &T, slot: usize) -> u64 {
    let Some(head) = table.head(slot) else { return 0 };
    let is_ours = || head.owner.load(Ordering::SeqCst) == REAPING;
    let mut bytes = 0_u64;
    for device in 0..table.devices() {
        let Some(cell) = table.cell(slot, device) else { continue };
        for (word, counts) in [(&cell.committed, true), (&cell.reserved, true), (&cell.overhead, false)] {
            if !is_ours() {
                return bytes;
            }
            let held = word.swap(0, Ordering::SeqCst);
            bytes = bytes.saturating_add(if counts { held } else { 0 });
        }
        reached(Mark::ReapCellZeroed);
    }
    if !is_ours() {
        return bytes;
    }
    head.pidns_inode.store(0, Ordering::Relaxed);
    head.state.store(0, Ordering::Relaxed);
    head.heartbeat.store(0, Ordering::Relaxed);
    reached(Mark::ReapZeroed);
    // SYNC POINT: pairs with the compare-and-swap in `claim`.
    let _ = head.owner.compare_exchange(REAPING, FREE, Ordering::SeqCst, Ordering::Relaxed);
    reached(Mark::ReapFreed);
    bytes
}
