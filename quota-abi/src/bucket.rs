//! The debt bucket of one claim on one chip: a single word, the *theoretical arrival time* (TAT) of the generic cell
//! rate algorithm (ITU-T I.371). Its unit is wall-clock nanoseconds; device time becomes wall time by division
//! through the share. A claim may begin work when its TAT is not in the future. Work is charged after it was measured
//! and may take the TAT far ahead: that is debt, and the claim waits until the clock has caught up.
//!
//! Charges only add, so they commute: no refill thread, no period, no underflow, and a process that dies between
//! work and charge loses at most that work.

use crate::sync::{AtomicI64, Ordering};

/// Share of a whole chip in thousandths.
pub const WHOLE: u32 = 1000;

/// More device time than this is not believed to be one measurement, whatever a vendor's event says.
const LONGEST_CHARGE_NS: u64 = 3_600_000_000_000;

/// Wall-clock nanoseconds in which a claim of `share_milli` thousandths earns `device_ns` of device time; rounded up,
/// 0 for a share of 0 (which has no rate at all).
pub const fn wall(device_ns: u64, share_milli: u32) -> i64 {
    if share_milli == 0 {
        return 0;
    }
    let device_ns = if device_ns > LONGEST_CHARGE_NS { LONGEST_CHARGE_NS } else { device_ns };
    // At most 3.6e12 * 1000, far inside 64 bits.
    (device_ns * WHOLE as u64).div_ceil(share_milli as u64) as i64
}

/// Wall-clock nanoseconds of credit (positive) or debt (negative) at `now`.
pub fn credit(tat: &AtomicI64, now: i64) -> i64 {
    // Relaxed: the word stands for itself alone.
    now.saturating_sub(tat.load(Ordering::Relaxed))
}

/// Cuts credit down to `most` wall-clock nanoseconds. Without it a claim that was idle for an hour could take the
/// chip for an hour. That a racing charge or cut wins is as good.
pub fn cut_credit(tat: &AtomicI64, now: i64, most: i64) {
    let oldest = now.saturating_sub(most);
    let seen = tat.load(Ordering::Relaxed);
    if seen < oldest {
        let _ = tat.compare_exchange(seen, oldest, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Cuts debt down to `most` wall-clock nanoseconds: what was run because nobody else wanted the chip is not to be
/// paid back without end.
pub fn cut_debt(tat: &AtomicI64, now: i64, most: i64) {
    let latest = now.saturating_add(most);
    let seen = tat.load(Ordering::Relaxed);
    if seen > latest {
        let _ = tat.compare_exchange(seen, latest, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Charges measured device time.
pub fn charge(tat: &AtomicI64, device_ns: u64, share_milli: u32) {
    tat.fetch_add(wall(device_ns, share_milli), Ordering::Relaxed);
}
