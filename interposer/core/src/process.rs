//! This process in all its claims: finds them, and answers for memory.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vnpu_quota_abi::mark::{Mark, reached};
use vnpu_quota_abi::table::{FrontTable, Vendor};

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
use crate::pool_memory::PoolMemory;
use crate::pools::Pool;
use crate::primary::Primaries;
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
    pub(crate) incarnation: u64,
    pub(crate) identity: Identity,
    // Unset as long as the list of claims cannot be read.
    places: Once<Vec<Place>>,
    whole: AtomicBool,
    retry: Backoff,
    chips: Chips,
    pub(crate) primaries: Primaries,
    pub(crate) pointers: Pointers<Block>,
    pub(crate) mappings: Mappings,
    pub(crate) exports: Exports,
    pub(crate) contexts: Contexts,
    pub(crate) pools: Pointers<Pool>,
    pub(crate) pool_memory: PoolMemory,
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
            primaries: Primaries::new(),
            pointers: Pointers::new(),
            mappings: Mappings::new(),
            exports: Exports::new(),
            contexts: Contexts::new(),
            pools: Pointers::new(),
            pool_memory: PoolMemory::new(),
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
    pub(crate) fn broken_about(&self, chip: Option<Chip>) -> impl Iterator<Item = &Broken> {
        self.places().iter().filter_map(Place::failure).filter(move |b| b.concerns(chip))
    }

    /// Whether `chip`, which no claim is about, is one that the container has beside its claims. Only certain
    /// when every chip of the claims is to be seen under its number: else the numbers may be others than the
    /// host's, and this chip one of theirs.
    pub(crate) fn is_foreign(&self, chip: Option<Chip>) -> bool {
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
    pub(crate) fn any_closed(&self) -> bool {
        self.places().iter().any(Place::is_closed)
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
