//! The ledger in a real (zeroed) region against a reference model, and views over hostile memory.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg(not(loom))]

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use vnpu_quota_abi::charge::{Pages, charged, padded};
use vnpu_quota_abi::header::{Kind, Unusable};
use vnpu_quota_abi::ledger::{self, Request};
use vnpu_quota_abi::quota::quota_size;
use vnpu_quota_abi::slot::{self, SlotTable};
use vnpu_quota_abi::usage::usage_size;
use vnpu_quota_abi::view::{DeviceView, Mapping, QuotaView, UsageView};

/// Zeroed memory with the alignment of a page.
fn memory(len: usize) -> (Vec<u128>, Mapping) {
    let mut buffer = vec![0_u128; len.div_ceil(16)];
    let base = NonNull::new(buffer.as_mut_ptr().cast::<u8>()).unwrap();
    // SAFETY: the buffer is returned beside the mapping and outlives it in every test.
    (buffer, unsafe { Mapping::new(base, len) })
}

#[derive(Debug, Clone)]
enum Step {
    Allocate { slot: usize, device: usize, bytes: u64, succeeds: bool },
    Free { pick: usize },
    Kill { slot: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4_usize, 0..2_usize, 0..400_u64, any::<bool>())
            .prop_map(|(slot, device, bytes, fails)| Step::Allocate { slot, device, bytes, succeeds: !fails || bytes % 3 != 0 }),
        3 => any::<usize>().prop_map(|pick| Step::Free { pick }),
        1 => (0..4_usize).prop_map(|slot| Step::Kill { slot }),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn the_ledger_is_the_reference_model(steps in steps(), quota in 1..1500_u64) {
        let (_buffer, map) = memory(usage_size(2, 4));
        let view = UsageView::create(map, 2, 4, [1; 16], 1).unwrap();
        for slot in 0..4 {
            prop_assert!(slot::claim(&view, slot, slot as u64 + 1, 0));
        }
        let mut live: Vec<(usize, usize, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Allocate { slot, device, bytes, succeeds } => {
                    let used: u64 = live.iter().filter(|a| a.1 == device).map(|a| a.2).sum();
                    let request = Request { slot, device, bytes, quota, charge_overhead: true };
                    let granted = ledger::reserve(&view, &request, |_| ()).is_ok();
                    prop_assert_eq!(granted, used + bytes <= quota);
                    let cell = view.cell(slot, device).unwrap();
                    match (granted, succeeds) {
                        (true, true) => {
                            ledger::commit(cell, bytes);
                            live.push((slot, device, bytes));
                        }
                        (true, false) => ledger::abandon(cell, bytes),
                        (false, _) => (),
                    }
                }
                Step::Free { pick } if !live.is_empty() => {
                    let (slot, device, bytes) = live.swap_remove(pick % live.len());
                    ledger::release(view.cell(slot, device).unwrap(), bytes);
                }
                Step::Free { .. } => (),
                Step::Kill { slot } => {
                    let held: u64 = live.iter().filter(|a| a.0 == slot).map(|a| a.2).sum();
                    prop_assert!(slot::begin_reap(&view, slot, slot as u64 + 1));
                    prop_assert!(!slot::begin_reap(&view, slot, slot as u64 + 1));
                    prop_assert_eq!(slot::finish_reap(&view, slot), held);
                    live.retain(|a| a.0 != slot);
                    prop_assert!(slot::claim(&view, slot, slot as u64 + 1, 0));
                }
            }
            let mut sums: HashMap<usize, u64> = HashMap::new();
            for (_, device, bytes) in &live {
                *sums.entry(*device).or_default() += bytes;
            }
            for device in 0..2 {
                let sum = ledger::sum(&view, device);
                prop_assert_eq!(sum.committed, sums.get(&device).copied().unwrap_or(0));
                prop_assert_eq!(sum.reserved, 0);
            }
        }
    }

    #[test]
    fn a_view_over_any_bytes_is_an_error_or_stays_inside(bytes in proptest::collection::vec(any::<u8>(), 0..4096), magic in any::<bool>()) {
        let (mut buffer, map) = memory(bytes.len());
        for (word, chunk) in buffer.iter_mut().zip(bytes.chunks(16)) {
            let mut all = [0; 16];
            all[..chunk.len()].copy_from_slice(chunk);
            *word = u128::from_ne_bytes(all);
        }
        if let (true, Some(header)) = (magic, map.header()) {
            header.magic.store(Kind::Usage as u32, Ordering::SeqCst);
            header.min_reader.store(1, Ordering::SeqCst);
        }
        if let Ok(view) = UsageView::open(map) {
            let _ = ledger::sum(&view, 0);
            for slot in 0..view.capacity() {
                let _ = view.head(slot).map(|h| h.owner.load(Ordering::SeqCst));
                prop_assert!(view.cell(slot, view.devices()).is_none());
            }
            prop_assert!(view.head(view.capacity()).is_none());
        }
        let _ = QuotaView::open(map).map(|q| q.entry(0).and_then(|e| e.try_read()));
        let _ = DeviceView::open(map).map(|d| d.entry(127).map(|e| e.tat.load(Ordering::SeqCst)));
    }

    #[test]
    fn a_charge_is_the_request_rounded_up_by_less_than_one_unit(size in 0..1_u64 << 40, policy in any::<u32>()) {
        let bytes = charged(size, Pages::from_policy(policy));
        prop_assert!(bytes >= size && bytes - size < 1 << 30 && bytes.is_multiple_of(512));
    }
}

#[test]
fn a_finished_region_is_readable_and_a_half_made_or_newer_one_is_not() {
    let (_buffer, map) = memory(quota_size(2));
    assert_eq!(QuotaView::open(map).unwrap_err(), Unusable::WrongKind);
    let view = QuotaView::prepare(map, 2).unwrap();
    assert_eq!(QuotaView::open(map).unwrap_err(), Unusable::WrongKind, "not published yet");
    view.publish([7; 16], 3);
    assert_eq!(QuotaView::open(map).unwrap().devices(), 2);
    assert_eq!(map.header().unwrap().claim(), [7; 16]);
    assert_eq!(UsageView::open(map).unwrap_err(), Unusable::WrongKind);
    map.header().unwrap().min_reader.store(vnpu_quota_abi::LAYOUT_VERSION + 1, Ordering::SeqCst);
    assert_eq!(QuotaView::open(map).unwrap_err(), Unusable::TooNew);
}

#[test]
fn a_region_that_claims_more_than_is_mapped_is_refused() {
    let (_buffer, map) = memory(usage_size(1, 2));
    UsageView::create(map, 1, 2, [0; 16], 1).unwrap();
    let header = map.header().unwrap();
    header.region_size.store(u32::MAX, Ordering::SeqCst);
    assert_eq!(UsageView::open(map).unwrap_err(), Unusable::Truncated);
    header.region_size.store(64, Ordering::SeqCst);
    header.slot_count.store(u16::MAX, Ordering::SeqCst);
    assert_eq!(UsageView::open(map).unwrap_err(), Unusable::BadCounts);
}

#[test]
fn a_whole_quota_in_huge_pages_or_small_blocks_is_charged_exactly() {
    let huge = charged(64 << 20, Pages::HugeFirst);
    assert_eq!(huge, 64 << 20);
    assert_eq!(charged(1 << 20, Pages::HugeFirst), 1 << 20);
    assert_eq!(charged((1 << 20) + 1, Pages::HugeFirst), 2 << 20);
    assert_eq!(charged(1, Pages::HugeFirst), 512);
    assert_eq!(charged(1, Pages::HugeOnly), 2 << 20);
    assert_eq!(charged(3 << 20, Pages::NormalOnly), 3 << 20);
    assert_eq!(charged(u64::MAX, Pages::HugeFirst), u64::MAX);
    assert_eq!(charged(0, Pages::HugeFirst), 0);
    assert_eq!(charged(padded(64 << 20), Pages::HugeFirst), 66 << 20);
    assert_eq!((padded(1), padded(32), padded(480), padded(u64::MAX)), (64, 64, 512, u64::MAX));
}

#[test]
fn an_overflowing_wish_or_ledger_is_refused() {
    let (_buffer, map) = memory(usage_size(1, 1));
    let view = UsageView::create(map, 1, 1, [0; 16], 1).unwrap();
    assert!(slot::claim(&view, 0, 1, 0));
    let ask = |bytes| Request { slot: 0, device: 0, bytes, quota: 100, charge_overhead: true };
    assert!(ledger::reserve(&view, &ask(u64::MAX), |_| ()).is_err());
    view.cell(0, 0).unwrap().committed.store(u64::MAX - 5, Ordering::SeqCst);
    assert!(ledger::reserve(&view, &ask(50), |_| ()).is_err());
    assert_eq!(view.cell(0, 0).unwrap().reserved.load(Ordering::SeqCst), 0);
    // Rubbish with which the reservation would read as next to nothing.
    view.cell(0, 0).unwrap().committed.store(0, Ordering::SeqCst);
    view.cell(0, 0).unwrap().reserved.store(u64::MAX - 5, Ordering::SeqCst);
    assert!(ledger::reserve(&view, &ask(50), |_| ()).is_err());
    assert_eq!(view.cell(0, 0).unwrap().reserved.load(Ordering::SeqCst), u64::MAX - 5);
}

#[test]
fn a_reaper_that_comes_late_leaves_the_next_owner_what_is_his() {
    let (_buffer, map) = memory(usage_size(2, 4));
    let view = UsageView::create(map, 2, 4, [1; 16], 1).unwrap();
    let words = || {
        let cells = [0, 1].map(|device| view.cell(3, device).unwrap());
        let bytes = cells.map(|c| [&c.committed, &c.reserved, &c.overhead].map(|w| w.load(Ordering::SeqCst)));
        let head = view.head(3).unwrap();
        (head.owner.load(Ordering::SeqCst), head.pidns_inode.load(Ordering::SeqCst), bytes)
    };
    assert!(slot::claim(&view, 3, 10, 5) && slot::begin_reap(&view, 3, 10));
    // Another one finished it, and somebody took the slot.
    assert_eq!(slot::finish_reap(&view, 3), 0);
    assert!(slot::claim(&view, 3, 11, 6));
    for device in [0, 1] {
        let cell = view.cell(3, device).unwrap();
        for word in [&cell.committed, &cell.reserved, &cell.overhead] {
            word.store(7, Ordering::SeqCst);
        }
    }
    assert_eq!(slot::finish_reap(&view, 3), 0);
    assert_eq!(words(), (11, 6, [[7; 3]; 2]));
}
