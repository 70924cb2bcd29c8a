//! What pools of the CUDA driver keep. A pool has more of its device than it has given: what is freed stays with it until
//! it is trimmed or the program waits for the device, and it grows by larger pieces than are asked for. Charged for it is
//! what it has of the device, as the driver says it: its blocks, and the rest as kept.
//!
//! What is kept pays for the pool's next blocks, unless more is charged than the quota already. Beyond it a whole piece is
//! reserved, so that what a pool takes more than a block is the quota's too: the last piece of a quota is for no pool.
//! Where there is no room, pools are trimmed before anything is refused.
//!
//! What the driver took all the same is charged right after: where what was to pay for a block lies in parts that are too
//! small for it, is free only when a stream has come to it, or was given back in the same moment. A pool of which that is
//! seen pays nothing until it is trimmed or the program waits. So a quota is exceeded by no more than one block of each
//! thread that allocates, and then nothing is given until it is kept again.
//!
//! Of several claims on one chip in a container, and of more than 64 pools, only the blocks are charged.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use vnpu_quota_abi::charge::CUDA_PIECE;
use vnpu_quota_abi::ledger;
use vnpu_quota_abi::slot::SlotCell;
use vnpu_quota_abi::table::{CURRENT_DEVICE, Request, Source, Ticket, Vendor, Verdict};

use crate::bounded;
use crate::chips::Chip;
use crate::pools::Pool;
use crate::process::Process;

/// Pools whose memory is followed.
const MOST: usize = 64;

/// Changes of other threads are done within a few instructions.
const TRIES: usize = 64;

/// One pool. The ledger has `given` and `kept` of it.
struct Followed {
    /// 0: none.
    pool: AtomicU64,
    /// The device by the program's number.
    device: AtomicI32,
    /// Bytes of its blocks, and of those that the driver is asked for.
    given: AtomicU64,
    /// Bytes that it has of the device beyond those.
    kept: AtomicU64,
    /// Threads that are changing those two.
    moving: AtomicU32,
    /// Counts such changes.
    moves: AtomicU64,
    /// It grew although what it kept was to pay.
    stuck: AtomicBool,
    state: AtomicU8,
    /// Had by who asks the driver about it, which must not be destroyed meanwhile.
    turn: Mutex<()>,
}

/// States: there is none; one thread sets it up or clears it; the pool is there; it is about to be destroyed; it was, and
/// ends with its last block.
const NONE: u8 = 0;
const CHANGING: u8 = 1;
const THERE: u8 = 2;
const ENDING: u8 = 3;
const DESTROYED: u8 = 4;

impl Followed {
    const fn none() -> Self {
        Self {
            pool: AtomicU64::new(0),
            device: AtomicI32::new(0),
            given: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            moving: AtomicU32::new(0),
            moves: AtomicU64::new(0),
            stuck: AtomicBool::new(false),
            state: AtomicU8::new(NONE),
            turn: Mutex::new(()),
        }
    }

    fn is_there(&self) -> bool {
        self.state.load(Ordering::Acquire) == THERE
    }

    fn becomes(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Changes `given` and `kept`, as one step for who follows.
    fn change<T>(&self, act: impl FnOnce(&Self) -> T) -> T {
        // SYNC POINT: with `settled`, which looks at these around its reading.
        self.moving.fetch_add(1, Ordering::SeqCst);
        let out = act(self);
        self.moves.fetch_add(1, Ordering::SeqCst);
        self.moving.fetch_sub(1, Ordering::SeqCst);
        out
    }

    /// A block is about to be asked for; how much of it what is kept pays.
    fn cover(&self, bytes: u64) -> u64 {
        self.change(|one| {
            one.given.fetch_add(bytes, Ordering::SeqCst);
            if one.stuck.load(Ordering::Acquire) { 0 } else { draw(&one.kept, bytes) }
        })
    }

    /// A block is none, or none any more: what is charged for it is kept.
    fn uncover(&self, bytes: u64, charged: u64) {
        self.change(|one| {
            draw(&one.given, bytes);
            one.kept.fetch_add(charged, Ordering::SeqCst);
        });
    }

    /// Of so many bytes that it has, what is not given is kept from now on: how much was before, and is now. `None` where
    /// that changes just now.
    fn settled(&self, reserved: u64) -> Option<(u64, u64)> {
        let moves = self.moves.load(Ordering::SeqCst);
        if self.moving.load(Ordering::SeqCst) != 0 {
            return None;
        }
        let before = self.kept.load(Ordering::SeqCst);
        let now = reserved.saturating_sub(self.given.load(Ordering::SeqCst));
        if self.moving.load(Ordering::SeqCst) != 0 || self.moves.load(Ordering::SeqCst) != moves {
            return None;
        }
        let swapped = self.kept.compare_exchange(before, now, Ordering::SeqCst, Ordering::SeqCst);
        swapped.is_ok().then_some((before, now))
    }
}

/// How what a pool keeps changed.
#[derive(Clone, Copy, Default)]
struct Change {
    less: bool,
    /// More than was reserved.
    grown: bool,
}

/// The pools of a process.
pub(crate) struct PoolMemory {
    // Whether there is one. Without it nothing below is looked at.
    any: AtomicBool,
    all: [Followed; MOST],
}

impl PoolMemory {
    pub(crate) const fn new() -> Self {
        Self { any: AtomicBool::new(false), all: [const { Followed::none() }; MOST] }
    }

    fn find(&self, pool: u64) -> Option<&Followed> {
        let any = pool != 0 && self.any.load(Ordering::Relaxed);
        self.all.iter().find(|one| any && one.pool.load(Ordering::Acquire) == pool)
    }

    /// The same, of one that was not destroyed; a new one is followed from now on.
    fn find_or_add(&self, pool: u64, device: i32) -> Option<&Followed> {
        if let Some(found) = self.find(pool) {
            return Some(found).filter(|found| found.is_there());
        }
        self.any.store(true, Ordering::Relaxed);
        let one = self.all.iter().find(|one| one.becomes(NONE, CHANGING))?;
        one.device.store(device, Ordering::Relaxed);
        one.pool.store(pool, Ordering::Release);
        one.state.store(THERE, Ordering::SeqCst);
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
    let drawn = from.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| Some(now.saturating_sub(bytes)));
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
        let covered = found.cover(bytes);
        // Where all is paid nothing more is asked for, and given to nobody who has more than the quota already.
        let pieces = (bytes - covered).checked_next_multiple_of(CUDA_PIECE).unwrap_or(u64::MAX);
        let verdict = self.take(chip, pieces, ticket);
        if verdict == Verdict::Granted {
            let beyond = ticket.bytes.saturating_sub(bytes - covered);
            *ticket = Ticket { bytes, owner: pool, covered, beyond, ..*ticket };
        } else {
            found.uncover(bytes, covered);
            self.bury(found);
        }
        verdict
    }

    /// An allocation failed: a pool keeps what it paid, and what else was reserved is for what it took all the same.
    pub(crate) fn pool_refused(&self, ticket: &Ticket, cell: &SlotCell, reserved: u64) {
        let Some(found) = self.pool_memory.find(ticket.owner) else {
            ledger::abandon(cell, reserved);
            return;
        };
        found.uncover(ticket.bytes, ticket.covered);
        self.follow_pool(found, reserved);
        self.bury(found);
    }

    /// A pool gave a block.
    pub(crate) fn pool_gave(&self, ticket: &Ticket, cell: &SlotCell) {
        let Some(found) = self.pool_memory.find(ticket.owner) else {
            ledger::abandon(cell, ticket.beyond);
            return;
        };
        // Also where all was paid by what it kept.
        if self.follow_pool(found, ticket.beyond).grown && ticket.covered != 0 {
            found.stuck.store(true, Ordering::Release);
        }
    }

    /// A block is freed; whether its pool keeps it, charged as before.
    pub(crate) fn pool_keeps(&self, pool: u64, bytes: u64) -> bool {
        let Some(found) = self.pool_memory.find(pool) else { return false };
        found.uncover(bytes, bytes);
        self.bury(found);
        true
    }

    /// The program waited, or a pool was trimmed (0: any of them).
    pub(crate) fn pool_kept(&self, pool: u64) {
        let asked = |one: &&Followed| pool == 0 || one.pool.load(Ordering::Acquire) == pool;
        self.pool_memory.there().filter(asked).for_each(|one| one.stuck.store(false, Ordering::Release));
        self.follow_pools(pool);
    }

    /// A pool may keep another amount than before (0: any of them); whether one has less.
    pub(crate) fn follow_pools(&self, pool: u64) -> bool {
        let asked = |one: &&Followed| {
            one.kept.load(Ordering::Acquire) != 0 && (pool == 0 || one.pool.load(Ordering::Acquire) == pool)
        };
        self.pool_memory.there().filter(asked).fold(false, |less, one| self.follow_pool(one, 0).less | less)
    }

    /// Has the pools of a chip give back what is not in use; whether one has less then, or may pay again.
    pub(crate) fn trim_pools(&self, chip: Option<Chip>) -> bool {
        let mut better = false;
        for one in self.pool_memory.there() {
            let asked = one.kept.load(Ordering::Acquire) != 0
                && self.chip(Vendor::Cuda, one.device.load(Ordering::Relaxed)) == chip;
            if asked && let Some(driver) = self.driver() {
                if let Some(_turn) = bounded::lock(&one.turn)
                    && one.is_there()
                {
                    self.relaxed(|| driver.trim_pool(one.pool.load(Ordering::Acquire)));
                }
                better |= one.stuck.swap(false, Ordering::AcqRel) | self.follow_pool(one, 0).less;
            }
        }
        better
    }

    /// A pool was made. One that was destroyed and had the same number has ended, whatever we know of its blocks.
    pub(crate) fn pool_made(&self, pool: u64) {
        if let Some(found) = self.pool_memory.find(pool)
            && (found.becomes(ENDING, DESTROYED) || found.becomes(DESTROYED, DESTROYED))
        {
            let given = found.given.load(Ordering::Acquire);
            found.uncover(given, given);
            self.bury(found);
        }
    }

    /// A pool is about to be destroyed: it is not asked about any more. The device that was known of it.
    pub(crate) fn pool_end(&self, pool: u64) -> i32 {
        if let Some(found) = self.pool_memory.find(pool) {
            let _ = found.becomes(THERE, ENDING);
            // Who asked already has begun with it, and must have its answer first.
            drop(bounded::wait(&found.turn));
        }
        self.pools.remove(pool).map_or(CURRENT_DEVICE, |known| known.device)
    }

    /// How that ended.
    pub(crate) fn pool_ended(&self, pool: u64, device: i32, ok: bool) {
        let found = self.pool_memory.find(pool);
        if !ok {
            let _ = self.pools.insert(pool, Pool { device });
            let _ = found.map(|found| found.becomes(ENDING, THERE));
        } else if let Some(found) = found
            && found.becomes(ENDING, DESTROYED)
        {
            self.bury(found);
        }
    }

    /// A destroyed pool without blocks has nothing any more. Its number is taken away before the place is anybody's again:
    /// the driver is not asked about it meanwhile.
    fn bury(&self, one: &Followed) {
        // SYNC POINT: with who frees the last block, which looks at the state after it.
        while one.given.load(Ordering::SeqCst) == 0 && one.becomes(DESTROYED, CHANGING) {
            if one.given.load(Ordering::SeqCst) != 0 {
                // Another pool has had this place since.
                one.state.store(DESTROYED, Ordering::SeqCst);
                continue;
            }
            let kept = one.kept.swap(0, Ordering::SeqCst);
            if let Some(cell) = self.cell_of_pool(one) {
                ledger::release(cell, kept);
            }
            one.stuck.store(false, Ordering::Release);
            one.pool.store(0, Ordering::Release);
            one.state.store(NONE, Ordering::SeqCst);
        }
    }

    fn cell_of_pool(&self, one: &Followed) -> Option<&SlotCell> {
        let chip = self.chip(Vendor::Cuda, one.device.load(Ordering::Relaxed));
        let (claim, device) = self.parts(chip).next()?;
        self.claim(claim)?.cell(device)
    }

    /// Charges what a pool keeps now, of which so many bytes are reserved.
    fn follow_pool(&self, one: &Followed, mut reserved: u64) -> Change {
        let Some(cell) = self.cell_of_pool(one) else { return Change::default() };
        let change = self.charge_kept(one, cell, &mut reserved).unwrap_or_else(|| {
            // Not known: taken to be kept, until who comes next knows better.
            ledger::commit(cell, reserved);
            one.uncover(0, reserved);
            reserved = 0;
            Change::default()
        });
        ledger::abandon(cell, reserved);
        change
    }

    /// `None` where other threads are at it for too long.
    fn charge_kept(&self, one: &Followed, cell: &SlotCell, granted: &mut u64) -> Option<Change> {
        let _turn = bounded::lock(&one.turn)?;
        let Some(driver) = self.driver().filter(|_| one.is_there()) else { return Some(Change::default()) };
        let pool = one.pool.load(Ordering::Acquire);
        let Some(reserved) = self.relaxed(|| driver.reserved_by_pool(pool)) else {
            return Some(Change::default());
        };
        let tries = std::iter::repeat_with(|| {
            let settled = one.settled(reserved);
            if settled.is_none() {
                std::thread::yield_now();
            }
            settled
        });
        let (before, now) = tries.take(TRIES).flatten().next()?;
        let grown = now.saturating_sub(before);
        let paid = grown.min(*granted);
        ledger::commit(cell, paid);
        ledger::charge(cell, grown - paid);
        *granted -= paid;
        ledger::release(cell, before.saturating_sub(now));
        Some(Change { less: now < before, grown: grown > paid })
    }
}
