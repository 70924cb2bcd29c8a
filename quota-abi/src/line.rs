//! Who stands before whom for one chip: what a claim may do there, and the claims that wait beside it, as the chip's
//! region shows them. Nobody elects a successor: each waiter knows its own place and waits the longer the further back
//! it is.

use crate::DEVICE_ENTRIES;
use crate::bucket;
use crate::device::{ChipTable, DeviceEntry};
use crate::lease::{tick, ticks_until};
use crate::sync::Ordering;

/// How compute beyond the share is treated. The numbers are those in the regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Never more than the share.
    Hard = 0,
    /// More than the share when no other claim that is due wants the chip.
    Elastic = 1,
    /// No share: only what nobody with a share wants.
    BestEffort = 2,
}

impl Mode {
    /// By its number; an unknown one is [`Mode::Hard`].
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            1 => Self::Elastic,
            2 => Self::BestEffort,
            _ => Self::Hard,
        }
    }
}

/// What the claim may do on the chip, as its quota says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Index of the claim in the chip's region.
    pub entry: u16,
    /// Thousandths of the chip's compute.
    pub share_milli: u32,
    /// What happens beyond.
    pub mode: Mode,
    /// 0 to 10; more goes first among those that are due.
    pub priority: u8,
}

/// The other claims that wait for the chip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// Somebody waits, another process of the same claim included.
    pub(crate) waiting: bool,
    /// Another process of the same claim waits; known only to the holder of the lease.
    pub(crate) siblings: bool,
    /// Somebody with a share waits.
    pub(crate) with_share: bool,
    /// So many come before this claim.
    pub(crate) before: u32,
}

impl Line {
    pub(crate) fn of<C: ChipTable>(chip: &C, terms: &Terms, now: u64, credit: i64, holds: bool) -> Self {
        let mut line = Self::default();
        let now_tick = tick(now);
        for index in 0..DEVICE_ENTRIES {
            let Some(entry) = chip.entry(index) else { break };
            let left = ticks_until(entry.waiting_until.load(Ordering::Relaxed), now_tick);
            // More than a wait's length ahead is rubbish.
            if !(1..=LONGEST_WAIT).contains(&left) {
                continue;
            }
            if index == terms.entry {
                // Who holds the lease has taken its own sign away: this is another process of the claim.
                line.siblings |= holds;
                line.waiting |= holds;
                continue;
            }
            line.waiting = true;
            let shares = entry.share_milli.load(Ordering::Relaxed) > 0
                && Mode::from_raw(entry.mode.load(Ordering::Relaxed)) != Mode::BestEffort;
            line.with_share |= shares;
            if comes_before(entry, shares, terms, now, credit) {
                line.before += 1;
            }
        }
        line
    }
}

/// Ticks that a sign of waiting lasts at most.
const LONGEST_WAIT: i32 = 64;

fn comes_before(entry: &DeviceEntry, shares: bool, terms: &Terms, now: u64, credit: i64) -> bool {
    let own_shares = terms.mode != Mode::BestEffort && terms.share_milli > 0;
    if shares != own_shares {
        return shares;
    }
    let priority = entry.priority.load(Ordering::Relaxed);
    if priority != terms.priority {
        return priority > terms.priority;
    }
    bucket::credit(&entry.tat, clock(now)) > credit
}

/// Whether the claim may run at all, with so much credit and those others waiting.
pub(crate) fn may_run(terms: &Terms, credit: i64, others: &Line) -> bool {
    match terms.mode {
        _ if terms.share_milli == 0 => !others.with_share,
        Mode::Hard => credit >= 0,
        Mode::Elastic => credit >= 0 || !others.with_share,
        Mode::BestEffort => !others.with_share,
    }
}

/// `CLOCK_MONOTONIC` in the bucket's type.
pub(crate) const fn clock(now: u64) -> i64 {
    if now > i64::MAX as u64 { i64::MAX } else { now.cast_signed() }
}
