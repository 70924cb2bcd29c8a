//! One claim in this process: its two regions, and our slot in its ledger.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

use vnpu_quota_abi::ledger::{self, Request, Sum};
use vnpu_quota_abi::quota::{CHARGE_OVERHEAD, FAIL_CLOSED, QuotaEntry, QuotaValues};
use vnpu_quota_abi::slot::{self, FREE, REAPING, SlotCell, SlotTable};
use vnpu_quota_abi::view::{QuotaView, UsageView};

use crate::map::{self, Opened};
use crate::{liveness, log};

/// A claim of this process.
pub(crate) struct Claim {
    chips: Vec<u32>,
    quota: QuotaView,
    usage: UsageView,
    path: PathBuf,
    file: Opened,
    // Behind `file.fd` unless the program closed it: then another one.
    fd: AtomicI32,
    slot: usize,
}

/// A claim whose regions cannot be used.
pub(crate) struct Broken {
    /// The chips it is about; `None` when not even that could be read.
    pub(crate) chips: Option<Vec<u32>>,
    /// Whether allocations are refused.
    pub(crate) closed: bool,
}

/// The kernel's thread of this process in a ledger.
#[derive(Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) owner: u64,
    pub(crate) namespace: u32,
}

impl Claim {
    /// Takes part in the claim whose regions are in `dir`.
    pub(crate) fn attach(dir: &Path, identity: Identity) -> Result<Self, Broken> {
        let quota_path = dir.join("quota");
        let quota = map::open(&quota_path, false)
            .and_then(|file| map::map(file, false))
            .and_then(|map| QuotaView::open(map).map_err(|e| e.words().to_owned()))
            .map_err(|problem| {
                complain(&quota_path, &problem, true);
                Broken { chips: None, closed: true }
            })?;
        let values: Option<Vec<QuotaValues>> =
            (0..quota.devices()).map(|i| quota.entry(i).and_then(QuotaEntry::read)).collect();
        let Some(values) = values else {
            complain(&quota_path, "a change of it was never finished", true);
            return Err(Broken { chips: None, closed: true });
        };
        let chips: Vec<u32> = values.iter().map(|v| v.phys_id).collect();
        let closed = values.iter().any(|v| v.flags & FAIL_CLOSED != 0);
        let path = dir.join("usage");
        let broken = |problem: &str| {
            complain(&path, problem, closed);
            Broken { chips: Some(chips.clone()), closed }
        };
        let file = map::open(&path, true).map_err(|e| broken(&e))?;
        let usage = map::map(file, true)
            .and_then(|map| UsageView::open(map).map_err(|e| e.words().to_owned()))
            .map_err(|e| broken(&e))?;
        if usage.devices() != quota.devices() {
            return Err(broken("it has another number of chips than the quota"));
        }
        let mut claim =
            Self { chips, quota, usage, path, file, fd: AtomicI32::new(file.fd), slot: usize::MAX };
        if !claim.take_slot(identity) {
            log::once(
                log::Kind::Slots,
                &format!(
                    "{}: all {} slots are taken by other processes; device memory is {}",
                    claim.path.display(),
                    claim.usage.capacity(),
                    policy_words(closed),
                ),
            );
            return Err(Broken { chips: Some(claim.chips), closed });
        }
        Ok(claim)
    }

    /// Takes the first free slot; only when there is none, dead processes' slots are given back first, so that
    /// the start of a process does not get slower with the number of its neighbours.
    fn take_slot(&mut self, identity: Identity) -> bool {
        self.drop_own_past(identity);
        // More than once: between the look and the lock another process may have come.
        for round in 0..3 {
            if round > 0 {
                self.reap(identity);
            }
            let fd = self.fd();
            for i in 0..self.usage.capacity() {
                let free = self.usage.head(i).is_some_and(|h| h.owner.load(Ordering::SeqCst) == FREE);
                if !free || !liveness::lock(fd, i) {
                    continue;
                }
                if slot::claim(&self.usage, i, identity.owner, identity.namespace) {
                    self.slot = i;
                    return true;
                }
                liveness::unlock(fd, i);
            }
        }
        false
    }

    /// A slot with our own owner word is of the program that executed this one: its memory is gone.
    fn drop_own_past(&self, identity: Identity) {
        for i in 0..self.usage.high_water().min(self.usage.capacity()) {
            let Some(head) = self.usage.head(i) else { break };
            let same = head.owner.load(Ordering::SeqCst) == identity.owner
                && head.pidns_inode.load(Ordering::Relaxed) == identity.namespace;
            if same && slot::begin_reap(&self.usage, i, identity.owner) {
                slot::finish_reap(&self.usage, i);
            }
        }
    }

    /// Gives back slots of processes that are dead beyond doubt; the node agent judges the others.
    pub(crate) fn reap(&self, identity: Identity) {
        let fd = self.fd();
        for i in 0..self.usage.high_water().min(self.usage.capacity()) {
            let Some(head) = self.usage.head(i) else { break };
            let owner = head.owner.load(Ordering::SeqCst);
            if owner == FREE || i == self.slot || !liveness::lock(fd, i) {
                continue;
            }
            // We hold the lock: the owner died, closed the file, or executed another program.
            let namespace = head.pidns_inode.load(Ordering::Relaxed);
            let dead = owner == REAPING
                || namespace == identity.namespace && !liveness::lives(owner, self.file.inode);
            if dead && (owner == REAPING || slot::begin_reap(&self.usage, i, owner)) {
                slot::finish_reap(&self.usage, i);
            }
            liveness::unlock(fd, i);
        }
    }

    /// The descriptor of the usage file, opened again (and our lock taken again) if the program closed it.
    fn fd(&self) -> i32 {
        let fd = self.fd.load(Ordering::Relaxed);
        let same = |fd| {
            map::identity(fd)
                .is_some_and(|(device, inode, _)| (device, inode) == (self.file.device, self.file.inode))
        };
        if same(fd) {
            return fd;
        }
        let Ok(again) = map::open(&self.path, true) else { return fd };
        if (again.device, again.inode) != (self.file.device, self.file.inode) {
            return fd;
        }
        self.fd.store(again.fd, Ordering::Relaxed);
        if self.slot != usize::MAX {
            liveness::lock(again.fd, self.slot);
        }
        again.fd
    }

    /// The claim's index of the chip with this physical number.
    pub(crate) fn device_of(&self, chip: u32) -> Option<usize> {
        self.chips.iter().position(|c| *c == chip)
    }

    /// How many chips the claim has.
    pub(crate) fn devices(&self) -> usize {
        self.chips.len()
    }

    /// The limits on one chip as they are now; `None` when they cannot be read.
    pub(crate) fn quota(&self, device: usize) -> Option<QuotaValues> {
        self.quota.entry(device).and_then(QuotaEntry::read)
    }

    /// Our cell of the ledger for one chip.
    pub(crate) fn cell(&self, device: usize) -> Option<&SlotCell> {
        self.usage.cell(self.slot, device)
    }

    /// Reserves `bytes`; whether the quota allows it. Dead processes are given back before the answer is no.
    pub(crate) fn reserve(&self, device: usize, bytes: u64, identity: Identity) -> bool {
        let Some(quota) = self.quota(device) else { return false };
        let request = Request {
            slot: self.slot,
            device,
            bytes,
            quota: quota.memory,
            charge_overhead: quota.flags & CHARGE_OVERHEAD != 0,
        };
        if ledger::reserve(&self.usage, &request, wait).is_ok() {
            return true;
        }
        self.reap(identity);
        ledger::reserve(&self.usage, &request, wait).is_ok()
    }

    /// Counts a refused allocation.
    pub(crate) fn count_denied(&self, device: usize) {
        if let Some(counters) = self.usage.device(device) {
            counters.oom_denied.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a free of something that the ledger does not know.
    pub(crate) fn count_unknown_free(&self, device: usize) {
        if let Some(counters) = self.usage.device(device) {
            counters.unknown_frees.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The quota and what counts against it on one chip.
    pub(crate) fn numbers(&self, device: usize, identity: Identity) -> Option<(u64, u64)> {
        self.reap(identity);
        let quota = self.quota(device)?;
        let sum: Sum = ledger::sum(&self.usage, device);
        Some((quota.memory, sum.used(quota.flags & CHARGE_OVERHEAD != 0)))
    }
}

/// Between tries of a reservation: first only others' time slice, then real time, since the other process may
/// be inside the vendor's allocator.
fn wait(round: u32) {
    if round < 16 {
        std::thread::yield_now();
    } else {
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
}

fn complain(path: &Path, problem: &str, closed: bool) {
    log::once(
        log::Kind::Region,
        &format!("{}: {problem}; device memory is {}", path.display(), policy_words(closed)),
    );
}

fn policy_words(closed: bool) -> &'static str {
    if closed { "refused to this process" } else { "not limited (the claim's policy is open)" }
}
