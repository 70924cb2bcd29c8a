//! One claim's compute on one chip in this process: threads that launch come through here. Nearly all take one of the
//! launches that the last decision allowed, one atomic addition; the others decide anew ([`vnpu_quota_abi::gate`]),
//! record and read the events that the decisions rest on, and wait.
//!
//! Decisions are made by one thread at a time, under a turn that nobody waits for without an end: a vendor's call that
//! does not return holds up launches for [`PATIENCE`] at most.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use vnpu_quota_abi::allowance::Allowance;
use vnpu_quota_abi::device::ChipTable;
use vnpu_quota_abi::gate::{Answer, Gate, Load, SPIN, Tuning};
use vnpu_quota_abi::line::Terms;
use vnpu_quota_abi::mark::{Mark, reached};
use vnpu_quota_abi::usage::UsageDevice;

use crate::chip_region::ChipRegion;
use crate::clock;
use crate::events::{Events, Site};
use crate::log;
use crate::measure::{Measure, Recorded};
use crate::streams::Streams;

/// No launch waits longer for another thread's turn; the gate bounds all other waits.
const PATIENCE: u64 = 2_000_000_000;

/// No site: neither a device's number nor an address.
const NOWHERE: usize = usize::MAX;

/// A thread that finds another one deciding looks again after so long.
const STEP: Duration = Duration::from_micros(20);

/// More marks in a row are none of a gate's.
const MOST_STEPS: u32 = 16;

/// The claim's way to one chip.
pub(crate) struct Lane {
    chip: ChipRegion,
    allowance: Allowance,
    streams: Streams,
    /// Whether a thread decides.
    turn: AtomicBool,
    /// Whether the thread that decides has not come back for [`PATIENCE`]: it is in a call of the vendor's that may never
    /// return, and nobody waits for it any more.
    stuck: AtomicBool,
    inner: ManuallyDrop<UnsafeCell<Inner>>,
    counts: Counts,
    /// What the program's thread had current when it decided last, for the helper thread; [`NOWHERE`] while unknown.
    site: AtomicUsize,
}

// SAFETY: `inner` is reached through a `Turn` only, of which there is one at a time; the rest are atomics and views
// of atomics.
unsafe impl Sync for Lane {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Lane {}

impl Drop for Lane {
    fn drop(&mut self) {
        // In a forked child: another thread of the parent may have been changing it.
        if !*self.turn.get_mut() {
            // SAFETY: dropped here and nowhere else; nobody can reach it any more.
            unsafe { ManuallyDrop::drop(&mut self.inner) }
        }
    }
}

/// What is not in the claim's counters yet.
#[derive(Default)]
struct Counts {
    throttled_ns: AtomicU64,
    busy_ns: AtomicU64,
    launches: AtomicU64,
    leases: AtomicU64,
    forced_admits: AtomicU64,
}

struct Inner {
    gate: Gate,
    /// Launches that were allowed and are not counted as made.
    granted: u32,
    /// Launches whose threads have not come back for longer than can be: ended in the vendor's function.
    lost: u32,
    /// Launches that are not counted yet.
    launched: u64,
    measure: Measure,
}

/// The right to decide.
struct Turn<'a>(&'a Lane);

impl Turn<'_> {
    fn inner(&mut self) -> &mut Inner {
        // SAFETY: there is one turn at a time, and it is borrowed mutably.
        unsafe { &mut *self.0.inner.get() }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let counts = &self.0.counts;
        let lane = self.inner();
        for (from, to) in [
            (&mut lane.gate.busy_ns, &counts.busy_ns),
            (&mut lane.gate.leases, &counts.leases),
            (&mut lane.gate.forced_admits, &counts.forced_admits),
            (&mut lane.launched, &counts.launches),
        ] {
            to.fetch_add(std::mem::take(from), Ordering::Relaxed);
        }
        self.0.turn.store(false, Ordering::Release);
    }
}

/// What a thread wants to launch, and where.
#[derive(Clone, Copy)]
struct Work {
    stream: *mut c_void,
    load: Load,
}

/// What comes of a wish to launch.
enum Decision {
    /// It may, and is under way.
    Enter,
    /// It may, and nobody counts it.
    Pass,
    /// It asks again then.
    Wait(u64),
}

/// How a thread came by the right to launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admission {
    /// Whether it was decided on, and not only counted down.
    pub(crate) decided: bool,
    /// Whether the launch is under way until [`Lane::leave`].
    pub(crate) entered: bool,
}

impl Lane {
    /// Opens the chip's region at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let chip = ChipRegion::open(path)?;
        let gate = Gate::new(Tuning::DEFAULT);
        let inner = Inner { gate, granted: 0, lost: 0, launched: 0, measure: Measure::new() };
        Ok(Self {
            chip,
            allowance: Allowance::new(),
            streams: Streams::new(),
            turn: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            inner: ManuallyDrop::new(UnsafeCell::new(inner)),
            counts: Counts::default(),
            site: AtomicUsize::new(NOWHERE),
        })
    }

    /// Takes a launch that needs no decision; it is under way until [`Self::leave`].
    pub(crate) fn enter(&self) -> bool {
        self.allowance.enter()
    }

    /// Returns when the calling thread may launch on `stream`. `terms` are read anew for each decision.
    pub(crate) fn admit(
        &self,
        stream: *mut c_void,
        load: Load,
        events: &Events,
        terms: impl Fn() -> Option<Terms>,
    ) -> Admission {
        // What was allowed was kernels.
        let enter = || load == Load::Kernel && self.allowance.enter();
        if enter() {
            return Admission { decided: false, entered: true };
        }
        if events.is_capturing(stream) {
            return Admission { decided: false, entered: false };
        }
        let begun = clock::now();
        let mut now = begun;
        let mut no_turn_since = None;
        let entered = loop {
            let decision = match self.take_turn() {
                Some(mut turn) => {
                    no_turn_since = None;
                    match terms().filter(|_| self.chip.now().is_whole()) {
                        Some(terms) => events
                            .relaxed(|| self.decide(&mut turn, Work { stream, load }, events, &terms, now)),
                        // Compute fails open.
                        None => Decision::Pass,
                    }
                }
                None if !self.stuck.load(Ordering::Relaxed)
                    && now.saturating_sub(*no_turn_since.get_or_insert(now)) <= PATIENCE =>
                {
                    Decision::Wait(now)
                }
                None => {
                    self.give_up_turn();
                    self.counts.forced_admits.fetch_add(1, Ordering::Relaxed);
                    self.counts.launches.fetch_add(1, Ordering::Relaxed);
                    Decision::Pass
                }
            };
            let until = match decision {
                Decision::Enter => break true,
                Decision::Pass => break false,
                Decision::Wait(until) => until,
            };
            self.wait(now, until);
            if enter() {
                break true;
            }
            now = clock::now();
        };
        self.counts.throttled_ns.fetch_add(clock::now().saturating_sub(begun), Ordering::Relaxed);
        Admission { decided: true, entered }
    }

    /// A launch that was under way is in `stream`.
    pub(crate) fn leave(&self, stream: *mut c_void) {
        // Only now: a mark in between would not have been behind it, and would have taken the note.
        self.streams.note(stream);
        self.allowance.leave();
    }

    /// For the helper thread: keeps the lease alive while work is queued, and gives it back when none is. Returns when
    /// it wants to be called again; `None` when there is nothing to do until somebody launches.
    pub(crate) fn look(&self, events: &Events, terms: &Terms, enter: impl FnOnce(Site)) -> Option<u64> {
        let now = clock::now();
        // A thread that decides does all that we would.
        let Some(mut turn) = self.take_turn() else { return Some(now + 500_000) };
        if !self.chip.now().is_whole() {
            return None;
        }
        // Not before the turn: whoever destroys a context has it, and forgets the site with it.
        enter(self.site()?);
        let lane = turn.inner();
        lane.settle(&self.allowance, now, true);
        for _ in 0..4 {
            lane.collect(&self.chip, events, terms, clock::now());
            if lane.measure.is_empty() {
                // The lease may go back now, and nobody may launch without it.
                lane.settle(&self.allowance, now, false);
            }
            match lane.gate.look(&self.chip.now(), terms, clock::now()) {
                Answer::Mark => lane.mark(&self.streams, events),
                Answer::Wait(until) => return Some(until),
                Answer::Go(_) => return Some(now),
                Answer::Rest => {
                    lane.settle(&self.allowance, now, false);
                    self.wake();
                    return None;
                }
            }
        }
        Some(now)
    }

    /// The program is about to destroy a stream, after which nothing may be put there, or to capture what it launches
    /// there: what has been launched so far, wherever, is behind a mark when this returns.
    pub(crate) fn mark_all(&self, events: &Events) {
        // The turn first: who has it may be about to put an event there.
        let Some(mut turn) = self.wait_for_turn() else { return };
        // Of all that is noted: a capture also hides what is in the default stream.
        if !self.streams.is_empty() {
            let lane = turn.inner();
            lane.settle(&self.allowance, clock::now(), false);
            events.relaxed(|| lane.mark(&self.streams, events));
        }
    }

    /// The program is about to destroy a context, or all (`None`), with which streams and events go. What is queued there
    /// is waited for within bounds, as the vendor does, and measured.
    pub(crate) fn drop_site(&self, site: Option<Site>, events: &Events, terms: &Terms) {
        let Some(mut turn) = self.wait_for_turn() else { return };
        let lane = turn.inner();
        // Another device's, or of nothing that was launched here.
        if site.is_some_and(|site| self.site() != Some(site) && !lane.knows(site, &self.streams, events)) {
            return;
        }
        let begun = clock::now();
        lane.settle(&self.allowance, begun, false);
        let home = site.map_or(0, |Site(site)| site);
        events.within(home, || events.relaxed(|| lane.drain(self, site, events, terms, begun)));
        if lane.measure.oldest_is_of(site)
            && let Some(since) = lane.gate.running_since()
        {
            // The chip was this process's for so long.
            let now = clock::now();
            lane.measure.give_up_oldest();
            lane.gate.finished(&self.chip.now(), terms, now, now.saturating_sub(since));
        }
        lane.measure.forget(site, events);
        if site.is_none() || self.site() == site {
            // Another one that the helper thread can be in, while there is something of it.
            let other = lane.measure.home().filter(|_| site.is_some());
            self.site.store(other.unwrap_or(NOWHERE), Ordering::Relaxed);
        }
        if site.is_none() {
            self.streams.take().for_each(drop);
        }
        // Launches of other contexts that are under way hold the lease, for as long as somebody looks after it.
        if self.site().is_none() || lane.measure.is_empty() && lane.granted == 0 {
            lane.measure.forget_marks();
            lane.gate.abandon(&self.chip.now());
            self.wake();
        }
    }

    /// What the program's threads have current when they launch here.
    fn site(&self) -> Option<Site> {
        Some(self.site.load(Ordering::Relaxed)).filter(|site| *site != NOWHERE).map(Site)
    }

    /// As long as a launch would wait.
    fn wait_for_turn(&self) -> Option<Turn<'_>> {
        let begun = clock::now();
        loop {
            let turn = self.take_turn();
            if turn.is_some() || self.stuck.load(Ordering::Relaxed) {
                return turn;
            }
            if clock::now().saturating_sub(begun) > PATIENCE {
                self.give_up_turn();
                return None;
            }
            std::thread::sleep(STEP);
        }
    }

    fn give_up_turn(&self) {
        self.stuck.store(true, Ordering::Relaxed);
        log::once(
            log::Kind::Stuck,
            "a call of the vendor's for an event does not return; compute is not limited until it does",
        );
    }

    /// Adds what was counted since the last report to the claim's counters.
    pub(crate) fn report(&self, to: &UsageDevice) {
        let counts = &self.counts;
        for (from, to) in [
            (&counts.throttled_ns, &to.throttled_ns),
            (&counts.busy_ns, &to.busy_ns),
            (&counts.launches, &to.launches),
            (&counts.leases, &to.leases),
            (&counts.forced_admits, &to.forced_admits),
        ] {
            let more = from.swap(0, Ordering::Relaxed);
            if more > 0 {
                to.fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    fn take_turn(&self) -> Option<Turn<'_>> {
        self.turn.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok()?;
        self.stuck.store(false, Ordering::Relaxed);
        Some(Turn(self))
    }

    /// Decides on a launch.
    fn decide(
        &self,
        turn: &mut Turn<'_>,
        Work { stream, load }: Work,
        events: &Events,
        terms: &Terms,
        now: u64,
    ) -> Decision {
        // For the helper thread, before there is anything for it to do.
        if let Some(Site(site)) = events.site() {
            self.site.store(site, Ordering::Relaxed);
        }
        let lane = turn.inner();
        lane.settle(&self.allowance, now, false);
        let held = lane.gate.holds();
        let mut now = now;
        for _ in 0..MOST_STEPS {
            lane.collect(&self.chip, events, terms, now);
            let answer = lane.gate.ask_for(&self.chip.now(), terms, now, load);
            if held && !lane.gate.holds() {
                self.wake();
            }
            match answer {
                Answer::Go(launches) => {
                    lane.granted = lane.granted.saturating_add(launches);
                    self.allowance.allow(launches);
                    reached(Mark::LaunchAllowed);
                    return Decision::Enter;
                }
                // Another thread has begun to capture there.
                Answer::Mark if events.is_capturing(stream) => return Decision::Pass,
                Answer::Mark => {
                    // What opens an interval must be somewhere.
                    self.streams.note(stream);
                    lane.mark(&self.streams, events);
                }
                Answer::Wait(until) => return Decision::Wait(until),
                // Said to the helper thread only.
                Answer::Rest => break,
            }
            now = clock::now();
        }
        Decision::Wait(now + SPIN)
    }

    /// Waits until `until` or until the lease word changes, whatever comes first.
    fn wait(&self, now: u64, until: u64) {
        let length = until.saturating_sub(now);
        if length == 0 {
            std::thread::sleep(STEP);
        } else if length < SPIN {
            while clock::now() < until {
                std::thread::yield_now();
            }
        } else if let Some(word) = self.chip.now().lease() {
            clock::wait_for_change(word, word.load(Ordering::Relaxed), length);
        }
    }

    fn wake(&self) {
        if let Some(word) = self.chip.now().lease() {
            clock::wake_all(word);
        }
    }
}

impl Inner {
    /// Tells the gate of the launches that were made since the last decision. `keep` leaves what is still allowed.
    fn settle(&mut self, allowance: &Allowance, now: u64, keep: bool) {
        let standing = if keep { allowance.look() } else { allowance.take_back() };
        let left = standing.left.min(self.granted);
        let taken = self.granted - left;
        if self.gate.is_overdue(now) {
            self.lost = standing.under_way;
        }
        // One of them may come back after all.
        self.lost = self.lost.min(standing.under_way);
        let made = taken.saturating_sub(standing.under_way - self.lost);
        if made > 0 {
            self.gate.launched(now, made);
            self.launched += u64::from(made);
        }
        self.gate.under_way(now, taken - made);
        self.granted = if keep { self.granted - made } else { taken - made };
    }

    /// Tells the gate of the marks that are finished.
    fn collect(&mut self, chip: &ChipRegion, events: &Events, terms: &Terms, now: u64) {
        while let Some(elapsed) = self.measure.finished(events, self.gate.opens()) {
            self.gate.finished(&chip.now(), terms, now, elapsed);
        }
    }

    /// Whether anything here is of a context.
    fn knows(&self, site: Site, streams: &Streams, events: &Events) -> bool {
        self.measure.knows(site) || streams.any(|stream| events.home(stream) == site.0)
    }

    /// Marks what was launched, and waits for what of it goes, not longer than a launch waits.
    fn drain(&mut self, lane: &Lane, site: Option<Site>, events: &Events, terms: &Terms, begun: u64) {
        if !lane.streams.is_empty() {
            self.mark(&lane.streams, events);
        }
        loop {
            self.collect(&lane.chip, events, terms, clock::now());
            if !self.measure.awaits(site) || clock::now().saturating_sub(begun) > PATIENCE {
                return;
            }
            std::thread::sleep(STEP);
        }
    }

    /// Records an event behind all that was launched.
    fn mark(&mut self, streams: &Streams, events: &Events) {
        let recorded = self.measure.record(streams, events);
        reached(Mark::EventRecorded);
        match recorded {
            Recorded::Covered => self.gate.covered(),
            Recorded::Mark(recorded) => {
                if self.gate.marked(clock::now()) {
                    self.measure.push(recorded);
                } else {
                    self.measure.append(recorded);
                }
            }
            // Without an event nothing can be measured: what was launched is not charged. Compute fails open.
            Recorded::Nowhere => {
                if self.gate.marked(clock::now()) {
                    self.gate.unmeasured();
                }
            }
        }
    }
}
