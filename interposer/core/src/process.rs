//! This process in all its claims: finds them, decides on allocations and frees, answers for memory.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use vnpu_quota_abi::charge::{Pages, charged};
use vnpu_quota_abi::ledger;
use vnpu_quota_abi::table::{FrontTable, KeyKind, Ticket, Verdict};

use crate::chips::Chips;
use crate::claim::{Broken, Claim, Identity};
use crate::pointers::{Block, Pointers};
use crate::{liveness, log};

/// Where regions are in a container; `VNPU_REGION_DIR` overrides it for `vnpu run`.
const DEFAULT_DIR: &str = "/run/vnpu";

/// One process, from its first hooked call to its end; a forked child is another one.
pub(crate) struct Process {
    front: &'static FrontTable,
    incarnation: u64,
    identity: Identity,
    claims: Vec<Claim>,
    broken: Vec<Broken>,
    chips: Chips,
    pointers: Pointers,
}

static INCARNATIONS: AtomicU64 = AtomicU64::new(1);

unsafe extern "C" {
    fn secure_getenv(name: *const c_char) -> *const c_char;
}

fn region_dir() -> PathBuf {
    // SAFETY: a zero-terminated name; the result is read at once.
    let value = unsafe {
        let value = secure_getenv(c"VNPU_REGION_DIR".as_ptr());
        if value.is_null() { None } else { Some(CStr::from_ptr(value).to_bytes().to_vec()) }
    };
    value.map_or_else(|| PathBuf::from(DEFAULT_DIR), |bytes| PathBuf::from(OsStr::from_bytes(&bytes)))
}

impl Process {
    /// Attaches to every claim that the container shows.
    pub(crate) fn attach(front: &'static FrontTable) -> Self {
        let identity = Identity { owner: liveness::own_word(), namespace: liveness::own_namespace() };
        let mut process = Self {
            front,
            incarnation: INCARNATIONS.fetch_add(1, Ordering::Relaxed),
            identity,
            claims: Vec::new(),
            broken: Vec::new(),
            chips: Chips::new(),
            pointers: Pointers::new(),
        };
        let dir = region_dir().join("claims");
        match claim_dirs(&dir) {
            Ok(dirs) => {
                for dir in dirs {
                    match Claim::attach(&dir, identity) {
                        Ok(claim) => process.claims.push(claim),
                        Err(broken) => process.broken.push(broken),
                    }
                }
            }
            Err(error) => {
                log::once(
                    log::Kind::Region,
                    &format!("{}: {error}; device memory is refused to this process", dir.display()),
                );
                process.broken.push(Broken { chips: None, closed: true });
            }
        }
        process
    }

    /// The claims' parts that are about the chip of `device`: (claim, chip's index in it).
    fn parts(&self, chip: Option<u32>) -> impl Iterator<Item = (usize, usize)> + '_ {
        // With one chip in all there is nothing to choose, and whether a container sees the host's numbers is
        // not certain for every driver.
        let only = self.broken.is_empty() && self.claims.iter().map(Claim::devices).sum::<usize>() == 1;
        self.claims.iter().enumerate().filter_map(move |(i, claim)| {
            let device = if only && chip.is_none() { Some(0) } else { claim.device_of(chip?) };
            device.map(|d| (i, d))
        })
    }

    /// What the broken claims say about `chip`: refuse (`Some(true)`), let pass, or nothing.
    fn broken_policy(&self, chip: Option<u32>) -> Option<bool> {
        self.broken
            .iter()
            .filter(|b| match (&b.chips, chip) {
                (Some(chips), Some(chip)) => chips.contains(&chip),
                _ => true,
            })
            .map(|b| b.closed)
            .reduce(|a, b| a | b)
    }

    /// Decides on an allocation.
    pub(crate) fn reserve(&self, size: u64, policy: u32, device: i32, ticket: &mut Ticket) -> Verdict {
        let bytes = charged(size, Pages::from_policy(policy));
        let chip = self.chips.physical(self.front, device);
        // Two claims on one chip in one container: the first that has room pays.
        let mut denied_by = None;
        for (i, d) in self.parts(chip) {
            let Some(claim) = self.claims.get(i) else { continue };
            if claim.reserve(d, bytes, self.identity) {
                let (Ok(claim), Ok(device)) = (u32::try_from(i), u32::try_from(d)) else { continue };
                *ticket = Ticket { key: 0, bytes, incarnation: self.incarnation, claim, device };
                return Verdict::Granted;
            }
            denied_by = Some((claim, d));
        }
        if let Some((claim, d)) = denied_by {
            claim.count_denied(d);
            return Verdict::Denied;
        }
        match self.broken_policy(chip) {
            Some(true) => Verdict::Denied,
            Some(false) => Verdict::Pass,
            None => {
                if !self.claims.is_empty() {
                    let name = chip.map_or_else(|| "unknown".to_owned(), |c| c.to_string());
                    log::once(
                        log::Kind::Device,
                        &format!(
                            "memory on chip {name} is not limited: no claim of this container is about it"
                        ),
                    );
                }
                Verdict::Pass
            }
        }
    }

    /// Ends a granted reservation.
    pub(crate) fn settle(&self, ticket: &Ticket, kind: KeyKind, key: u64, ok: bool) {
        if ticket.incarnation != self.incarnation {
            return;
        }
        let Some(cell) = self.claims.get(ticket.claim as usize).and_then(|c| c.cell(ticket.device as usize))
        else {
            return;
        };
        if !ok {
            ledger::abandon(cell, ticket.bytes);
            return;
        }
        ledger::commit(cell, ticket.bytes);
        let block = Block { bytes: ticket.bytes, claim: ticket.claim, device: ticket.device };
        match self.pointers.insert(tagged(kind, key), block) {
            // The same address again without a free that we saw: the vendor gave it back another way.
            Ok(Some(stale)) => self.give_back(stale),
            Ok(None) => (),
            Err(()) => log::once(
                log::Kind::Pointers,
                "an allocation cannot be remembered; its bytes count until this process ends",
            ),
        }
    }

    /// Forgets a key before it is freed.
    pub(crate) fn forget(&self, kind: KeyKind, key: u64, ticket: &mut Ticket) -> bool {
        match self.pointers.remove(tagged(kind, key)) {
            Some(block) => {
                *ticket = Ticket {
                    key,
                    bytes: block.bytes,
                    incarnation: self.incarnation,
                    claim: block.claim,
                    device: block.device,
                };
                true
            }
            None => {
                let chip = self.chips.physical(self.front, vnpu_quota_abi::table::CURRENT_DEVICE);
                if let Some((i, d)) = self.parts(chip).next()
                    && let Some(claim) = self.claims.get(i)
                {
                    claim.count_unknown_free(d);
                }
                false
            }
        }
    }

    /// Ends a free.
    pub(crate) fn forgotten(&self, ticket: &Ticket, kind: KeyKind, ok: bool) {
        if ticket.incarnation != self.incarnation {
            return;
        }
        let block = Block { bytes: ticket.bytes, claim: ticket.claim, device: ticket.device };
        if ok {
            self.give_back(block);
        } else {
            let _ = self.pointers.insert(tagged(kind, ticket.key), block);
        }
    }

    fn give_back(&self, block: Block) {
        if let Some(cell) = self.claims.get(block.claim as usize).and_then(|c| c.cell(block.device as usize))
        {
            ledger::release(cell, block.bytes);
        }
    }

    /// Free and total bytes of the current device, `None` when no claim is about it.
    pub(crate) fn memory_info(&self) -> Option<(u64, u64)> {
        let chip = self.chips.physical(self.front, vnpu_quota_abi::table::CURRENT_DEVICE);
        let mut numbers = None;
        for (i, d) in self.parts(chip) {
            let Some((quota, used)) = self.claims.get(i).and_then(|c| c.numbers(d, self.identity)) else {
                continue;
            };
            let (total, free) = numbers.unwrap_or((0_u64, 0_u64));
            numbers = Some((total.saturating_add(quota), free.saturating_add(quota.saturating_sub(used))));
        }
        numbers.map(|(total, free)| (free, total))
    }

    /// Whether nothing can be allocated on the current device, because a claim about it cannot be read.
    pub(crate) fn is_shut(&self) -> bool {
        let chip = self.chips.physical(self.front, vnpu_quota_abi::table::CURRENT_DEVICE);
        self.broken_policy(chip) == Some(true)
    }
}

/// Keys of two kinds may be equal as numbers; addresses never use the top bit in user space.
fn tagged(kind: KeyKind, key: u64) -> u64 {
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
