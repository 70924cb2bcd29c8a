//! How many launches a process's threads may make without a decision, and how many they are making: one word, so that a
//! launch that is taken from the one is in the other at the same moment. It is the process's own, in no region.

use crate::sync::{AtomicU64, Ordering};

/// One launch that is being made.
const ENTERED: u64 = 1 << 32;
/// No launch is allowed. The lower half may fall below it by the number of threads that take the last one at once.
const NONE: u64 = 1 << 31;
const LOWER: u64 = ENTERED - 1;

/// The word.
#[derive(Debug)]
pub struct Allowance(AtomicU64);

/// What the word said at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Launches that may still be made without a decision.
    pub left: u32,
    /// Launches that are being made.
    pub under_way: u32,
}

impl From<u64> for Standing {
    fn from(word: u64) -> Self {
        let left = (word & LOWER).saturating_sub(NONE);
        Self { left: left as u32, under_way: (word >> 32) as u32 }
    }
}

impl Allowance {
    /// Nothing is allowed.
    pub fn new() -> Self {
        Self(AtomicU64::new(NONE))
    }

    /// Takes a launch; whether there was one. It is under way then, until [`Self::leave`].
    pub fn enter(&self) -> bool {
        // Who finds none takes none: the lower half would fall without end.
        if Standing::from(self.0.load(Ordering::Relaxed)).left == 0 {
            return false;
        }
        let before = self.0.fetch_add(ENTERED - 1, Ordering::Relaxed);
        let allowed = Standing::from(before).left > 0;
        if !allowed {
            self.0.fetch_sub(ENTERED, Ordering::Relaxed);
        }
        allowed
    }

    /// A launch has been made. What its thread did before is seen by whoever does not find it under way any more.
    pub fn leave(&self) {
        self.0.fetch_sub(ENTERED, Ordering::Release);
    }

    /// Allows so many launches, of which the caller's is one: it is under way.
    pub fn allow(&self, launches: u32) {
        let more = u64::from(launches.saturating_sub(1));
        self.change(|word| ((word & !LOWER) + ENTERED) | (NONE + more));
    }

    /// What stands.
    pub fn look(&self) -> Standing {
        self.0.load(Ordering::Acquire).into()
    }

    /// Allows nothing any more; what stood before.
    pub fn take_back(&self) -> Standing {
        self.change(|word| (word & !LOWER) | NONE).into()
    }

    fn change(&self, next: impl Fn(u64) -> u64) -> u64 {
        let mut seen = self.0.load(Ordering::Relaxed);
        while let Err(found) =
            self.0.compare_exchange_weak(seen, next(seen), Ordering::AcqRel, Ordering::Relaxed)
        {
            seen = found;
        }
        seen
    }
}

impl Default for Allowance {
    fn default() -> Self {
        Self::new()
    }
}
