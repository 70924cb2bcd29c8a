//! What pools of the CUDA driver keep. A pool has more of its device than it has given: what is freed stays with it until
//! it is trimmed or the program waits for the device, and it grows by larger pieces than are asked for. Charged for it is
//! what it has of the device, as the driver says it: its blocks, and the rest as kept.
//!
//! What is kept pays for the pool's next blocks. Beyond it a whole piece is reserved, so that what a pool takes more than
//! a block is the quota's too: the last piece of a quota is for no pool. Where there is no room, pools are trimmed before
//! anything is refused. What the driver took all the same is charged right after: where what was to pay for a block lies in
//! parts that are too small for it, or another thread had it given back in the same moment, less than a piece for each
//! such block.
//!
//! Of several claims on one chip in a container, and of more than 64 pools, only the blocks are charged.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use vnpu_quota_abi::charge::CUDA_PIECE;
use vnpu_quota_abi::ledger;
use vnpu_quota_abi::slot::SlotCell;
use vnpu_quota_abi::table::{Request, Source, Ticket, Vendor, Verdict};

use crate::bounded;
use crate::chips::Chip;
use crate::process::Process;

/// Pools whose memory is followed.
const MOST: usize = 64;

/// One pool. The ledger has `given` and `kept` of it.
struct Followed {
    /// 0: none.
    pool: AtomicU64,
    /// The device by the program's number.
    device: AtomicI32,
    /// Bytes of its blocks.
    given: AtomicU64,
    /// Bytes that it has of the device beyond those.
    kept: AtomicU64,
    /// Counts what moved from `given` to `kept`.
    moves: AtomicU64,
    /// It was destroyed, and ends with its last block.
    doomed: AtomicBool,
}

impl Followed {
    const fn none() -> Self {
        Self {
            pool: AtomicU64::new(0),
            device: AtomicI32::new(0),
            given: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            doomed: AtomicBool::new(false),
        }
    }
}

/// The pools of a process.
pub(crate) struct PoolMemory {
    // Whether there is one. Without it nothing below is looked at.
    any: AtomicBool,
    all: [Followed; MOST],
    following: Mutex<()>,
}

impl PoolMemory {
    pub(crate) const fn new() -> Self {
        Self {
            any: AtomicBool::new(false),
            all: [const { Followed::none() }; MOST],
            following: Mutex::new(()),
        }
    }

    fn find(&self, pool: u64) -> Option<&Followed> {
        let any = pool != 0 && self.any.load(Ordering::Relaxed);
        self.all.iter().find(|one| any && one.pool.load(Ordering::Acquire) == pool)
    }

    /// The same, of one that was not destroyed; a new one is followed from now on.
    fn find_or_add(&self, pool: u64, device: i32) -> Option<&Followed> {
        if let Some(found) = self.find(pool) {
            return Some(found).filter(|found| !found.doomed.load(Ordering::Acquire));
        }
        self.any.store(true, Ordering::Relaxed);
        let take =
            |one: &&Followed| one.pool.compare_exchange(0, pool, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let one = self.all.iter().find(take)?;
        one.device.store(device, Ordering::Relaxed);
        Some(one)
    }

    /// Those that there are.
    fn there(&self) -> impl Iterator<Item = &Followed> {
        let any = self.any.load(Ordering::Relaxed);
        self.all.iter().filter(move |one| any && one.pool.load(Ordering::Acquire) != 0)
    }
}

/// Takes at most `bytes` from a number; how many.
fn draw(from: &AtomicU64, bytes: u64) -> u64 {
    let drawn = from.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| Some(now.saturating_sub(bytes)));
    drawn.unwrap_or_else(|now| now).min(bytes)
}

impl Process {
    /// The pool that a request is served from; 0 where what it keeps is not followed.
    pub(crate) fn pool_of(&self, request: &Request, device: i32, chip: Option<Chip>) -> u64 {
        let source = Source::from_raw(request.source);
        if !matches!(source, Source::Stream | Source::Pool) || self.parts(chip).count() != 1 {
            return 0;
        }
        let Some(device) = self.ordinal(device) else { return 0 };
        let pool = match source {
            Source::Pool => request.pool,
            _ => self.driver().and_then(|driver| driver.pool_of_device(device)).unwrap_or(0),
        };
        if pool != 0 && self.pool_memory.find_or_add(pool, device).is_some() { pool } else { 0 }
    }

    /// Reserves bytes of a chip, of which the pool pays what it keeps.
    pub(crate) fn take_from(
        &self,
        pool: u64,
        chip: Option<Chip>,
        bytes: u64,
        ticket: &mut Ticket,
    ) -> Verdict {
        let Some(found) = self.pool_memory.find(pool) else { return self.take(chip, bytes, ticket) };
        let covered = draw(&found.kept, bytes);
        let part = self.parts(chip).next();
        let verdict = match part {
            // Nothing more is taken: there is nothing to ask the quota for.
            Some((claim, device)) if covered == bytes => {
                let (claim, device) = (claim as u32, device as u32);
                *ticket = Ticket { incarnation: self.incarnation, claim, device, ..Ticket::default() };
                Verdict::Granted
            }
            _ => {
                let pieces = (bytes - covered).checked_next_multiple_of(CUDA_PIECE).unwrap_or(u64::MAX);
                self.take(chip, pieces, ticket)
            }
        };
        if verdict == Verdict::Granted {
            let beyond = ticket.bytes.saturating_sub(bytes - covered);
            *ticket = Ticket { bytes, owner: pool, covered, beyond, ..*ticket };
        } else {
            found.kept.fetch_add(covered, Ordering::AcqRel);
        }
        verdict
    }

    /// An allocation failed: the pool keeps what it paid.
    pub(crate) fn uncover(&self, ticket: &Ticket) {
        if let Some(found) = self.pool_memory.find(ticket.owner) {
            found.kept.fetch_add(ticket.covered, Ordering::AcqRel);
        }
    }

    /// A pool gave a block.
    pub(crate) fn pool_gave(&self, ticket: &Ticket) {
        let Some(found) = self.pool_memory.find(ticket.owner) else {
            if let Some(cell) = self.cell_of(ticket) {
                ledger::abandon(cell, ticket.beyond);
            }
            return;
        };
        found.given.fetch_add(ticket.bytes, Ordering::AcqRel);
        // Also where all was paid by what it kept: that may lie in parts too small for the block.
        self.follow_pool(found, ticket.beyond);
    }

    /// A block is freed; whether its pool keeps it, charged as before.
    pub(crate) fn pool_keeps(&self, pool: u64, bytes: u64) -> bool {
        let Some(found) = self.pool_memory.find(pool) else { return false };
        // In this order: who follows in between charges too much, until the next time.
        draw(&found.given, bytes);
        found.kept.fetch_add(bytes, Ordering::AcqRel);
        found.moves.fetch_add(1, Ordering::AcqRel);
        self.bury(found);
        true
    }

    /// A pool may keep another amount than before (0: any of them); whether one has less.
    pub(crate) fn pool_kept(&self, pool: u64) -> bool {
        let asked = |one: &&Followed| {
            one.kept.load(Ordering::Acquire) != 0 && (pool == 0 || one.pool.load(Ordering::Acquire) == pool)
        };
        self.pool_memory.there().filter(asked).fold(false, |less, one| self.follow_pool(one, 0) | less)
    }

    /// Has the pools of a chip give back what is not in use; whether one has less then.
    pub(crate) fn trim_pools(&self, chip: Option<Chip>) -> bool {
        let mut less = false;
        for one in self.pool_memory.there() {
            let there = one.kept.load(Ordering::Acquire) != 0
                && !one.doomed.load(Ordering::Relaxed)
                && self.chip(Vendor::Cuda, one.device.load(Ordering::Relaxed)) == chip;
            if there && let Some(driver) = self.driver() {
                self.relaxed(|| driver.trim_pool(one.pool.load(Ordering::Acquire)));
                less |= self.follow_pool(one, 0);
            }
        }
        less
    }

    /// A pool was made. One that was destroyed and had the same number has ended, whatever we know of its blocks.
    pub(crate) fn pool_made(&self, pool: u64) {
        if let Some(found) = self.pool_memory.find(pool)
            && found.doomed.load(Ordering::Acquire)
        {
            let given = found.given.swap(0, Ordering::AcqRel);
            found.kept.fetch_add(given, Ordering::AcqRel);
            self.bury(found);
        }
    }

    /// A pool was destroyed.
    pub(crate) fn pool_gone(&self, pool: u64) {
        let _ = self.pools.remove(pool);
        if let Some(found) = self.pool_memory.find(pool) {
            found.doomed.store(true, Ordering::Release);
            self.bury(found);
        }
    }

    /// A destroyed pool without blocks has nothing any more.
    fn bury(&self, one: &Followed) {
        if one.doomed.load(Ordering::Acquire) && one.given.load(Ordering::Acquire) == 0 {
            let kept = one.kept.swap(0, Ordering::AcqRel);
            if let Some(cell) = self.cell_of_pool(one) {
                ledger::release(cell, kept);
            }
            if one.doomed.swap(false, Ordering::AcqRel) {
                one.pool.store(0, Ordering::Release);
            }
        }
    }

    fn cell_of_pool(&self, one: &Followed) -> Option<&SlotCell> {
        let chip = self.chip(Vendor::Cuda, one.device.load(Ordering::Relaxed));
        let (claim, device) = self.parts(chip).next()?;
        self.claim(claim)?.cell(device)
    }

    /// Charges what a pool keeps now, of which so many bytes are reserved; whether that is less than before.
    fn follow_pool(&self, one: &Followed, mut reserved: u64) -> bool {
        let Some(cell) = self.cell_of_pool(one) else { return false };
        let less = self.charge_kept(one, cell, &mut reserved);
        ledger::abandon(cell, reserved);
        less
    }

    fn charge_kept(&self, one: &Followed, cell: &SlotCell, granted: &mut u64) -> bool {
        let (Some(_turn), Some(driver)) = (bounded::lock(&self.pool_memory.following), self.driver()) else {
            return false;
        };
        if one.doomed.load(Ordering::Acquire) {
            return false;
        }
        let mut less = false;
        // Once more where a block was freed meanwhile.
        for _ in 0..8 {
            let moves = one.moves.load(Ordering::Acquire);
            let pool = one.pool.load(Ordering::Acquire);
            let Some(reserved) = self.relaxed(|| driver.reserved_by_pool(pool)) else { break };
            let now = reserved.saturating_sub(one.given.load(Ordering::Acquire));
            let before = one.kept.swap(now, Ordering::AcqRel);
            let grown = now.saturating_sub(before);
            let paid = grown.min(*granted);
            ledger::commit(cell, paid);
            ledger::charge(cell, grown - paid);
            *granted -= paid;
            ledger::release(cell, before.saturating_sub(now));
            less |= now < before;
            if one.moves.load(Ordering::Acquire) == moves {
                break;
            }
        }
        less
    }
}
