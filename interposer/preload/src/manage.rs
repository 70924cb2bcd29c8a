//! Answers of the management libraries as a tenant should see them: of a chip that is the claims', the claims' numbers
//! instead of the whole machine's. What is no claim's is answered by the vendor alone.

use core::ffi::c_char;

use vnpu_quota_abi::table::{ChipName, ChipNumbers, NO_PHYS_ID, Ownership, ProcessNumbers};

use crate::call::Inside;
use crate::core_library::{self, Core};
use crate::libc::Errno;

/// Which library a call belongs to.
#[derive(Clone, Copy)]
pub(crate) enum Manager {
    /// NVML.
    Nvml,
    /// DCMI.
    Dcmi,
}

impl Manager {
    /// No loaded library has the function: `NVML_ERROR_FUNCTION_NOT_FOUND`, DCMI's "not supported".
    pub(crate) const fn no_function(self) -> i32 {
        match self {
            Self::Nvml => 13,
            Self::Dcmi => -8255,
        }
    }
}

/// Most processes of a claim that are told, which is its slots.
pub(crate) const MOST: usize = 512;

/// Processes of the claims on one chip.
pub(crate) type Processes = [ProcessNumbers; MOST];

pub(crate) const NOBODY: ProcessNumbers = ProcessNumbers { bytes: 0, pid: 0, reserved: 0 };

/// A chip as its claims have it.
#[derive(Clone, Copy)]
pub(crate) struct View {
    /// Bytes of the quota.
    pub(crate) total: u64,
    /// Bytes in use, at most [`View::total`].
    pub(crate) used: u64,
    /// Percent of the claims' own compute that was used lately, 0 to 100.
    pub(crate) utilization: u32,
    /// Thousandths of the chip that are the claims'; 0 where they have no share of their own.
    pub(crate) share_milli: u32,
    /// Processes that were written.
    pub(crate) processes: usize,
}

impl View {
    /// Of which nothing can be used: a claim's chip whose quota is not known.
    const fn shut(total: u64) -> Self {
        Self { total, used: total, utilization: 0, share_milli: 0, processes: 0 }
    }

    /// Percent of the memory that is in use.
    pub(crate) const fn memory_percent(&self) -> u32 {
        // In KiB, so that a hundred times as many fit into 64 bits.
        let (used, total) = (self.used >> 10, self.total >> 10);
        match (used * 100).checked_div(total) {
            Some(percent) => percent as u32,
            None => 0,
        }
    }

    /// What the vendor measured of the whole chip, in percent, as a part of the claims' own compute.
    pub(crate) const fn of_share(&self, percent: u32) -> u32 {
        let of = if self.share_milli == 0 { 1000 } else { self.share_milli };
        let scaled = percent as u64 * 1000 / of as u64;
        if scaled > 100 { 100 } else { scaled as u32 }
    }
}

/// The longest identity of a chip, with its terminating zero.
pub(crate) const IDENTITY: usize = 96;

/// How the claims have the chip whose identity `identify` writes (zero-terminated; it returns whether it could);
/// `None` when the vendor's own answer stands. `total` is for a chip that cannot be accounted. `list` is only looked
/// at where processes are asked for.
pub(crate) fn view(
    identify: impl FnOnce(&mut [u8; IDENTITY]) -> bool,
    total: u64,
    list: Option<&mut Processes>,
) -> Option<View> {
    let _inside = Inside::enter()?;
    let _errno = Errno::save();
    let core = match core_library::get() {
        Core::NotNeeded => return None,
        Core::Missing => return Some(View::shut(total)),
        Core::Loaded(core) => core,
    };
    let mut identity = [0_u8; IDENTITY];
    if !identify(&mut identity) || identity.last() != Some(&0) {
        return None;
    }
    let name = ChipName { phys_id: NO_PHYS_ID, uuid: identity.as_ptr().cast::<c_char>() };
    let mut numbers = ChipNumbers::default();
    let (place, room) = match list {
        Some(list) => (list.as_mut_ptr(), MOST as u32),
        None => (core::ptr::null_mut(), 0),
    };
    // SAFETY: the back end's function; a zero-terminated identity, our own places, and room for so many.
    let owner = unsafe { (core.chip_numbers)(&raw const name, &raw mut numbers, place, room) };
    match Ownership::from_raw(owner) {
        Ownership::Foreign => None,
        Ownership::Shut => Some(View::shut(total)),
        Ownership::Claimed => Some(View {
            total: numbers.total,
            used: numbers.used.min(numbers.total),
            utilization: numbers.utilization.min(100),
            share_milli: numbers.share_milli,
            processes: (numbers.processes as usize).min(MOST),
        }),
    }
}
