//! Decides on allocations and frees.

use std::ffi::c_void;

use vnpu_quota_abi::charge::{Pages, charged, cuda_charged};
use vnpu_quota_abi::ledger;
use vnpu_quota_abi::mark::{Mark, reached};
use vnpu_quota_abi::slot::SlotCell;
use vnpu_quota_abi::table::{
    CURRENT_DEVICE, Forgotten, KeyKind, NO_DEVICE, Request, Source, Ticket, Vendor, Verdict,
};

use crate::chips::Chip;
use crate::log;
use crate::place::Place;
use crate::pointers::Block;
use crate::process::Process;

impl Process {
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
        // What a graph allocates is taken when it is launched.
        if matches!(source, Source::Stream | Source::Pool)
            && self.is_captured(vendor, request.stream as *mut c_void)
        {
            return self.captured_node(request.stream, device, request.size, ticket);
        }
        let chip = self.chip(vendor, device);
        let pool = self.pool_of(request, device, chip);
        let mut verdict = self.take_from(pool, chip, bytes, ticket);
        for remedy in [Self::look_again, Self::trim_pools] {
            if verdict == Verdict::Denied && remedy(self, chip) {
                verdict = self.take_from(pool, chip, bytes, ticket);
            }
        }
        if verdict == Verdict::Denied {
            self.count_denied(chip);
        }
        if verdict == Verdict::Granted && source == Source::Context {
            ticket.owner = self.current_context();
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
    pub(crate) fn look_again(&self, chip: Option<Chip>) -> bool {
        self.parts(chip).next().is_some()
            && (self.follow_graphs() | self.close_exports() | self.follow_pools(0))
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
        if ticket.graph != 0 {
            self.captured(ticket, key, ok);
            return;
        }
        let Some(cell) = self.cell_of(ticket) else { return };
        let fresh = ticket.bytes.saturating_sub(ticket.covered);
        if !ok {
            self.pool_refused(ticket, cell, fresh.saturating_add(ticket.beyond));
            return;
        }
        reached(Mark::Allocated);
        ledger::commit(cell, fresh);
        self.pool_gave(ticket, cell);
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
            owner: block.owner,
            claim: u32::from(block.claim),
            device: u32::from(block.device),
            ..Ticket::default()
        }
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

    /// What is charged for a block is not any more, unless a pool keeps it.
    pub(crate) fn give_back(&self, block: Block) {
        if block.owner != 0 && self.pool_keeps(block.owner, block.bytes) {
            return;
        }
        if let Some(cell) =
            self.claim(usize::from(block.claim)).and_then(|c| c.cell(usize::from(block.device)))
        {
            ledger::release(cell, block.bytes);
        }
    }
}

/// Claims of a container and chips of a claim are far fewer than 65536.
fn block_of(ticket: &Ticket) -> Block {
    let short = |index: u32| u16::try_from(index).unwrap_or(u16::MAX);
    Block {
        bytes: ticket.bytes,
        owner: ticket.owner,
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
