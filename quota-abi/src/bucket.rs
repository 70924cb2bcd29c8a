//! The debt bucket of one claim on one chip: a single word, the *theoretical arrival time* (TAT) of the generic cell
//! rate algorithm (ITU-T I.371) together with the share that it was reckoned with. The TAT is a moment of the wall
//! clock; device time becomes wall time by division through the share. A claim may begin work when its TAT is not in
//! the future. Work is charged after it was measured and may take the TAT far ahead: that is debt, and the claim
//! waits until the clock has caught up.
//!
//! Debt is device time that was used; how long it takes to pay it back is a matter of the share of now. So the word
//! says which share its distance from now was reckoned with, and whoever finds another share in force moves the TAT
//! and the share in one step ([`reprice`]). Processes that still go by the old share may move it back meanwhile: what
//! the debt is worth in device time stays the same. No step is left half done by a process that dies, there is
//! no refill thread and no period; a process that dies between work and charge loses at most that work.

use crate::sync::{AtomicI64, Ordering};

/// Share of a whole chip in thousandths.
pub const WHOLE: u32 = 1000;

/// More device time than this is not believed to be one measurement, whatever a vendor's event says.
const LONGEST_CHARGE_NS: u64 = 3_600_000_000_000;

/// The lowest bits of the word are the share in thousandths, the others the moment in steps of 64 ns: 18 years of
/// uptime.
const SHARE_BITS: u32 = 10;
const STEP_BITS: u32 = 6;
const SHARE_MASK: i64 = (1 << SHARE_BITS) - 1;
const LAST: i128 = (1 << (63 - SHARE_BITS)) - 1;

/// Tries before a word that changes all the time is taken as it comes: only a tenant's loop can do that.
const TRIES: u32 = 100;

/// The word that says so, at a moment in nanoseconds of `CLOCK_MONOTONIC`.
pub const fn word(tat: i64, share_milli: u32) -> i64 {
    to_word((tat >> STEP_BITS) as i128, share(share_milli))
}

/// The TAT in nanoseconds.
pub const fn tat(word: i64) -> i64 {
    steps(word) << STEP_BITS
}

/// The share that its distance from now was reckoned with, in thousandths; 0 in an entry that was never used.
pub const fn reckoned_with(word: i64) -> u32 {
    (word & SHARE_MASK) as u32
}

const fn steps(word: i64) -> i64 {
    word >> SHARE_BITS
}

const fn share(share_milli: u32) -> u32 {
    if share_milli > WHOLE { WHOLE } else { share_milli }
}

const fn to_word(steps: i128, share: u32) -> i64 {
    let steps = if steps > LAST {
        LAST
    } else if steps < -LAST {
        -LAST
    } else {
        steps
    };
    (steps as i64) << SHARE_BITS | share as i64
}

/// The same debt in device time, reckoned with another share. Credit ends with the share that it was saved up with:
/// a claim that is given less would go on with more for as long as it lasts.
fn repriced(word: i64, now: i64, share_milli: u32) -> i64 {
    let (old, new) = (reckoned_with(word), share(share_milli));
    if old == new || old == 0 || new == 0 {
        return to_word(i128::from(steps(word)), new);
    }
    let now = i128::from(now >> STEP_BITS);
    let (distance, old, new) = (i128::from(steps(word)) - now, i128::from(old), i128::from(new));
    // Rounded up: debt that is moved to and fro must not become less.
    let scaled = -(-(distance.max(0) * old)).div_euclid(new);
    to_word(now + scaled, share(share_milli))
}

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
pub fn credit(bucket: &AtomicI64, now: i64) -> i64 {
    // Relaxed: the word stands for itself alone.
    now.saturating_sub(tat(bucket.load(Ordering::Relaxed)))
}

/// Cuts credit down to `most` wall-clock nanoseconds. Without it a claim that was idle for an hour could take the
/// chip for an hour. That a racing charge or cut wins is as good.
pub fn cut_credit(bucket: &AtomicI64, now: i64, most: i64) {
    let oldest = now.saturating_sub(most);
    let seen = bucket.load(Ordering::Relaxed);
    if tat(seen) < oldest {
        let cut = word(oldest, reckoned_with(seen));
        let _ = bucket.compare_exchange(seen, cut, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Cuts debt down to `most` wall-clock nanoseconds: what was run because nobody else wanted the chip is not to be
/// paid back without end.
pub fn cut_debt(bucket: &AtomicI64, now: i64, most: i64) {
    let latest = now.saturating_add(most);
    let seen = bucket.load(Ordering::Relaxed);
    if tat(seen) > latest {
        let cut = word(latest, reckoned_with(seen));
        let _ = bucket.compare_exchange(seen, cut, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Brings the word to the share that is in force at `now`.
pub fn reprice(bucket: &AtomicI64, now: i64, share_milli: u32) {
    // Nearly always right already.
    if reckoned_with(bucket.load(Ordering::Relaxed)) != share(share_milli) {
        change(bucket, |seen| repriced(seen, now, share_milli));
    }
}

/// Charges measured device time at the share that is in force at `now`.
pub fn charge(bucket: &AtomicI64, now: i64, device_ns: u64, share_milli: u32) {
    let more = wall(device_ns, share(share_milli)).cast_unsigned().div_ceil(1 << STEP_BITS);
    let charged = |seen| {
        let repriced = repriced(seen, now, share_milli);
        to_word(i128::from(steps(repriced)) + i128::from(more), share(share_milli))
    };
    if !change(bucket, charged) {
        bucket.fetch_add(more.cast_signed() << SHARE_BITS, Ordering::Relaxed);
    }
}

/// Puts what `next` makes of the word in its place, in one step; whether it came to that.
fn change(bucket: &AtomicI64, next: impl Fn(i64) -> i64) -> bool {
    let mut seen = bucket.load(Ordering::Relaxed);
    for _ in 0..TRIES {
        match bucket.compare_exchange_weak(seen, next(seen), Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(found) => seen = found,
        }
    }
    false
}
