//! The regions of a claim, as the interposer opens and works on them.

use std::hint::black_box;
use std::sync::atomic::Ordering;

use vnpu_quota_abi::header::Header;
use vnpu_quota_abi::ledger::{self, Request};
use vnpu_quota_abi::quota::quota_size;
use vnpu_quota_abi::slot::{self, SlotTable};
use vnpu_quota_abi::usage::usage_size;
use vnpu_quota_abi::view::{DeviceView, QuotaView, UsageView};

use crate::memory::{Input, Memory, spoiled};

/// A quota region of any content is refused, or each entry of it is readable or unfinished.
pub fn quota(bytes: &[u8]) {
    let mut input = Input(bytes);
    let devices = u16::from(input.byte() % 9);
    let memory = spoiled(&mut input, quota_size(devices), |mapping| {
        QuotaView::prepare(mapping, devices).unwrap().publish([7; 16], 1);
    });
    let Ok(view) = QuotaView::open(memory.mapping()) else { return };
    black_box(view.header().map(Header::claim));
    for device in 0..view.devices() {
        let entry = view.entry(device).expect("as many entries as it says");
        if let Some(values) = entry.read() {
            assert!(values.uuid_bytes().len() <= 64);
            entry.write(&values);
            assert_eq!(entry.read(), Some(values), "what is written is read");
        }
    }
    assert!(view.entry(view.devices()).is_none());
}

/// A usage region of any content is refused, or works as a ledger: nothing is granted beyond the quota.
pub fn usage(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (devices, slots) = (u16::from(input.byte() % 5), u16::from(input.byte() % 20));
    let memory = spoiled(&mut input, usage_size(devices, slots), |mapping| {
        UsageView::create(mapping, devices, slots, [7; 16], 1).unwrap();
    });
    assert!(DeviceView::open(memory.mapping()).is_err() || bytes.len() > 4096, "of another kind");
    // As the agent looks at it: by counts of its own.
    if let Ok(view) = UsageView::over(memory.mapping(), devices, slots) {
        view.raise_high_water(usize::from(slots));
        for device in 0..usize::from(devices) {
            black_box(ledger::sum(&view, device));
        }
    }
    let Ok(view) = UsageView::open(memory.mapping()) else { return };
    let quota = input.number::<8>();
    for slot in 0..view.capacity().min(32) {
        let owner = view.head(slot).expect("as many slots as it says").owner.load(Ordering::SeqCst);
        if input.byte() % 2 == 0 && owner != slot::FREE && slot::begin_reap(&view, slot, owner) {
            slot::finish_reap(&view, slot);
            assert_eq!(view.head(slot).map(|h| h.owner.load(Ordering::SeqCst)), Some(slot::FREE));
        }
        slot::claim(&view, slot, 42, 1);
        for device in 0..view.devices().min(8) {
            let request =
                Request { slot, device, bytes: input.number::<4>(), quota, charge_overhead: slot % 2 == 0 };
            let before = ledger::sum(&view, device).used(request.charge_overhead);
            let granted = ledger::reserve(&view, &request, |_| ()).is_ok();
            let cell = view.cell(slot, device).expect("as many cells as it says");
            assert!(!granted || before.saturating_add(request.bytes) <= quota, "beyond the quota");
            if granted {
                ledger::commit(cell, request.bytes);
                neighbour(&mut input, &memory);
                ledger::release(cell, request.bytes);
            }
            if let Some(counters) = view.device(device) {
                counters.oom_denied.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    assert!(view.head(view.capacity()).is_none() && view.cell(0, view.devices()).is_none());
}

/// Another process of the claim writes what it likes, also in the middle of our work.
fn neighbour(input: &mut Input<'_>, memory: &Memory) {
    if !input.is_empty() {
        let (place, bytes) = input.patch();
        memory.write(place, bytes);
    }
}
