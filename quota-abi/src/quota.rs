//! The `quota` region: per chip of a claim, what it may use. Only the agent writes; it changes an entry in
//! place under a sequence number, so that a reader never acts on half a change.

use core::mem::size_of;

use crate::header::HEADER_SIZE;
use crate::mark::{Mark, reached};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// [`QuotaValues::flags`]: refuse allocations when the ledger cannot be used.
pub const FAIL_CLOSED: u32 = 1;
/// [`QuotaValues::flags`]: runtime overhead counts against the quota.
pub const CHARGE_OVERHEAD: u32 = 1 << 1;

/// Longest chip identity in bytes.
pub const UUID_SIZE: usize = 64;

/// One chip in the region; the i-th entry belongs to the i-th device of the claim's `usage` region.
#[derive(Debug)]
#[repr(C)]
pub struct QuotaEntry {
    uuid: [AtomicU64; UUID_SIZE / 8],
    phys_id: AtomicU32,
    minor: AtomicU32,
    // entry:16 | mode:8 | priority:8
    packed: AtomicU32,
    flags: AtomicU32,
    share_milli: AtomicU32,
    seq: AtomicU32,
    memory: AtomicU64,
    reserved: [AtomicU64; 20],
}

/// Bytes of [`QuotaEntry`].
pub const QUOTA_ENTRY_SIZE: usize = 256;
#[cfg(not(loom))]
const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<QuotaEntry>() == QUOTA_ENTRY_SIZE);
    assert!(offset_of!(QuotaEntry, phys_id) == 64);
    assert!(offset_of!(QuotaEntry, packed) == 72);
    assert!(offset_of!(QuotaEntry, share_milli) == 80);
    assert!(offset_of!(QuotaEntry, seq) == 84);
    assert!(offset_of!(QuotaEntry, memory) == 88);
};
const _: () = assert!(size_of::<usize>() == 8, "the interposer serves 64-bit processes only");

/// Bytes of a `quota` region of `devices` chips.
pub const fn quota_size(devices: u16) -> usize {
    HEADER_SIZE + devices as usize * QUOTA_ENTRY_SIZE
}

/// One consistent reading of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaValues {
    /// The chip's identity, padded with zeros.
    pub uuid: [u8; UUID_SIZE],
    /// Number in the device node's name.
    pub phys_id: u32,
    /// Minor number of the device node, or `u32::MAX` when unknown.
    pub minor: u32,
    /// Index of this claim in the chip's `device` region.
    pub entry: u16,
    /// Compute mode: 0 hard, 1 elastic, 2 best effort.
    pub mode: u8,
    /// Compute priority, 0 to 10.
    pub priority: u8,
    /// [`FAIL_CLOSED`] and [`CHARGE_OVERHEAD`].
    pub flags: u32,
    /// Thousandths of the chip's compute.
    pub share_milli: u32,
    /// Bytes of device memory.
    pub memory: u64,
}

impl QuotaValues {
    /// The chip's identity as text, without the padding.
    pub fn uuid_bytes(&self) -> &[u8] {
        let end = self.uuid.iter().position(|b| *b == 0).unwrap_or(UUID_SIZE);
        self.uuid.get(..end).unwrap_or(&self.uuid)
    }
}

/// Tries of a reader before it says that the entry is being written for too long (a writer that died).
const READ_TRIES: u32 = 1000;

impl QuotaEntry {
    /// An entry of zeros, for tests and model checking; regions are mapped instead.
    pub fn new() -> Self {
        Self {
            uuid: core::array::from_fn(|_| AtomicU64::new(0)),
            phys_id: AtomicU32::new(0),
            minor: AtomicU32::new(0),
            packed: AtomicU32::new(0),
            flags: AtomicU32::new(0),
            share_milli: AtomicU32::new(0),
            seq: AtomicU32::new(0),
            memory: AtomicU64::new(0),
            reserved: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Puts `values` in place. One writer at a time (the agent holds a lock); an odd sequence number left by a
    /// writer that died is taken up and made even.
    pub fn write(&self, values: &QuotaValues) {
        let before = self.seq.load(Ordering::Relaxed) | 1;
        self.seq.store(before, Ordering::Relaxed);
        // SYNC POINT: no field below may become visible before the odd number; pairs with the Acquire fence
        // of `read`.
        fence(Ordering::Release);
        reached(Mark::QuotaOdd);
        for (to, from) in self.uuid.iter().zip(values.uuid.chunks_exact(8)) {
            let mut word = [0; 8];
            word.copy_from_slice(from);
            to.store(u64::from_ne_bytes(word), Ordering::Relaxed);
        }
        self.phys_id.store(values.phys_id, Ordering::Relaxed);
        self.minor.store(values.minor, Ordering::Relaxed);
        let packed =
            u32::from(values.entry) | u32::from(values.mode) << 16 | u32::from(values.priority) << 24;
        self.packed.store(packed, Ordering::Relaxed);
        self.flags.store(values.flags, Ordering::Relaxed);
        self.share_milli.store(values.share_milli, Ordering::Relaxed);
        self.memory.store(values.memory, Ordering::Relaxed);
        reached(Mark::QuotaWritten);
        // SYNC POINT: pairs with the Acquire load of `read`.
        self.seq.store(before.wrapping_add(1), Ordering::Release);
    }

    /// One consistent reading; `None` when a change stays unfinished (its writer died).
    pub fn read(&self) -> Option<QuotaValues> {
        for _ in 0..READ_TRIES {
            if let Some(values) = self.try_read() {
                return Some(values);
            }
            #[cfg(loom)]
            loom::thread::yield_now();
            #[cfg(not(loom))]
            core::hint::spin_loop();
        }
        None
    }

    /// One try of [`QuotaEntry::read`]; `None` while a change is under way.
    pub fn try_read(&self) -> Option<QuotaValues> {
        // SYNC POINT: pairs with the Release store that ends `write`.
        let seq = self.seq.load(Ordering::Acquire);
        if seq & 1 == 1 {
            return None;
        }
        let values = self.read_unchecked();
        // SYNC POINT: pairs with the Release fence of `write`.
        fence(Ordering::Acquire);
        (self.seq.load(Ordering::Relaxed) == seq).then_some(values)
    }

    /// The fields as they stand, also in the middle of a change: each is of before or after it, and what the
    /// change did not touch is right. For the writer, which has nobody to race with.
    pub fn read_unchecked(&self) -> QuotaValues {
        let mut uuid = [0; UUID_SIZE];
        for (to, from) in uuid.chunks_exact_mut(8).zip(&self.uuid) {
            to.copy_from_slice(&from.load(Ordering::Relaxed).to_ne_bytes());
        }
        let packed = self.packed.load(Ordering::Relaxed);
        QuotaValues {
            uuid,
            phys_id: self.phys_id.load(Ordering::Relaxed),
            minor: self.minor.load(Ordering::Relaxed),
            entry: (packed & 0xffff) as u16,
            mode: (packed >> 16 & 0xff) as u8,
            priority: (packed >> 24) as u8,
            flags: self.flags.load(Ordering::Relaxed),
            share_milli: self.share_milli.load(Ordering::Relaxed),
            memory: self.memory.load(Ordering::Relaxed),
        }
    }
}

impl Default for QuotaEntry {
    fn default() -> Self {
        Self::new()
    }
}
