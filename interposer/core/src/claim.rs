//! One claim in this process: its two regions, and our slot in its ledger.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use vnpu_quota_abi::ledger::{self, Request, Sum};
use vnpu_quota_abi::mark::{Mark, reached};
use vnpu_quota_abi::quota::{CHARGE_OVERHEAD, FAIL_CLOSED, QuotaEntry, QuotaValues};
use vnpu_quota_abi::slot::{self, FREE, REAPING, SlotCell, SlotTable};
use vnpu_quota_abi::usage::UsageDevice;
use vnpu_quota_abi::view::{QuotaView, UsageView};

use crate::broken::{Broken, FullTable};
use crate::chips::Chip;
use crate::lane::Lane;
use crate::limits::Limits;
use crate::map::{File, Region};
use crate::once::Once;
use crate::rate::{Backoff, Rate};
use crate::{clock, incarnation, liveness, log};

/// A claim of this process.
pub(crate) struct Claim {
    chips: Vec<Chip>,
    closed: bool,
    quota: QuotaView,
    limits: Vec<Limits>,
    usage: UsageView,
    path: PathBuf,
    file: File,
    // Whether the record lock of our slot is ours as far as we know.
    locked: AtomicBool,
    slot: usize,
    looks: Rate,
    dir: PathBuf,
    // One per chip.
    lanes: Vec<Way>,
    // Behind the views.
    _quota_region: Region,
    usage_region: Region,
}

/// The lane of a chip, opened at the first launch there, or later if that fails: a neighbour may have spoiled the
/// region, and the agent repairs it.
struct Way {
    lane: Once<Lane>,
    // Set by the first failure.
    retry: Once<Backoff>,
}

/// Why a process got no slot.
enum NoSlot {
    /// No slot is free, or of a process that is dead beyond doubt.
    Full,
    /// The table could not be looked at: another thread is at it for too long, or closed the file.
    Unseen,
}

/// The kernel's thread of this process in a ledger.
#[derive(Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) owner: u64,
    pub(crate) namespace: u32,
}

/// How long a thread waits for another one that takes or reaps slots.
const TURN_MILLISECONDS: u32 = 2000;

impl Claim {
    /// Takes part in the claim whose regions are in `dir`.
    pub(crate) fn attach(dir: &Path, identity: Identity) -> Result<Self, Broken> {
        let quota_path = dir.join("quota");
        let (quota_region, quota) = File::open(&quota_path, false)
            .and_then(|file| Region::map(&file, false))
            .and_then(|region| match QuotaView::open(region.mapping()) {
                Ok(view) => Ok((region, view)),
                Err(e) => Err(e.words().to_owned()),
            })
            .map_err(|problem| {
                complain(&quota_path, &problem, true);
                Broken { chips: None, closed: true, full: None }
            })?;
        let values: Option<Vec<QuotaValues>> =
            (0..quota.devices()).map(|i| quota.entry(i).and_then(QuotaEntry::read)).collect();
        let Some(values) = values else {
            complain(&quota_path, "a change of it was never finished", true);
            return Err(Broken { chips: None, closed: true, full: None });
        };
        let chips: Vec<Chip> = values.iter().map(Chip::of).collect();
        let closed = values.iter().any(|v| v.flags & FAIL_CLOSED != 0);
        let path = dir.join("usage");
        let broken = |problem: &str| {
            complain(&path, problem, closed);
            Broken { chips: Some(chips.clone()), closed, full: None }
        };
        let file = File::open(&path, true).map_err(|e| broken(&e))?;
        let region = Region::map(&file, true).map_err(|e| broken(&e))?;
        let usage = UsageView::open(region.mapping()).map_err(|e| broken(e.words()))?;
        if usage.devices() != quota.devices() {
            return Err(broken("it has another number of chips than the quota"));
        }
        let mut claim = Self {
            chips,
            closed,
            quota,
            limits: values.iter().copied().map(Limits::new).collect(),
            usage,
            path,
            file,
            locked: AtomicBool::new(false),
            slot: usize::MAX,
            looks: Rate::new(),
            dir: dir.to_owned(),
            lanes: values.iter().map(|_| Way { lane: Once::new(), retry: Once::new() }).collect(),
            _quota_region: quota_region,
            usage_region: region,
        };
        match claim.take_slot(identity) {
            Ok(()) => Ok(claim),
            Err(why) => Err(claim.give_up(&why)),
        }
    }

    /// What is left of a claim without a slot.
    fn give_up(self, why: &NoSlot) -> Broken {
        let problem = match why {
            NoSlot::Full => format!("all {} slots are taken by other processes", self.usage.capacity()),
            NoSlot::Unseen => "its slots could not be looked at".to_owned(),
        };
        let (path, outcome) = (self.path.display(), policy_words(self.closed));
        log::once(log::Kind::Slots, &format!("{path}: {problem}; device memory is {outcome}"));
        let full = FullTable { usage: self.usage, _region: self.usage_region };
        let full = matches!(why, NoSlot::Full).then_some(full);
        Broken { chips: Some(self.chips), closed: self.closed, full }
    }

    /// Takes the first free slot; only when there is none, dead processes' slots are given back first, so that
    /// the start of a process does not get slower with the number of its neighbours.
    fn take_slot(&mut self, identity: Identity) -> Result<(), NoSlot> {
        let _turn = incarnation::slots_turn(TURN_MILLISECONDS).ok_or(NoSlot::Unseen)?;
        let fd = self.file.fd().ok_or(NoSlot::Unseen)?;
        self.drop_own_past(fd, identity);
        // More than once: between the look and the lock another process may have come.
        for round in 0..3 {
            if round > 0 {
                self.reap_slots(fd, identity);
            }
            for i in 0..self.usage.capacity() {
                let free = self.usage.head(i).is_some_and(|h| h.owner.load(Ordering::SeqCst) == FREE);
                if !free || !liveness::lock(fd, i) {
                    continue;
                }
                reached(Mark::SlotLocked);
                if slot::claim(&self.usage, i, identity.owner, identity.namespace) {
                    self.slot = i;
                    self.locked.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                liveness::unlock(fd, i);
            }
        }
        Err(NoSlot::Full)
    }

    /// A slot with our own owner word is of the program that executed this one: its memory is gone. Without a
    /// known namespace the word says too little: it may be a process of another container.
    fn drop_own_past(&self, fd: i32, identity: Identity) {
        if identity.namespace == 0 {
            return;
        }
        self.reap_where(fd, |owner, namespace| owner == identity.owner && namespace == identity.namespace);
    }

    /// Gives back slots of processes that are dead beyond doubt; the node agent judges the others.
    fn reap_slots(&self, fd: i32, identity: Identity) {
        self.reap_where(fd, |owner, namespace| {
            owner == REAPING
                || namespace != 0
                    && namespace == identity.namespace
                    && !liveness::lives(owner, self.file.inode())
        });
    }

    /// Gives back the slots, other than ours, that nobody holds the lock of and whose owner and namespace are
    /// `dead`. The caller has the turn.
    fn reap_where(&self, fd: i32, dead: impl Fn(u64, u32) -> bool) {
        for i in 0..self.usage.high_water().min(self.usage.capacity()) {
            let Some(head) = self.usage.head(i) else { break };
            if head.owner.load(Ordering::SeqCst) == FREE || i == self.slot || !liveness::lock(fd, i) {
                continue;
            }
            reached(Mark::ReapLocked);
            // We hold the lock: the owner died, closed the file, or executed another program. Who it is counts
            // from now on only; before the lock the slot may have changed hands.
            let owner = head.owner.load(Ordering::SeqCst);
            let dead = owner != FREE && dead(owner, head.pidns_inode.load(Ordering::Relaxed));
            if dead && (owner == REAPING || slot::begin_reap(&self.usage, i, owner)) {
                slot::finish_reap(&self.usage, i);
            }
            liveness::unlock(fd, i);
        }
    }

    /// Gives back dead processes' slots, unless another thread is at it for too long.
    fn reap(&self, identity: Identity) {
        let Some(_turn) = incarnation::slots_turn(TURN_MILLISECONDS) else { return };
        if let Some(fd) = self.fd() {
            self.reap_slots(fd, identity);
        }
    }

    /// The descriptor of the usage file, opened again (and our lock taken again) if the program closed it. The
    /// caller has the turn.
    fn fd(&self) -> Option<i32> {
        let fd = self.file.fd().or_else(|| {
            self.locked.store(false, Ordering::Relaxed);
            self.file.reopen(&self.path)
        })?;
        // Fails while a reaper looks at our slot: then once more next time.
        if !self.locked.load(Ordering::Relaxed) && liveness::lock(fd, self.slot) {
            self.locked.store(true, Ordering::Relaxed);
        }
        Some(fd)
    }

    /// The claim's index of a chip.
    pub(crate) fn device_of(&self, chip: Chip) -> Option<usize> {
        self.chips.iter().position(|c| *c == chip)
    }

    /// Its chips.
    pub(crate) fn chips(&self) -> &[Chip] {
        &self.chips
    }

    /// Whether allocations are refused that cannot be accounted.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The limits on one chip as they are now, or were before a change that is under way; `None` of a chip that is not
    /// the claim's.
    pub(crate) fn quota(&self, device: usize) -> Option<QuotaValues> {
        Some(self.limits.get(device)?.latest(self.quota.entry(device).and_then(QuotaEntry::read)))
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

    /// Counts an allocation that went round the ledger.
    pub(crate) fn count_unhooked(&self, device: usize) {
        if let Some(counters) = self.usage.device(device) {
            counters.unhooked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Our way to one chip; `None` when its region cannot be used: then compute is not limited.
    pub(crate) fn lane(&self, device: usize) -> Option<&Lane> {
        let way = self.lanes.get(device)?;
        if let Some(lane) = way.lane.get() {
            return Some(lane);
        }
        if way.retry.get().is_some_and(|retry| !retry.is_due()) {
            return None;
        }
        let Some(lane) = self.make_lane(device) else {
            way.retry.get_or_init(Backoff::new);
            return None;
        };
        // Of threads that come at the same time one has its lane kept.
        Some(way.lane.get_or_init(|| lane))
    }

    /// As [`Self::lane`], of a chip that has been launched on.
    pub(crate) fn open_lane(&self, device: usize) -> Option<&Lane> {
        self.lanes.get(device)?.lane.get()
    }

    fn make_lane(&self, device: usize) -> Option<Lane> {
        let uuid = self.quota(device)?.uuid;
        let uuid: Vec<u8> = uuid.into_iter().take_while(|b| *b != 0).collect();
        // `<base>/claims/<uid>` beside `<base>/devices/<uuid>`.
        let base = self.dir.parent()?.parent()?;
        let path = base.join("devices").join(OsStr::from_bytes(&uuid));
        match Lane::open(&path) {
            Ok(lane) => Some(lane),
            Err(problem) => {
                log::once(
                    log::Kind::Compute,
                    &format!(
                        "{}: {problem}; compute is not limited in this process until it is repaired",
                        path.display()
                    ),
                );
                None
            }
        }
    }

    /// Adds what a lane has counted since the last time to the claim's counters.
    pub(crate) fn count_compute(&self, device: usize, lane: &Lane) {
        if let Some(counters) = self.usage.device(device) {
            lane.report(counters);
            counters.recent.note(clock::now(), counters.busy_ns.load(Ordering::Relaxed));
        }
    }

    /// The claim's counters of one chip.
    pub(crate) fn counters(&self, device: usize) -> Option<&UsageDevice> {
        self.usage.device(device)
    }

    /// The claim's ledger.
    pub(crate) fn ledger(&self) -> &UsageView {
        &self.usage
    }

    /// Counts a function of the vendor's that a program got and that has no hook.
    pub(crate) fn count_unhooked_function(&self) {
        // The first chip's: which one it will be about is not known.
        if let Some(counters) = self.usage.device(0) {
            counters.unhooked_functions.fetch_add(1, Ordering::Relaxed);
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
        // A program may ask in a loop; a dead neighbour's bytes are then given back a little later.
        if self.looks.allows() {
            self.reap(identity);
        }
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
