//! The layout in small: every field of every region reached by its view, and the protocols on it from several threads,
//! with sizes that an interpreter can do. `cargo xtask miri` runs these to find undefined behaviour.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg(not(loom))]

use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::thread;

use vnpu_quota_abi::device::DEVICE_SIZE;
use vnpu_quota_abi::gate::{Answer, Gate, Tuning};
use vnpu_quota_abi::header::Unusable;
use vnpu_quota_abi::ledger::{self, Request};
use vnpu_quota_abi::line::{Mode, Terms};
use vnpu_quota_abi::quota::{QuotaValues, UUID_SIZE, quota_size};
use vnpu_quota_abi::slot::{self, SlotTable};
use vnpu_quota_abi::usage::usage_size;
use vnpu_quota_abi::view::{DeviceView, Mapping, QuotaView, UsageView};
use vnpu_quota_abi::{DEVICE_ENTRIES, bucket, lease};

/// Exactly `len` zeroed bytes, aligned as a mapping is for every layout, so that a byte behind them is nobody's.
struct Memory(NonNull<u8>, std::alloc::Layout);

impl Memory {
    fn zeroed(len: usize) -> Self {
        let layout = std::alloc::Layout::from_size_align(len, 128).unwrap();
        // SAFETY: no test asks for no bytes.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        Self(NonNull::new(base).unwrap(), layout)
    }

    fn mapping(&self) -> Mapping {
        // SAFETY: allocated until `self` is dropped, which outlives the views of every test; reached by atomics only.
        unsafe { Mapping::new(self.0, self.1.size()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { std::alloc::dealloc(self.0.as_ptr(), self.1) }
    }
}

fn values(n: u32) -> QuotaValues {
    QuotaValues {
        uuid: [n as u8; UUID_SIZE],
        phys_id: n,
        minor: n,
        entry: 1,
        mode: 0,
        priority: 5,
        flags: 3,
        share_milli: n,
        memory: u64::from(n),
    }
}

#[test]
fn every_entry_of_a_quota_is_inside_and_its_own() {
    let memory = Memory::zeroed(quota_size(3));
    let view = QuotaView::prepare(memory.mapping(), 3).unwrap();
    view.publish([9; 16], 1);
    for device in 0..3 {
        view.entry(device).unwrap().write(&values(device as u32 + 1));
    }
    let view = QuotaView::open(memory.mapping()).unwrap();
    let read: Vec<_> = (0..3).map(|device| view.entry(device).unwrap().read().unwrap()).collect();
    assert_eq!(read, [values(1), values(2), values(3)]);
    assert!(view.entry(3).is_none());
}

#[test]
fn a_reader_beside_a_writer_of_a_quota_sees_one_of_its_values() {
    let memory = Memory::zeroed(quota_size(1));
    let view = QuotaView::prepare(memory.mapping(), 1).unwrap();
    view.publish([9; 16], 1);
    thread::scope(|scope| {
        scope.spawn(|| (1..20).for_each(|n| view.entry(0).unwrap().write(&values(n))));
        for _ in 0..20 {
            if let Some(seen) = view.entry(0).unwrap().try_read() {
                assert_eq!(u64::from(seen.phys_id), seen.memory);
            }
        }
    });
    assert_eq!(view.entry(0).unwrap().read(), Some(values(19)));
}

#[test]
fn every_slot_and_cell_of_a_ledger_is_inside_and_its_own() {
    let memory = Memory::zeroed(usage_size(2, 3));
    let view = UsageView::create(memory.mapping(), 2, 3, [9; 16], 1).unwrap();
    for slot in 0..3 {
        assert!(slot::claim(&view, slot, slot as u64 + 1, 7));
        for device in 0..2 {
            let cell = view.cell(slot, device).unwrap();
            cell.committed.store((slot * 2 + device + 1) as u64, Ordering::SeqCst);
            cell.padding.store(u64::MAX, Ordering::SeqCst);
        }
        for word in &view.head(slot).unwrap().reserved {
            word.store(u64::MAX, Ordering::SeqCst);
        }
    }
    for device in 0..2 {
        let counters = view.device(device).unwrap();
        counters.oom_denied.store(device as u64 + 1, Ordering::SeqCst);
        counters.slotless_denied.store(u64::MAX, Ordering::SeqCst);
    }
    assert_eq!((ledger::sum(&view, 0).committed, ledger::sum(&view, 1).committed), (1 + 3 + 5, 2 + 4 + 6));
    assert!(view.head(3).is_none() && view.cell(3, 0).is_none() && view.cell(0, 2).is_none());
    assert!(view.device(2).is_none());
    let freed: u64 = (0..3)
        .map(|slot| {
            assert!(slot::begin_reap(&view, slot, slot as u64 + 1));
            slot::finish_reap(&view, slot)
        })
        .sum();
    assert_eq!((freed, ledger::sum(&view, 0).used(true)), (21, 0));
    assert_eq!(view.device(1).unwrap().oom_denied.load(Ordering::SeqCst), 2);
}

#[test]
fn threads_of_several_slots_reserve_commit_and_release_within_the_quota() {
    let memory = Memory::zeroed(usage_size(1, 3));
    let view = UsageView::create(memory.mapping(), 1, 3, [9; 16], 1).unwrap();
    thread::scope(|scope| {
        for slot in 0..3 {
            let view = &view;
            scope.spawn(move || {
                assert!(slot::claim(view, slot, slot as u64 + 1, 0));
                let cell = view.cell(slot, 0).unwrap();
                for bytes in 1..6 {
                    let request = Request { slot, device: 0, bytes, quota: 7, charge_overhead: true };
                    if ledger::reserve(view, &request, |_| thread::yield_now()).is_ok() {
                        ledger::commit(cell, bytes);
                        assert!(ledger::sum(view, 0).committed <= 7);
                        ledger::release(cell, bytes);
                    }
                }
            });
        }
    });
    assert_eq!(ledger::sum(&view, 0).used(true), 0);
}

#[test]
fn every_entry_of_a_chip_is_inside_and_its_own() {
    let memory = Memory::zeroed(DEVICE_SIZE);
    let view = DeviceView::create(memory.mapping(), 1).unwrap();
    for n in 0..DEVICE_ENTRIES {
        view.entry(n).unwrap().busy_ns.store(u64::from(n), Ordering::SeqCst);
    }
    for n in 0..DEVICE_ENTRIES {
        assert_eq!(view.entry(n).unwrap().busy_ns.load(Ordering::SeqCst), u64::from(n));
    }
    assert!(view.entry(DEVICE_ENTRIES).is_none());
    assert_eq!(view.lease().unwrap().load(Ordering::SeqCst), 0);
}

#[test]
fn two_gates_on_one_chip_take_turns() {
    let memory = Memory::zeroed(DEVICE_SIZE);
    let view = DeviceView::create(memory.mapping(), 1).unwrap();
    let terms = |entry| Terms { entry, share_milli: 500, mode: Mode::Hard, priority: 5 };
    for entry in 0..2 {
        let entry = view.entry(entry).unwrap();
        entry.share_milli.store(500, Ordering::SeqCst);
        entry.priority.store(5, Ordering::SeqCst);
    }
    let mut gates = [Gate::new(Tuning::DEFAULT), Gate::new(Tuning::DEFAULT)];
    let (mut now, mut launched) = (1_000_000_000_u64, [0_u32; 2]);
    // An interpreter needs a second for a few.
    for _ in 0..if cfg!(miri) { 100 } else { 400 } {
        for (n, gate) in gates.iter_mut().enumerate() {
            let terms = terms(n as u16);
            match gate.ask(&view, &terms, now) {
                Answer::Go(launches) => {
                    gate.launched(now, launches);
                    launched[n] += launches;
                }
                Answer::Mark => {
                    if gate.marked(now) {
                        gate.finished(&view, &terms, now, 500_000);
                    }
                }
                Answer::Wait(_) | Answer::Rest => {}
            }
        }
        assert!(!(gates[0].holds() && gates[1].holds()), "one has the lease");
        now += 300_000;
    }
    assert!(launched.iter().all(|n| *n > 0), "{launched:?}");
}

#[test]
fn leases_and_charges_from_several_threads() {
    let memory = Memory::zeroed(DEVICE_SIZE);
    let view = DeviceView::create(memory.mapping(), 1).unwrap();
    thread::scope(|scope| {
        for owner in 0..3_u16 {
            let view = &view;
            scope.spawn(move || {
                let (word, tat) = (view.lease().unwrap(), &view.entry(0).unwrap().tat);
                for now in 100..110 {
                    if let Some(held) = lease::take(word, owner, now, now + 10, 5) {
                        bucket::charge(tat, 0, 64, bucket::WHOLE);
                        let held = lease::renew(word, held, now + 20).unwrap_or(held);
                        lease::release(word, held);
                    }
                }
            });
        }
    });
    let charged = view.entry(0).unwrap().tat.load(Ordering::SeqCst);
    assert!(bucket::tat(charged) > 0 && bucket::reckoned_with(charged) == bucket::WHOLE);
}

#[test]
fn a_region_of_every_length_is_refused_or_whole() {
    for len in [1, 63, 64, 127, 128, quota_size(1) - 1, quota_size(1), DEVICE_SIZE - 1] {
        let memory = Memory::zeroed(len);
        let made = QuotaView::prepare(memory.mapping(), 1).map(|view| view.publish([1; 16], 1));
        assert_eq!(made.is_ok(), len >= quota_size(1), "{len}");
        assert_eq!(QuotaView::open(memory.mapping()).is_ok(), len >= quota_size(1), "{len}");
        assert!(DeviceView::create(memory.mapping(), 1).is_err(), "{len}");
        assert!(UsageView::open(memory.mapping()).is_err());
    }
    let memory = Memory::zeroed(256);
    // SAFETY: one byte into memory that is there.
    let odd = unsafe { Mapping::new(memory.0.add(1), 200) };
    assert_eq!(QuotaView::open(odd).unwrap_err(), Unusable::Misaligned);
}
