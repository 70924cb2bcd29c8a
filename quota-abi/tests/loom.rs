//! Model checking of the protocols: every interleaving of two or three threads that loom can find. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p vnpu-quota-abi --release --test loom`.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use vnpu_quota_abi::allowance::{Allowance, Standing};
use vnpu_quota_abi::bucket;
use vnpu_quota_abi::lease;
use vnpu_quota_abi::ledger::{self, Request};
use vnpu_quota_abi::quota::{QuotaEntry, QuotaValues, UUID_SIZE};
use vnpu_quota_abi::slot::{self, SlotCell, SlotHead, SlotTable};

struct Table {
    high_water: AtomicUsize,
    slots: Vec<(SlotHead, SlotCell)>,
}

impl Table {
    fn new(slots: usize) -> Arc<Self> {
        Arc::new(Self {
            high_water: AtomicUsize::new(0),
            slots: (0..slots).map(|_| (SlotHead::new(), SlotCell::new())).collect(),
        })
    }

    fn committed(&self, slot: usize) -> u64 {
        self.slots[slot].1.committed.load(Ordering::SeqCst)
    }

    fn reserved(&self, slot: usize) -> u64 {
        self.slots[slot].1.reserved.load(Ordering::SeqCst)
    }
}

impl SlotTable for Table {
    fn capacity(&self) -> usize {
        self.slots.len()
    }
    fn devices(&self) -> usize {
        1
    }
    fn high_water(&self) -> usize {
        self.high_water.load(Ordering::SeqCst)
    }
    fn raise_high_water(&self, slots: usize) {
        self.high_water.fetch_max(slots, Ordering::SeqCst);
    }
    fn head(&self, slot: usize) -> Option<&SlotHead> {
        self.slots.get(slot).map(|s| &s.0)
    }
    fn cell(&self, slot: usize, _device: usize) -> Option<&SlotCell> {
        self.slots.get(slot).map(|s| &s.1)
    }
}

fn reserve(table: &Table, slot: usize, bytes: u64, quota: u64) -> bool {
    let request = Request { slot, device: 0, bytes, quota, charge_overhead: true };
    ledger::reserve(table, &request, |_| thread::yield_now()).is_ok()
}

#[test]
fn two_racing_reservations_never_exceed_the_quota() {
    loom::model(|| {
        let table = Table::new(2);
        assert!(slot::claim(&*table, 0, 10, 0) && slot::claim(&*table, 1, 11, 0));
        let threads: Vec<_> = (0..2)
            .map(|slot| {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    if reserve(&table, slot, 2, 3) {
                        ledger::commit(&table.slots[slot].1, 2);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(table.committed(0) + table.committed(1) <= 3);
        assert_eq!(table.reserved(0) + table.reserved(1), 0);
    });
}

#[test]
fn a_sum_never_misses_bytes_that_are_moving_to_committed() {
    loom::model(|| {
        let table = Table::new(1);
        assert!(slot::claim(&*table, 0, 10, 0));
        assert!(reserve(&table, 0, 2, 3));
        let mover = {
            let table = Arc::clone(&table);
            thread::spawn(move || ledger::commit(&table.slots[0].1, 2))
        };
        assert!(ledger::sum(&*table, 0).used(false) >= 2);
        mover.join().unwrap();
        assert_eq!(ledger::sum(&*table, 0).used(false), 2);
    });
}

#[test]
fn reaping_a_dead_owner_never_takes_the_next_owners_bytes() {
    loom::model(|| {
        let table = Table::new(1);
        assert!(slot::claim(&*table, 0, 10, 0));
        table.slots[0].1.committed.store(5, Ordering::SeqCst);
        let reapers: Vec<_> = (0..2)
            .map(|_| {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    if slot::begin_reap(&*table, 0, 10) { slot::finish_reap(&*table, 0) } else { 0 }
                })
            })
            .collect();
        let claimed = slot::claim(&*table, 0, 11, 0);
        if claimed {
            table.slots[0].1.committed.fetch_add(7, Ordering::SeqCst);
        }
        let reaped: u64 = reapers.into_iter().map(|t| t.join().unwrap()).sum();
        assert_eq!(reaped, 5, "exactly one reaper gives the dead owner's bytes back");
        assert_eq!(table.committed(0), if claimed { 7 } else { 0 });
    });
}

#[test]
fn a_late_reaper_never_takes_the_next_owners_slot() {
    loom::model(|| {
        let table = Table::new(1);
        assert!(slot::claim(&*table, 0, 10, 0) && slot::begin_reap(&*table, 0, 10));
        // It lost its lock, and another one finishes.
        let late = {
            let table = Arc::clone(&table);
            thread::spawn(move || slot::finish_reap(&*table, 0))
        };
        slot::finish_reap(&*table, 0);
        let claimed = slot::claim(&*table, 0, 11, 0);
        late.join().unwrap();
        assert!(claimed);
        assert_eq!(table.slots[0].0.owner.load(Ordering::SeqCst), 11);
    });
}

#[test]
fn a_reader_of_a_quota_never_sees_half_a_change() {
    let values = |n: u32| QuotaValues {
        uuid: [0; UUID_SIZE],
        phys_id: n,
        minor: n,
        entry: 0,
        mode: 0,
        priority: 0,
        flags: n,
        share_milli: n,
        memory: u64::from(n),
    };
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(move || {
        let entry = Arc::new(QuotaEntry::new());
        let writer = {
            let entry = Arc::clone(&entry);
            thread::spawn(move || entry.write(&values(1)))
        };
        if let Some(seen) = entry.try_read() {
            assert!(seen == values(0) || seen == values(1), "{seen:?}");
        }
        writer.join().unwrap();
        assert_eq!(entry.read(), Some(values(1)));
    });
}

#[test]
fn of_two_that_want_a_free_lease_one_gets_it() {
    loom::model(|| {
        let word = Arc::new(loom::sync::atomic::AtomicU64::new(0));
        let other = {
            let word = Arc::clone(&word);
            thread::spawn(move || lease::take(&word, 1, 100, 130, 90))
        };
        let own = lease::take(&word, 0, 100, 130, 90);
        let other = other.join().unwrap();
        assert!(own.is_some() != other.is_some());
        assert_eq!(lease::read(&word).owner, Some(if own.is_some() { 0 } else { 1 }));
    });
}

#[test]
fn a_late_owner_and_a_thief_never_both_have_the_lease() {
    loom::model(|| {
        let word = Arc::new(loom::sync::atomic::AtomicU64::new(0));
        let late = lease::take(&word, 0, 100, 130, 90).unwrap();
        let thief = {
            let word = Arc::clone(&word);
            thread::spawn(move || lease::take(&word, 1, 230, 260, 90))
        };
        // It woke up and goes on as if nothing had been; then it gives back.
        let renewed = lease::renew(&word, late, 260);
        let released = lease::release(&word, renewed.unwrap_or(late));
        let stolen = thief.join().unwrap();
        assert_eq!(renewed.is_some(), released, "what was renewed can be given back, and nothing else");
        if stolen.is_some() {
            assert_eq!(lease::read(&word).owner, Some(1), "a late owner takes nothing away");
        } else {
            assert!(released);
        }
    });
}

/// The bucket's step: charges in whole steps are exact.
const STEP: u64 = 64;

fn bucket_at(steps: i64, share_milli: u32) -> Arc<loom::sync::atomic::AtomicI64> {
    let word = bucket::word(steps * STEP as i64, share_milli);
    Arc::new(loom::sync::atomic::AtomicI64::new(word))
}

fn steps(bucket: &loom::sync::atomic::AtomicI64) -> i64 {
    bucket::tat(bucket.load(Ordering::SeqCst)) / STEP as i64
}

#[test]
fn no_charge_is_lost_to_a_cut_of_credit() {
    loom::model(|| {
        let tat = bucket_at(10, bucket::WHOLE);
        let threads: Vec<_> = [7, 5]
            .map(|device| {
                let tat = Arc::clone(&tat);
                thread::spawn(move || bucket::charge(&tat, 0, device * STEP, bucket::WHOLE))
            })
            .into_iter()
            .collect();
        bucket::cut_credit(&tat, 1000 * STEP as i64, 960 * STEP as i64);
        for thread in threads {
            thread.join().unwrap();
        }
        let end = steps(&tat);
        // Cut before, between or after the charges, or not at all.
        assert!([22, 40 + 5, 40 + 7, 52, 40].contains(&end), "{end}");
    });
}

#[test]
fn a_change_of_share_neither_loses_a_charge_nor_changes_what_it_cost() {
    loom::model(|| {
        // 6 steps of debt at half the chip are 3 of device time.
        let tat = bucket_at(1006, 500);
        let now = 1000 * STEP as i64;
        // One process still goes by the old share, one by the new one, and a third only looks.
        let threads: Vec<_> = [(4, 500), (3, 250)]
            .map(|(device, share)| {
                let tat = Arc::clone(&tat);
                thread::spawn(move || bucket::charge(&tat, now, device * STEP, share))
            })
            .into_iter()
            .collect();
        bucket::reprice(&tat, now, 250);
        for thread in threads {
            thread.join().unwrap();
        }
        bucket::reprice(&tat, now, 250);
        assert_eq!(steps(&tat), 1000 + (3 + 4 + 3) * 4);
        assert_eq!(bucket::reckoned_with(tat.load(Ordering::SeqCst)), 250);
    });
}

#[test]
fn a_launch_that_is_taken_is_under_way_until_it_has_been_made() {
    loom::model(|| {
        let allowance = Arc::new(Allowance::new());
        // The decider's own, and one for whoever comes first.
        allowance.allow(2);
        let made = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (allowance, made) = (Arc::clone(&allowance), Arc::clone(&made));
                thread::spawn(move || {
                    let entered = allowance.enter();
                    if entered {
                        made.fetch_add(1, Ordering::Relaxed);
                        allowance.leave();
                    }
                    entered
                })
            })
            .collect();
        let Standing { left, under_way } = allowance.look();
        assert!(left <= 1 && under_way >= 1, "{left} {under_way}");
        // The decider's own is still under way: beside it nothing is, and nothing is left, only when all is made.
        if left == 0 && under_way == 1 {
            assert_eq!(made.load(Ordering::Relaxed), 1, "what was done before is seen");
        }
        let entered = threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|entered| *entered);
        assert_eq!(entered.count(), 1, "no more than was allowed");
        allowance.leave();
        assert_eq!(allowance.take_back(), Standing { left: 0, under_way: 0 });
    });
}
