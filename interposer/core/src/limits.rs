//! The limits on one chip as they were last read. A change that is never finished, because the agent was killed in the
//! middle of it or waits for a processor, leaves the last ones in force.

use std::sync::atomic::{AtomicU64, Ordering};

use vnpu_quota_abi::quota::QuotaValues;

/// What can change of a quota. Which chip it is about never does.
#[derive(Debug)]
pub(crate) struct Limits {
    first: QuotaValues,
    memory: AtomicU64,
    // share:16 | flags:16 | entry:16 | mode:8 | priority:8, in one word: no terms are ever half old and half new.
    terms: AtomicU64,
}

const fn terms(values: &QuotaValues) -> u64 {
    // A share is at most 1000, and there are two flags.
    (values.share_milli as u16 as u64) << 48
        | (values.flags as u16 as u64) << 32
        | (values.entry as u64) << 16
        | (values.mode as u64) << 8
        | values.priority as u64
}

impl Limits {
    /// As first read.
    pub(crate) fn new(first: QuotaValues) -> Self {
        Self { first, memory: AtomicU64::new(first.memory), terms: AtomicU64::new(terms(&first)) }
    }

    /// Those of now, if they could be read, else the last ones.
    pub(crate) fn latest(&self, now: Option<QuotaValues>) -> QuotaValues {
        let Some(values) = now else { return self.last() };
        // Nearly always the same: threads do not take the line from each other.
        for (word, value) in [(&self.memory, values.memory), (&self.terms, terms(&values))] {
            if word.load(Ordering::Relaxed) != value {
                word.store(value, Ordering::Relaxed);
            }
        }
        values
    }

    fn last(&self) -> QuotaValues {
        let terms = self.terms.load(Ordering::Relaxed);
        QuotaValues {
            share_milli: (terms >> 48) as u32,
            flags: (terms >> 32 & 0xffff) as u32,
            entry: (terms >> 16 & 0xffff) as u16,
            mode: (terms >> 8 & 0xff) as u8,
            priority: (terms & 0xff) as u8,
            memory: self.memory.load(Ordering::Relaxed),
            ..self.first
        }
    }
}
