//! How busy a claim has kept a chip lately: two samples of its counter of device time, each one word, so that no
//! reader ever sees half of one. Whoever counts device time keeps them fresh, and whoever asks reads them.

use crate::sync::{AtomicU64, Ordering};

/// Nanoseconds per tick of a sample, as a power of two: about a millisecond.
const TICK_SHIFT: u32 = 20;
/// Ticks between two samples: half a second.
const APART: u32 = 476;
/// A younger sample than this says too little: a quarter of a second.
const YOUNGEST: u32 = 238;

/// The samples of one chip; zero where none was taken yet.
#[derive(Debug)]
#[repr(C)]
pub struct Recent {
    older: AtomicU64,
    newer: AtomicU64,
}

const fn sample(now_ns: u64, busy_ns: u64) -> u64 {
    // Zero stands for "none".
    let busy = (busy_ns >> TICK_SHIFT) as u32;
    let word = (now_ns >> TICK_SHIFT) << 32 | busy as u64;
    if word == 0 { 1 } else { word }
}

/// Ticks and ticks of device time from a sample to now. Both wrap after seven weeks.
const fn since(word: u64, now: u64) -> (u32, u32) {
    let time = ((now >> 32) as u32).wrapping_sub((word >> 32) as u32);
    (time, (now as u32).wrapping_sub(word as u32))
}

impl Recent {
    /// No samples, for tests and model checking; regions are mapped instead.
    pub fn new() -> Self {
        Self { older: AtomicU64::new(0), newer: AtomicU64::new(0) }
    }

    /// Takes a sample if the last one is old enough.
    pub fn note(&self, now_ns: u64, busy_ns: u64) {
        let now = sample(now_ns, busy_ns);
        let newer = self.newer.load(Ordering::Relaxed);
        if newer != 0 && since(newer, now).0 < APART {
            return;
        }
        // Of several that come at once one is enough.
        if self.newer.compare_exchange(newer, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.older.store(if newer == 0 { now } else { newer }, Ordering::Relaxed);
        }
    }

    /// Thousandths of the chip in the last half second or so; of the time since the last sample where nobody has
    /// counted for longer.
    pub fn per_mille(&self, now_ns: u64, busy_ns: u64) -> u32 {
        let now = sample(now_ns, busy_ns);
        let (newer, older) = (self.newer.load(Ordering::Relaxed), self.older.load(Ordering::Relaxed));
        let from = if newer != 0 && since(newer, now).0 >= YOUNGEST { newer } else { older };
        if from == 0 {
            return 0;
        }
        let (time, busy) = since(from, now);
        // A tenant may have written anything here.
        (u64::from(busy) * 1000).checked_div(u64::from(time)).map_or(0, |rate| rate.min(1000) as u32)
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Samples each 10 ms with so much of the chip; what is read at the end.
    fn after(recent: &Recent, from: u64, to: u64, per_mille: u64, busy: &mut u64) -> u32 {
        let mut now = from;
        while now < to {
            now += SECOND / 100;
            *busy += SECOND / 100 * per_mille / 1000;
            recent.note(now, *busy);
        }
        recent.per_mille(to, *busy)
    }

    #[test]
    fn a_steady_load_is_read_as_it_is_and_a_change_within_a_second() {
        let (recent, mut busy, start) = (Recent::new(), 7 * SECOND, 1000 * SECOND);
        assert_eq!(recent.per_mille(start, busy), 0, "nobody has counted");
        let third = after(&recent, start, start + 3 * SECOND, 300, &mut busy);
        assert!((296..=304).contains(&third), "{third}");
        let all = after(&recent, start + 3 * SECOND, start + 4 * SECOND, 1000, &mut busy);
        assert!(all >= 990, "{all}");
    }

    #[test]
    fn idleness_is_seen_although_nobody_counts() {
        let (recent, mut busy, start) = (Recent::new(), 0, SECOND);
        after(&recent, start, start + 2 * SECOND, 1000, &mut busy);
        let idle = recent.per_mille(start + 30 * SECOND, busy);
        assert!(idle <= 20, "{idle}");
        let again = after(&recent, start + 30 * SECOND, start + 31 * SECOND, 500, &mut busy);
        assert!((490..=510).contains(&again), "{again}");
    }

    #[test]
    fn rubbish_is_at_most_a_whole_chip() {
        for (older, newer) in [(u64::MAX, u64::MAX), (0, u64::MAX), (1, 0), (u64::MAX, 1 << 40)] {
            let recent = Recent { older: AtomicU64::new(older), newer: AtomicU64::new(newer) };
            assert!(recent.per_mille(5 * SECOND, 3 * SECOND) <= 1000);
            recent.note(5 * SECOND, 3 * SECOND);
        }
    }
}
