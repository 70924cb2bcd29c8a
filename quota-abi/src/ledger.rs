//! Exact bytes of device memory without a global counter: each process writes only its own cell, and a
//! reservation is granted by the sum over all cells. A killed process can leak its own cell only, and reaping
//! zeroes that.
//!
//! Why no overshoot: a reservation is published before the sum is taken, both sequentially consistent. Of two
//! that race, the later publisher sees the earlier one, so both can never be granted the same bytes. Why no
//! undershoot of a reading: `commit` adds to `committed` before it subtracts from `reserved`, and a sum reads
//! `reserved` before `committed`; a moving reservation is counted once or twice, never missed.

use crate::mark::{Mark, reached};
use crate::slot::{SlotCell, SlotTable};
use crate::sync::{AtomicU64, Ordering, fence};

/// Rounds in which a reservation that only others' unfinished ones stand against is tried again.
#[cfg(not(loom))]
const ROUNDS: u32 = 64;
#[cfg(loom)]
const ROUNDS: u32 = 2;

/// A wish for memory on one chip.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// The caller's slot.
    pub slot: usize,
    /// Index of the chip in the claim's regions.
    pub device: usize,
    /// Bytes wanted.
    pub bytes: u64,
    /// The claim's quota on the chip.
    pub quota: u64,
    /// Whether overhead counts.
    pub charge_overhead: bool,
}

/// The quota does not allow a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied;

/// What the cells of one chip add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// Bytes of successful allocations.
    pub committed: u64,
    /// Bytes of unfinished ones.
    pub reserved: u64,
    /// Bytes of overhead.
    pub overhead: u64,
    /// Lowest slot with an unfinished allocation.
    pub first_in_flight: Option<usize>,
}

impl Sum {
    /// Bytes that count against the quota, with or without overhead.
    pub fn used(&self, charge_overhead: bool) -> u64 {
        let overhead = if charge_overhead { self.overhead } else { 0 };
        self.committed.saturating_add(self.reserved).saturating_add(overhead)
    }
}

/// Adds up the cells of `device`.
pub fn sum<T: SlotTable>(table: &T, device: usize) -> Sum {
    let mut out = Sum::default();
    for slot in 0..table.high_water().min(table.capacity()) {
        let Some(cell) = table.cell(slot, device) else { break };
        // SYNC POINT: in this order, against `commit`.
        let reserved = cell.reserved.load(Ordering::SeqCst);
        let committed = cell.committed.load(Ordering::SeqCst);
        out.reserved = out.reserved.saturating_add(reserved);
        out.committed = out.committed.saturating_add(committed);
        out.overhead = out.overhead.saturating_add(cell.overhead.load(Ordering::SeqCst));
        if reserved != 0 && out.first_in_flight.is_none() {
            out.first_in_flight = Some(slot);
        }
    }
    out
}

/// Reserves the bytes of `request` in the caller's cell. `wait` is called between tries with the number of
/// tries so far and should yield; it is called a bounded number of times.
///
/// # Errors
/// [`Denied`]: the quota does not allow it. Nothing stays reserved.
pub fn reserve<T: SlotTable>(table: &T, request: &Request, mut wait: impl FnMut(u32)) -> Result<(), Denied> {
    let Some(cell) = table.cell(request.slot, request.device) else { return Err(Denied) };
    // More than the whole quota is not published: it would only disturb others.
    if request.bytes > request.quota {
        return Err(Denied);
    }
    let mut published = false;
    let mut first_of_slot = false;
    for round in 0..ROUNDS {
        if !published {
            // SYNC POINT: published before the sum, see the module's header. The fence says so to loom too,
            // which takes a sequentially consistent access for an acquire-release one.
            let before = cell.reserved.fetch_add(request.bytes, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if before.checked_add(request.bytes).is_none() {
                // Rubbish, with which ours would read as next to nothing.
                cell.reserved.fetch_sub(request.bytes, Ordering::SeqCst);
                return Err(Denied);
            }
            first_of_slot = before == 0;
            published = true;
            reached(Mark::ReservePublished);
        }
        let sum = sum(table, request.device);
        if sum.used(request.charge_overhead) <= request.quota {
            reached(Mark::ReserveGranted);
            return Ok(());
        }
        reached(Mark::ReserveRefused);
        let others = sum.reserved.saturating_sub(request.bytes);
        let settled = Sum { reserved: request.bytes, ..sum };
        if others == 0 || settled.used(request.charge_overhead) > request.quota {
            // Not even without the others' unfinished ones.
            break;
        }
        // Only unfinished reservations stand against it. The lowest slot keeps its own and waits; all others
        // step back, or they would go on denying each other what is free. Of several threads in that slot the
        // one that came to an empty cell stays, else they would step back and come again in step.
        let stays = sum.first_in_flight == Some(request.slot)
            && (first_of_slot || cell.reserved.load(Ordering::SeqCst) == request.bytes);
        if !stays {
            subtract(&cell.reserved, request.bytes);
            published = false;
        }
        wait(round);
    }
    if published {
        subtract(&cell.reserved, request.bytes);
    }
    Err(Denied)
}

/// The allocation succeeded: its reservation becomes use.
pub fn commit(cell: &SlotCell, bytes: u64) {
    // SYNC POINT: in this order, against `sum`.
    cell.committed.fetch_add(bytes, Ordering::SeqCst);
    reached(Mark::CommitAdded);
    subtract(&cell.reserved, bytes);
    reached(Mark::Committed);
}

/// The allocation failed: its reservation is dropped.
pub fn abandon(cell: &SlotCell, bytes: u64) {
    subtract(&cell.reserved, bytes);
}

/// Memory that the vendor took without having been asked for it: it counts, whatever the quota says.
pub fn charge(cell: &SlotCell, bytes: u64) {
    cell.committed.fetch_add(bytes, Ordering::SeqCst);
}

/// The allocation was freed.
pub fn release(cell: &SlotCell, bytes: u64) {
    subtract(&cell.committed, bytes);
    reached(Mark::Released);
}

/// Never below zero: the region is writable by the tenant, and an underflow would read as exabytes in use.
fn subtract(word: &AtomicU64, bytes: u64) {
    let mut now = word.load(Ordering::SeqCst);
    while let Err(seen) =
        word.compare_exchange_weak(now, now.saturating_sub(bytes), Ordering::SeqCst, Ordering::SeqCst)
    {
        now = seen;
    }
}
