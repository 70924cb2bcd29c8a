//! How busy a GPU was of late, all in all and by process, from looks at its queues. Times are the device's.

use std::collections::{BTreeMap, VecDeque};

/// NVML's utilisation is that of a period between 1/6 s and 1 s (documentation of `nvmlUtilization_t`).
const WINDOW: u64 = 1_000_000_000;

#[derive(Debug)]
struct Look {
    at: u64,
    busy: BTreeMap<u64, u64>,
}

/// The last second of a GPU.
#[derive(Debug, Default)]
pub struct Meter {
    looks: VecDeque<Look>,
}

impl Meter {
    /// A look at the queues: time, and what each process has had until then.
    pub fn look(&mut self, at: u64, busy: BTreeMap<u64, u64>) {
        self.looks.push_back(Look { at, busy });
        // The oldest one is just beyond the window, so that the whole window is covered.
        while self.looks.get(1).is_some_and(|next| next.at + WINDOW <= at) {
            self.looks.pop_front();
        }
    }

    /// Percent of the time that a process had the device.
    pub fn percent(&self, process: u64) -> u32 {
        let (Some(first), Some(last)) = (self.looks.front(), self.looks.back()) else { return 0 };
        let of = |look: &Look| look.busy.get(&process).copied().unwrap_or(0);
        let period = (last.at - first.at).max(1);
        // Rounded up: what ran at all is seen.
        u32::try_from((of(last).saturating_sub(of(first)) * 100).div_ceil(period)).unwrap_or(100).min(100)
    }

    /// Percent of the time that anybody had it, of those who are still there.
    pub fn total(&self) -> u32 {
        let last = self.looks.back().map(|look| look.busy.keys().copied().collect::<Vec<_>>());
        last.into_iter().flatten().map(|process| self.percent(process)).sum::<u32>().min(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_second_counts() {
        let mut meter = Meter::default();
        assert_eq!((meter.percent(1), meter.total()), (0, 0));
        for tenth in 0..=30_u64 {
            let at = tenth * 100_000_000;
            // Two seconds of nothing, then a quarter for one and half for the other.
            let since = at.saturating_sub(2_000_000_000);
            meter.look(at, BTreeMap::from([(1, since / 4), (2, since / 2)]));
        }
        assert_eq!((meter.percent(1), meter.percent(2), meter.total()), (25, 50, 75));
    }
}
