//! What is believed of a claim's bucket on a chip. The bucket lies where the claim's neighbours can write, so it is held
//! against what they cannot: the clock, and the device time in the claim's own ledger. Pure: both come as arguments.

use std::sync::atomic::{AtomicI64, Ordering};

use vnpu_quota_abi::bucket;
use vnpu_quota_abi::gate::Tuning;
use vnpu_quota_abi::line::Mode;

/// Device time that may be charged and not be in the ledger yet: processes count it there within a millisecond of the
/// charge, and more than this at once is the kernels' that take long.
const UNCOUNTED: u64 = 50_000_000;

/// Device time of debt that a bucket may be in which is looked at for the first time: whose it is nobody remembers, and
/// longer kernels than this are hardly ever met.
const LONGEST: u64 = 60_000_000_000;

/// A look at a bucket, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// `CLOCK_MONOTONIC`.
    pub(crate) now: i64,
    /// The word that stands there; `None` where none does: it is new, or a tenant has cut it off.
    pub(crate) word: Option<i64>,
    /// The claim's device time of ever, by its ledger; `None` when that cannot be read.
    pub(crate) busy: Option<u64>,
    /// Thousandths of the chip.
    pub(crate) share_milli: u32,
    /// How the share is meant.
    pub(crate) mode: Mode,
}

/// What was believed at a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Believed {
    word: i64,
    at: i64,
    busy: u64,
}

impl Believed {
    /// What is to be believed after `last`; and the word to be put in place of the one that is there, if that is beyond
    /// belief.
    ///
    /// A claim saves up no more than a burst. Its debt is what it was and what its processes have used since, and less
    /// as soon as the gate cuts it. What is believed for want of a count is not built on at the next look, or a neighbour
    /// could add a little each time.
    pub(crate) fn after(last: Option<Self>, look: &Look) -> (Self, Option<i64>) {
        let share = look.share_milli.max(1);
        let wall = |device| bucket::wall(device, share);
        let busy = look.busy.or(last.map(|last| last.busy)).unwrap_or(0);
        let (from, used) = match last {
            Some(last) => (last.until(look.now, share), busy.saturating_sub(last.busy)),
            None => (look.now, busy.min(LONGEST)),
        };
        let mut latest = from.max(look.now).saturating_add(wall(used));
        if look.mode != Mode::Hard {
            latest = latest.min(look.now.saturating_add(wall(Tuning::DEFAULT.debt)));
        }
        let oldest = look.now.saturating_sub(wall(Tuning::DEFAULT.burst));
        // What is cut off is as it was at the last look: nobody gets rid of his debt like this, or of his credit later.
        let found = look.word.map_or(from.max(look.now), |word| tat(word, look.now, share));
        let word = bucket::word(found.min(latest).max(oldest), share);
        let sound = (oldest..=latest.saturating_add(wall(UNCOUNTED))).contains(&found);
        let put = (look.word.is_none() || !sound).then_some(word);
        (Self { word, at: look.now, busy }, put)
    }

    /// The latest moment that its debt can last to, if nothing is added.
    fn until(&self, now: i64, share: u32) -> i64 {
        let until = tat(self.word, self.at, share);
        // When in between the share changed is not known: at the latest now.
        let unsure = if bucket::reckoned_with(self.word) == share { 0 } else { now.saturating_sub(self.at) };
        until.saturating_add(unsure)
    }
}

/// The moment that `word`, as of `now`, means with this share.
fn tat(word: i64, now: i64, share: u32) -> i64 {
    let word = AtomicI64::new(word);
    bucket::reprice(&word, now, share);
    bucket::tat(word.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests;
