//! This process in all its claims: finds them, decides on allocations and frees, answers for memory.

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vnpu_quota_abi::charge::{Pages, charged, cuda_charged};
use vnpu_quota_abi::ledger;
use vnpu_quota_abi::mark::{Mark, reached};
use vnpu_quota_abi::slot::SlotCell;
use vnpu_quota_abi::table::{
    CURRENT_DEVICE, Forgotten, FrontTable, KeyKind, NO_DEVICE, Request, Source, Ticket, Vendor, Verdict,
};

use crate::broken::Broken;
use crate::chips::{Chip, Chips};
use crate::claim::{Claim, Identity};
use crate::compute::Compute;
use crate::contexts::Contexts;
use crate::driver::Driver;
use crate::exports::Exports;
use crate::graphs::Graphs;
use crate::mappings::Mappings;
use crate::once::Once;
use crate::place::Place;
use crate::pointers::{Block, Pointers};
use crate::pools::Pool;
use crate::rate::Backoff;
use crate::{incarnation, liveness, log};

/// Where regions are in a container. Elsewhere (`vnpu run`) `VNPU_REGION_DIR` says it; in a container nobody may
/// say otherwise.
const CONTAINER_DIR: &str = "/run/vnpu";
/// Is there in a container with claims, and nowhere else.
const CONTAINER_LIBRARY: &str = "/run/vnpu/lib/libvnpu.so";

/// One process, from its first hooked call to its end; a forked child is another one.
pub(crate) struct Process {
    pub(crate) front: &'static FrontTable,
    pub(crate) compute: Compute,
    incarnation: u64,
    identity: Identity,
    // Unset as long as the list of claims cannot be read.
    places: Once<Vec<Place>>,
    whole: AtomicBool,
    retry: Backoff,
    chips: Chips,
    pub(crate) pointers: Pointers<Block>,
    pub(crate) mappings: Mappings,
    pub(crate) exports: Exports,
    pub(crate) contexts: Contexts,
    pub(crate) pools: Pointers<Pool>,
    pub(crate) graphs: Graphs,
    pub(crate) driver: Once<Driver>,
}

static INCARNATIONS: AtomicU64 = AtomicU64::new(1);

unsafe extern "C" {
    fn secure_getenv(name: *const c_char) -> *const c_char;
}

/// Where the regions are, and whether there must be some.
fn region_dir() -> (PathBuf, bool) {
    if Path::new(CONTAINER_LIBRARY).exists() {
        return (PathBuf::from(CONTAINER_DIR), true);
    }
    // SAFETY: a zero-terminated name; the result is read at once.
    let value = unsafe {
        let value = secure_getenv(c"VNPU_REGION_DIR".as_ptr());
        if value.is_null() { None } else { Some(CStr::from_ptr(value).to_bytes().to_vec()) }
    };
    let dir = value.map_or_else(|| PathBuf::from(CONTAINER_DIR), |b| PathBuf::from(OsStr::from_bytes(&b)));
    (dir, false)
}

impl Process {
    /// Attaches to every claim that the container shows.
    pub(crate) fn attach(front: &'static FrontTable) -> Self {
        let process = Self {
            front,
            compute: Compute::new(),
            incarnation: INCARNATIONS.fetch_add(1, Ordering::Relaxed),
            identity: Identity { owner: liveness::own_word(), namespace: liveness::own_namespace() },
            places: Once::new(),
            whole: AtomicBool::new(false),
            retry: Backoff::new(),
            chips: Chips::new(),
            pointers: Pointers::new(),
            mappings: Mappings::new(),
            exports: Exports::new(),
            contexts: Contexts::new(),
            pools: Pointers::new(),
            graphs: Graphs::new(),
            driver: Once::new(),
        };
        process.attach_rest();
        reached(Mark::Attached);
        process
    }

    /// Tries again what failed, now and then: slots and descriptors become free, files are repaired.
    pub(crate) fn retry(&self) {
        if !self.whole.load(Ordering::Relaxed)
            && self.retry.is_due()
            && let Some(_turn) = incarnation::attach_turn()
        {
            self.attach_rest();
        }
    }

    /// One try to list the claims, or to attach to those that are not attached. The caller has the turn: a
    /// second slot of one process would pass for a dead one's.
    fn attach_rest(&self) {
        if let Some(places) = self.places.get() {
            places.iter().for_each(|place| place.retry(self.identity));
        } else {
            self.list();
        }
        let whole = self.places.get().is_some_and(|p| p.iter().all(|p| p.claim().is_some()));
        self.whole.store(whole, Ordering::Relaxed);
    }

    /// Lists the claims and tries each for the first time.
    fn list(&self) {
        let (dir, needed) = region_dir();
        let dir = dir.join("claims");
        let found = claim_dirs(&dir).map_err(|e| e.to_string()).and_then(|dirs| {
            if needed && dirs.is_empty() { Err("no claim is there".to_owned()) } else { Ok(dirs) }
        });
        match found {
            Ok(dirs) => {
                let places = dirs.into_iter().map(|dir| Place::first(dir, self.identity)).collect();
                let _ = self.places.set(places);
            }
            Err(problem) => log::once(
                log::Kind::Region,
                &format!("{}: {problem}; device memory is refused to this process", dir.display()),
            ),
        }
    }

    pub(crate) fn places(&self) -> &[Place] {
        self.places.get().map_or(&[], Vec::as_slice)
    }

    pub(crate) fn claim(&self, index: usize) -> Option<&Claim> {
        self.places().get(index)?.claim()
    }

    pub(crate) fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.places().iter().filter_map(|p| p.claim())
    }

    /// The chip that a call on `device` counts for. With one chip in all and one device to be seen there is
    /// nothing to choose, and whether a container sees the host's numbers is not certain for every driver.
    pub(crate) fn chip(&self, vendor: Vendor, device: i32) -> Option<Chip> {
        let chip = self.chips.find(self.front, vendor, device);
        let [place] = self.places() else { return chip };
        let Some([only]) = place.chips() else { return chip };
        // An identity is certain, if there is one, and so is a number of the claim.
        let certain = matches!(chip, Some(Chip::Gpu(_))) || chip == Some(*only);
        let others = chip.is_some() && !self.sees_one(vendor);
        if certain || others || only.vendor() != vendor { chip } else { Some(*only) }
    }

    /// Whether the process sees one device of this vendor.
    pub(crate) fn sees_one(&self, vendor: Vendor) -> bool {
        self.chips.visible(self.front, vendor) == Some(1)
    }

    /// The claims' parts that are about `chip`: (claim, chip's index in it).
    pub(crate) fn parts(&self, chip: Option<Chip>) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.places()
            .iter()
            .enumerate()
            .filter_map(move |(i, place)| Some((i, place.claim()?.device_of(chip?)?)))
    }

    /// What the broken claims say about `chip`: refuse (`Some(true)`), let pass, or nothing.
    pub(crate) fn broken_policy(&self, chip: Option<Chip>) -> Option<bool> {
        if self.places.get().is_none() {
            return Some(true);
        }
        self.broken_about(chip).map(|b| b.closed).reduce(|a, b| a | b)
    }

    /// The claims without us that may be about `chip`.
    fn broken_about(&self, chip: Option<Chip>) -> impl Iterator<Item = &Broken> {
        self.places().iter().filter_map(Place::failure).filter(move |b| b.concerns(chip))
    }

    /// Whether `chip`, which no claim is about, is one that the container has beside its claims. Only certain
    /// when every chip of the claims is to be seen under its number: else the numbers may be others than the
    /// host's, and this chip one of theirs.
    fn is_foreign(&self, chip: Option<Chip>) -> bool {
        let known = self.places().iter().filter_map(Place::chips).flatten();
        match chip {
            None => false,
            Some(Chip::Gpu(_)) => true,
            Some(Chip::Npu(_)) => {
                known.filter(|c| c.vendor() == Vendor::Ascend).all(|c| self.chips.sees(self.front, *c))
            }
        }
    }

    /// Whether a claim wants what cannot be accounted to be refused.
    fn any_closed(&self) -> bool {
        self.places().iter().any(Place::is_closed)
    }

    /// What happens to an allocation on `chip`, which no claim that works is about.
    fn elsewhere(&self, chip: Option<Chip>) -> Verdict {
        let verdict = match self.broken_policy(chip) {
            Some(true) => {
                self.broken_about(chip).filter(|b| b.closed).for_each(|b| b.count_denied(chip));
                return Verdict::Denied;
            }
            Some(false) => Verdict::Pass,
            None if self.places().is_empty() => return Verdict::Pass,
            None => {
                let foreign = self.is_foreign(chip);
                let denied = !foreign && self.any_closed();
                let name = chip.map_or_else(|| "unknown".to_owned(), |c| c.to_string());
                let outcome = if denied { "refused to this process" } else { "not limited" };
                let why = if foreign {
                    "no claim of this container is about it"
                } else {
                    "it cannot be told whether a claim of this container is about it"
                };
                log::once(log::Kind::Device, &format!("memory on chip {name} is {outcome}: {why}"));
                if denied { Verdict::Denied } else { Verdict::Pass }
            }
        };
        if verdict == Verdict::Pass {
            self.count_unhooked(chip);
        }
        verdict
    }

    /// Counts an allocation that was let through: with the claim that is about `chip`, if that can be told.
    fn count_unhooked(&self, chip: Option<Chip>) {
        if self.broken_about(chip).any(|b| b.count_unhooked(chip)) {
            return;
        }
        if let Some(claim) = self.claims().next() {
            claim.count_unhooked(0);
        } else {
            self.places().iter().filter_map(Place::failure).any(|b| b.count_unhooked(chip));
        }
    }

    /// Decides on an allocation.
    pub(crate) fn reserve(&self, request: &Request, ticket: &mut Ticket) -> Verdict {
        let vendor = Vendor::from_raw(request.vendor);
        let source = Source::from_raw(request.source);
        let bytes = match vendor {
            Vendor::Ascend => charged(request.size, Pages::from_policy(request.policy)),
            Vendor::Cuda => cuda_charged(request.size, request.policy),
        };
        self.retry();
        let device = match source {
            Source::Device | Source::Context => request.device,
            Source::Stream => self.device_of_stream(request.stream),
            Source::Pool => self.device_of_pool(request.pool, request.stream),
        };
        if device == NO_DEVICE {
            return Verdict::Pass;
        }
        // What a graph allocates is given when it is launched.
        if matches!(source, Source::Stream | Source::Pool)
            && self.is_captured(vendor, request.stream as *mut c_void)
        {
            self.captured_node(request.stream, device, request.size);
            return Verdict::Pass;
        }
        let chip = self.chip(vendor, device);
        let mut verdict = self.take(chip, bytes, ticket);
        if verdict == Verdict::Denied && self.look_again(chip) {
            verdict = self.take(chip, bytes, ticket);
        }
        if verdict == Verdict::Denied {
            self.count_denied(chip);
        }
        if source == Source::Context {
            ticket.context = self.current_context();
        }
        verdict
    }

    /// Reserves bytes of a chip.
    pub(crate) fn take(&self, chip: Option<Chip>, bytes: u64, ticket: &mut Ticket) -> Verdict {
        let mut denied = false;
        // Two claims on one chip in one container: the first that has room pays.
        for (i, d) in self.parts(chip) {
            let Some(claim) = self.claim(i) else { continue };
            if claim.reserve(d, bytes, self.identity) {
                let (Ok(claim), Ok(device)) = (u32::try_from(i), u32::try_from(d)) else { continue };
                *ticket = Ticket { bytes, incarnation: self.incarnation, claim, device, ..Ticket::default() };
                return Verdict::Granted;
            }
            denied = true;
        }
        if denied { Verdict::Denied } else { self.elsewhere(chip) }
    }

    /// Whether a chip that a claim is about has less charged to it than a moment ago, because the driver gave back what
    /// it kept for itself.
    fn look_again(&self, chip: Option<Chip>) -> bool {
        self.parts(chip).next().is_some() && (self.follow_graphs() | self.close_exports())
    }

    /// Counts a refusal with the last claim that was asked.
    pub(crate) fn count_denied(&self, chip: Option<Chip>) {
        if let Some((i, d)) = self.parts(chip).last()
            && let Some(claim) = self.claim(i)
        {
            claim.count_denied(d);
        }
    }

    /// The ledger's cell that a ticket is about, if this incarnation made it.
    pub(crate) fn cell_of(&self, ticket: &Ticket) -> Option<&SlotCell> {
        let ours = ticket.incarnation == self.incarnation;
        let claim = ours.then(|| self.claim(ticket.claim as usize)).flatten()?;
        claim.cell(ticket.device as usize)
    }

    /// Ends a granted reservation.
    pub(crate) fn settle(&self, ticket: &Ticket, kind: KeyKind, key: u64, ok: bool) {
        let Some(cell) = self.cell_of(ticket) else { return };
        if !ok {
            ledger::abandon(cell, ticket.bytes);
            return;
        }
        reached(Mark::Allocated);
        ledger::commit(cell, ticket.bytes);
        if kind == KeyKind::Handle {
            self.exports.made(key);
        }
        let block = block_of(ticket);
        match self.pointers.insert(tagged(kind, key), block) {
            // The same address again without a free that we saw: the vendor gave it back another way.
            Ok(Some(stale)) => self.give_back(stale),
            Ok(None) => (),
            Err(()) => log::once(
                log::Kind::Pointers,
                "an allocation cannot be remembered; its bytes count until this process ends",
            ),
        }
        reached(Mark::Remembered);
    }

    /// Forgets a key, or one of its holders, before it is freed.
    pub(crate) fn forget(&self, kind: KeyKind, key: u64, vendor: Vendor, ticket: &mut Ticket) -> Forgotten {
        let key = if kind == KeyKind::Handle { self.last_of(key) } else { key };
        match self.pointers.let_go(tagged(kind, key)) {
            Some(None) => Forgotten::Held,
            Some(Some(block)) => {
                *ticket = self.ticket(key, block);
                reached(Mark::Forgotten);
                Forgotten::Last
            }
            // The driver gave it at a launch, as a part of what it keeps for graphs.
            None if self.graphs.any() => Forgotten::Unknown,
            None => {
                let chip = self.chip(vendor, CURRENT_DEVICE);
                if let Some((i, d)) = self.parts(chip).next()
                    && let Some(claim) = self.claim(i)
                {
                    claim.count_unknown_free(d);
                }
                Forgotten::Unknown
            }
        }
    }

    fn ticket(&self, key: u64, block: Block) -> Ticket {
        Ticket {
            key,
            bytes: block.bytes,
            incarnation: self.incarnation,
            context: block.context,
            claim: u32::from(block.claim),
            device: u32::from(block.device),
        }
    }

    /// Notes a function of the vendor's that a program got, and that we do not stand before.
    pub(crate) fn unhooked(&self, name: &CStr) {
        let Some(claim) = self.claims().next() else { return };
        claim.count_unhooked_function();
        log::once(
            log::Kind::Unhooked,
            &format!(
                "{} is not known to this version; what it takes or launches is not limited",
                name.to_string_lossy()
            ),
        );
    }

    /// Ends a free.
    pub(crate) fn forgotten(&self, ticket: &Ticket, kind: KeyKind, ok: bool) {
        if ticket.incarnation != self.incarnation {
            return;
        }
        let block = block_of(ticket);
        if ok {
            reached(Mark::Freed);
            self.give_back(block);
        } else {
            let _ = self.pointers.insert(tagged(kind, ticket.key), block);
        }
    }

    pub(crate) fn give_back(&self, block: Block) {
        if let Some(cell) =
            self.claim(usize::from(block.claim)).and_then(|c| c.cell(usize::from(block.device)))
        {
            ledger::release(cell, block.bytes);
        }
    }

    /// Free and total bytes of `device`, `None` when no claim is about it.
    pub(crate) fn memory_info(&self, vendor: Vendor, device: i32) -> Option<(u64, u64)> {
        self.retry();
        let chip = self.chip(vendor, device);
        self.look_again(chip);
        let mut numbers = None;
        for (i, d) in self.parts(chip) {
            let Some((quota, used)) = self.claim(i).and_then(|c| c.numbers(d, self.identity)) else {
                continue;
            };
            let (total, free) = numbers.unwrap_or((0_u64, 0_u64));
            numbers = Some((total.saturating_add(quota), free.saturating_add(quota.saturating_sub(used))));
        }
        numbers.map(|(total, free)| (free, total))
    }

    /// Whether nothing can be allocated on `device`, because it cannot be accounted.
    pub(crate) fn is_shut(&self, vendor: Vendor, device: i32) -> bool {
        let chip = self.chip(vendor, device);
        self.parts(chip).next().is_none()
            && match self.broken_policy(chip) {
                Some(closed) => closed,
                None => !self.is_foreign(chip) && self.any_closed(),
            }
    }

    /// Who this process is in its claims' ledgers.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }
}

/// Claims of a container and chips of a claim are far fewer than 65536.
fn block_of(ticket: &Ticket) -> Block {
    let short = |index: u32| u16::try_from(index).unwrap_or(u16::MAX);
    Block {
        bytes: ticket.bytes,
        context: ticket.context,
        holders: 1,
        claim: short(ticket.claim),
        device: short(ticket.device),
    }
}

/// Keys of two kinds may be equal as numbers; addresses never use the top bit in user space.
pub(crate) fn tagged(kind: KeyKind, key: u64) -> u64 {
    match kind {
        KeyKind::Address => key,
        KeyKind::Handle => key | 1 << 63,
    }
}

/// The directories of claims, sorted by UID so that every process takes them in one order.
fn claim_dirs(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // A UID has 36 characters; what else lies here (a mount's bookkeeping) is not ours.
        if entry.file_name().len() == 36 {
            out.push(entry.path());
        }
    }
    out.sort();
    Ok(out)
}
