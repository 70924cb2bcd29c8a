//! What this process's claims have and use of one chip, for programs that ask the vendor's management library: memory,
//! processes and utilisation as a tenant should see them, of that chip alone.

use std::sync::atomic::{AtomicU64, Ordering};

use vnpu_quota_abi::quota::CHARGE_OVERHEAD;
use vnpu_quota_abi::slot::{FREE, REAPING, SlotTable, owner_pid};
use vnpu_quota_abi::table::{ChipNumbers, Ownership, ProcessNumbers};

use crate::chips::Chip;
use crate::claim::Claim;
use crate::clock;
use crate::process::Process;

/// A chip by either name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    /// The number in its device node's name.
    pub(crate) phys_id: Option<u32>,
    /// Its identity.
    pub(crate) uuid: Option<&'a [u8]>,
}

impl Name<'_> {
    fn chip(&self) -> Option<Chip> {
        self.uuid.and_then(Chip::of_text).or_else(|| self.phys_id.map(Chip::Npu))
    }
}

impl Process {
    /// Whose the chip is, and the numbers if it is a claim's. `processes` is called with each process of ours.
    pub(crate) fn chip_numbers(
        &self,
        name: Name<'_>,
        mut processes: impl FnMut(ProcessNumbers),
    ) -> (Ownership, ChipNumbers) {
        self.retry();
        let (mut numbers, mut milli, mut found) = (ChipNumbers::default(), 0, false);
        for (claim, device) in self.claims().filter_map(|c| Some((c, c.named(name)?))) {
            let Some(quota) = claim.quota(device) else { continue };
            let Some((total, used)) = claim.numbers(device, self.identity()) else { continue };
            found = true;
            numbers.total = numbers.total.saturating_add(total);
            numbers.used = numbers.used.saturating_add(used);
            numbers.share_milli = numbers.share_milli.saturating_add(quota.share_milli);
            milli += claim.recent_milli(device);
            let overhead = quota.flags & CHARGE_OVERHEAD != 0;
            claim.processes(device, self.identity().namespace, overhead, &mut processes);
        }
        if !found {
            let shut = self.broken_policy(name.chip()) == Some(true);
            return (if shut { Ownership::Shut } else { Ownership::Foreign }, numbers);
        }
        let of = if numbers.share_milli == 0 { 1000 } else { numbers.share_milli };
        numbers.utilization = (milli * 100 / of).min(100);
        (Ownership::Claimed, numbers)
    }
}

impl Claim {
    /// The claim's index of a chip.
    fn named(&self, name: Name<'_>) -> Option<usize> {
        let by_uuid = |uuid: &[u8]| {
            (0..self.chips().len()).find(|d| self.quota(*d).is_some_and(|q| q.uuid_bytes() == uuid))
        };
        // The identity is certain; a container may have other numbers than the host.
        match name.uuid {
            Some(uuid) => by_uuid(uuid),
            None => self.device_of(Chip::Npu(name.phys_id?)),
        }
    }

    /// Thousandths of the chip that the claim has kept busy lately.
    fn recent_milli(&self, device: usize) -> u32 {
        let (Some(counters), now) = (self.counters(device), clock::now()) else { return 0 };
        let busy = counters.busy_ns.load(Ordering::Relaxed);
        let milli = counters.recent.per_mille(now, busy);
        // Whoever watches an idle claim keeps the samples fresh.
        counters.recent.note(now, busy);
        milli
    }

    /// Calls `tell` with each process of PID namespace `namespace` that has a slot.
    fn processes(&self, device: usize, namespace: u32, overhead: bool, mut tell: impl FnMut(ProcessNumbers)) {
        let usage = self.ledger();
        for slot in 0..usage.high_water().min(usage.capacity()) {
            let (Some(head), Some(cell)) = (usage.head(slot), usage.cell(slot, device)) else { continue };
            let owner = head.owner.load(Ordering::SeqCst);
            let at_home = head.pidns_inode.load(Ordering::Relaxed) == namespace;
            if owner == FREE || owner == REAPING || !at_home {
                continue;
            }
            let read = |word: &AtomicU64| word.load(Ordering::SeqCst);
            let bytes = read(&cell.reserved)
                .saturating_add(read(&cell.committed))
                .saturating_add(if overhead { read(&cell.overhead) } else { 0 });
            tell(ProcessNumbers { bytes, pid: owner_pid(owner), reserved: 0 });
        }
    }
}
