//! The lease of one chip: one word that says which claim's process has the chip for itself, and until when. Measured
//! time is a process's own only while no other process has work on the chip, so whoever launches holds the lease.
//!
//! The word is `{epoch:16, owner:16, expiry:32}`. Every taking raises the epoch, so that an owner that slept through
//! its expiry (a SIGSTOP, a debugger) cannot renew or release what somebody else took meanwhile. Times are ticks of
//! 2^16 ns of `CLOCK_MONOTONIC`, compared modulo 2^32 (78 hours).

use crate::mark::{Mark, reached};
use crate::sync::{AtomicU64, Ordering};

/// Nanoseconds per tick, as a power of two.
const TICK_SHIFT: u32 = 16;

/// No lease lasts longer: an expiry further ahead is rubbish, or older than the clock's wrap-around.
const LONGEST_TICKS: i32 = (1 << 30) >> TICK_SHIFT;

/// The tick of a time in nanoseconds.
pub const fn tick(now_ns: u64) -> u32 {
    (now_ns >> TICK_SHIFT) as u32
}

/// Ticks from `now` to `then`, negative for the past.
pub const fn ticks_until(then: u32, now: u32) -> i32 {
    then.wrapping_sub(now).cast_signed()
}

/// Nanoseconds of so many ticks; 0 for those in the past.
pub const fn nanoseconds(ticks: i32) -> u64 {
    if ticks < 0 { 0 } else { (ticks as u64) << TICK_SHIFT }
}

/// The word, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Counts takings.
    pub epoch: u16,
    /// Entry of the claim in the chip's region; `None` when nobody has the lease.
    pub owner: Option<u16>,
    /// Tick of its end.
    pub expiry: u32,
}

impl Lease {
    /// From the word.
    pub const fn from_word(word: u64) -> Self {
        let owner = (word >> 32) as u16;
        Self { epoch: (word >> 48) as u16, owner: owner.checked_sub(1), expiry: word as u32 }
    }

    /// To the word; 0 stands for "nobody", so owners are stored plus one.
    pub const fn to_word(self) -> u64 {
        let owner = match self.owner {
            Some(owner) => owner as u64 + 1,
            None => 0,
        };
        (self.epoch as u64) << 48 | owner << 32 | self.expiry as u64
    }

    /// Whether anybody may take it at tick `now`: nobody has it, or the owner is `grace` ticks late and so taken for
    /// dead, or the expiry is none that a lease can have.
    pub const fn is_free(self, now: u32, grace: u32) -> bool {
        if self.owner.is_none() {
            return true;
        }
        let left = ticks_until(self.expiry, now);
        left > LONGEST_TICKS || left < -(grace.cast_signed())
    }
}

/// The right of one process, as of its last taking or renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    word: u64,
}

impl Held {
    /// Tick of its end.
    pub const fn expiry(self) -> u32 {
        Lease::from_word(self.word).expiry
    }
}

/// Reads the word.
pub fn read(word: &AtomicU64) -> Lease {
    Lease::from_word(word.load(Ordering::Acquire))
}

/// Takes the lease for `owner` until tick `expiry` if it is free at tick `now`.
pub fn take(word: &AtomicU64, owner: u16, now: u32, expiry: u32, grace: u32) -> Option<Held> {
    let seen = word.load(Ordering::Acquire);
    let lease = Lease::from_word(seen);
    if !lease.is_free(now, grace) {
        return None;
    }
    let next = Lease { epoch: lease.epoch.wrapping_add(1), owner: Some(owner), expiry }.to_word();
    // SYNC POINT: Acquire pairs with the Release in `release`: the last owner's charges are seen.
    word.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Relaxed).ok()?;
    reached(Mark::LeaseTaken);
    Some(Held { word: next })
}

/// Moves the end of a lease that is still ours; `None` when somebody took it.
pub fn renew(word: &AtomicU64, held: Held, expiry: u32) -> Option<Held> {
    let next = Lease { expiry, ..Lease::from_word(held.word) }.to_word();
    word.compare_exchange(held.word, next, Ordering::AcqRel, Ordering::Relaxed).ok()?;
    reached(Mark::LeaseRenewed);
    Some(Held { word: next })
}

/// Gives the lease back, unless somebody took it meanwhile; returns whether it was ours to the end.
pub fn release(word: &AtomicU64, held: Held) -> bool {
    let free = Lease { owner: None, expiry: 0, ..Lease::from_word(held.word) }.to_word();
    // SYNC POINT: Release pairs with the Acquire in `take`.
    let to_the_end = word.compare_exchange(held.word, free, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    reached(Mark::LeaseReleased);
    to_the_end
}
