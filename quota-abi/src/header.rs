//! The first 64 bytes of every region. Frozen: every version of every reader can judge by them whether it may
//! read on.

use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::{LAYOUT_VERSION, MIN_READER};

/// Which of the regions a file is. The value is the magic number at offset 0 (four letters, native order).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Limits of one claim.
    Quota = u32::from_ne_bytes(*b"VNPQ"),
    /// Ledger of one claim.
    Usage = u32::from_ne_bytes(*b"VNPU"),
    /// One chip, shared by the claims on it.
    Device = u32::from_ne_bytes(*b"VNPD"),
}

/// The header itself. All fields are atomics because the file is mapped by several processes.
#[derive(Debug)]
#[repr(C)]
pub struct Header {
    /// [`Kind`]; written last by the creator, so that a half-made region has none.
    pub magic: AtomicU32,
    /// [`LAYOUT_VERSION`] of the writer.
    pub layout_version: AtomicU16,
    /// Lowest layout version whose reader understands the region.
    pub min_reader: AtomicU16,
    /// Bytes of the whole region; the file is at least this long.
    pub region_size: AtomicU32,
    /// Chips of the claim (`quota`, `usage`) or entries (`device`).
    pub device_count: AtomicU16,
    /// Slots of a `usage` region, 0 elsewhere.
    pub slot_count: AtomicU16,
    /// One more than the highest slot ever taken.
    pub slots_high_water: AtomicU16,
    /// 0.
    pub reserved16: AtomicU16,
    /// The claim's UID, most significant byte first; zero in a `device` region.
    pub claim_uid: [AtomicU8; 16],
    /// 0.
    pub reserved32: AtomicU32,
    /// Changes whenever the agent makes the region anew.
    pub generation: AtomicU64,
    /// 0.
    pub reserved: [AtomicU64; 2],
}

/// Bytes of [`Header`].
pub const HEADER_SIZE: usize = 64;

const _: () = {
    assert!(size_of::<Header>() == HEADER_SIZE);
    assert!(offset_of!(Header, region_size) == 8);
    assert!(offset_of!(Header, device_count) == 12);
    assert!(offset_of!(Header, slot_count) == 14);
    assert!(offset_of!(Header, slots_high_water) == 16);
    assert!(offset_of!(Header, claim_uid) == 20);
    assert!(offset_of!(Header, generation) == 40);
};

/// Why a region cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// The file or mapping is shorter than the layout or than its own header says.
    Truncated,
    /// The address is not aligned for the layout.
    Misaligned,
    /// The magic number is of another kind of region, of a half-made one, or of something else.
    WrongKind,
    /// The writer says that readers as old as this one must not read it.
    TooNew,
    /// The counts in the header contradict the size.
    BadCounts,
}

impl Unusable {
    /// For messages and logs.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Truncated => "it is shorter than its layout",
            Self::Misaligned => "it is not aligned",
            Self::WrongKind => "it is not a finished region of this kind",
            Self::TooNew => "its layout is newer than this program understands",
            Self::BadCounts => "its counts contradict its size",
        }
    }
}

/// What the creator of a region puts into the header.
#[derive(Debug, Clone, Copy)]
pub struct HeaderInit {
    /// Bytes of the whole region.
    pub region_size: u32,
    /// See [`Header::device_count`].
    pub device_count: u16,
    /// See [`Header::slot_count`].
    pub slot_count: u16,
    /// See [`Header::claim_uid`].
    pub claim_uid: [u8; 16],
    /// See [`Header::generation`].
    pub generation: u64,
}

impl Header {
    /// Fills everything, the magic number last.
    pub fn init(&self, kind: Kind, init: &HeaderInit) {
        self.layout_version.store(LAYOUT_VERSION, Ordering::Relaxed);
        self.min_reader.store(MIN_READER, Ordering::Relaxed);
        self.region_size.store(init.region_size, Ordering::Relaxed);
        self.device_count.store(init.device_count, Ordering::Relaxed);
        self.slot_count.store(init.slot_count, Ordering::Relaxed);
        for (to, from) in self.claim_uid.iter().zip(init.claim_uid) {
            to.store(from, Ordering::Relaxed);
        }
        self.generation.store(init.generation, Ordering::Relaxed);
        // SYNC POINT: pairs with the Acquire load in `check`.
        self.magic.store(kind as u32, Ordering::Release);
    }

    /// Whether a reader of this version may use the region of `mapped` bytes as a `kind`.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn check(&self, kind: Kind, mapped: usize) -> Result<(), Unusable> {
        // SYNC POINT: pairs with the Release store in `init`.
        if self.magic.load(Ordering::Acquire) != kind as u32 {
            return Err(Unusable::WrongKind);
        }
        if self.min_reader.load(Ordering::Relaxed) > LAYOUT_VERSION {
            return Err(Unusable::TooNew);
        }
        if self.region_size.load(Ordering::Relaxed) as usize > mapped {
            return Err(Unusable::Truncated);
        }
        Ok(())
    }

    /// The claim's UID.
    pub fn claim(&self) -> [u8; 16] {
        let mut out = [0; 16];
        for (to, from) in out.iter_mut().zip(&self.claim_uid) {
            *to = from.load(Ordering::Relaxed);
        }
        out
    }
}
