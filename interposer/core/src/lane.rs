//! One claim's compute on one chip in this process: threads that launch come through here. Nearly all take one of the
//! launches that the last decision allowed, one atomic subtraction; the others decide anew ([`vnpu_quota_abi::gate`]),
//! record and read the events that the decisions rest on, and wait.
//!
//! Decisions are made by one thread at a time, under a turn that nobody waits for without an end: a vendor's call that
//! does not return holds up launches for [`PATIENCE`] at most.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use vnpu_quota_abi::device::ChipTable;
use vnpu_quota_abi::gate::{Answer, Gate, SPIN, Tuning};
use vnpu_quota_abi::line::Terms;
use vnpu_quota_abi::mark::{Mark, reached};
use vnpu_quota_abi::usage::UsageDevice;

use crate::chip_region::ChipRegion;
use crate::clock;
use crate::events::{Event, Events, Site};
use crate::streams::Streams;

/// No launch waits longer for another thread's turn; the gate bounds all other waits.
const PATIENCE: u64 = 2_000_000_000;

/// No site: neither a device's number nor an address.
const NOWHERE: usize = usize::MAX;

/// A thread that finds another one deciding looks again after so long.
const STEP: Duration = Duration::from_micros(20);

/// The claim's way to one chip.
pub(crate) struct Lane {
    chip: ChipRegion,
    /// Launches that need not ask. Negative while nobody may.
    allowed: AtomicI64,
    streams: Streams,
    /// Whether a thread decides.
    turn: AtomicBool,
    inner: UnsafeCell<Inner>,
    counts: Counts,
    /// What the program's thread had current when it launched last, for the helper thread; [`NOWHERE`] while unknown.
    site: AtomicUsize,
}

// SAFETY: `inner` is reached through a `Turn` only, of which there is one at a time; the rest are atomics and views
// of atomics.
unsafe impl Sync for Lane {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Lane {}

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
    granted: u32,
    /// Launches that are not counted yet.
    launched: u64,
    /// Recorded and not known to be finished, oldest first: an event for each stream that was in use.
    marks: VecDeque<Vec<Event>>,
    /// The last event of the last finished mark: the next interval begins there.
    last: Option<Event>,
    spare: Vec<Event>,
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

impl Lane {
    /// Opens the chip's region at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let chip = ChipRegion::open(path)?;
        let inner = Inner {
            gate: Gate::new(Tuning::DEFAULT),
            granted: 0,
            launched: 0,
            marks: VecDeque::new(),
            last: None,
            spare: Vec::new(),
        };
        Ok(Self {
            chip,
            allowed: AtomicI64::new(0),
            streams: Streams::new(),
            turn: AtomicBool::new(false),
            inner: UnsafeCell::new(inner),
            counts: Counts::default(),
            site: AtomicUsize::new(NOWHERE),
        })
    }

    /// Returns when the calling thread may launch on `stream`. `terms` are read anew for each decision. Returns whether
    /// the launch was decided on, and not only counted down.
    pub(crate) fn admit(
        &self,
        stream: *mut c_void,
        events: &Events,
        terms: impl Fn() -> Option<Terms>,
    ) -> bool {
        self.streams.note(stream);
        if self.allowed.fetch_sub(1, Ordering::Relaxed) > 0 || events.is_capturing(stream) {
            return false;
        }
        let begun = clock::now();
        let mut now = begun;
        loop {
            let wait = match self.take_turn() {
                Some(mut turn) => match terms().filter(|_| self.chip.now().is_whole()) {
                    Some(terms) => events.relaxed(|| self.decide(&mut turn, stream, events, &terms, now)),
                    // Compute fails open.
                    None => None,
                },
                None => (now.saturating_sub(begun) <= PATIENCE).then_some(now),
            };
            let Some(until) = wait else { break };
            self.wait(now, until);
            if self.allowed.fetch_sub(1, Ordering::Relaxed) > 0 {
                break;
            }
            now = clock::now();
        }
        // The last mark may have taken it.
        self.streams.note(stream);
        self.counts.throttled_ns.fetch_add(clock::now().saturating_sub(begun), Ordering::Relaxed);
        true
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
        if let Some(site) = self.site() {
            enter(site);
        }
        let lane = turn.inner();
        lane.settle(&self.allowed, now, true);
        if lane.marks.is_empty() {
            // Idle perhaps: from now on whoever launches asks first.
            lane.settle(&self.allowed, now, false);
        }
        for _ in 0..4 {
            lane.collect(&self.chip, events, terms, clock::now());
            match lane.gate.look(&self.chip.now(), terms, clock::now()) {
                Answer::Mark => lane.mark(&self.streams, events),
                Answer::Wait(until) => return Some(until),
                Answer::Go(_) => return Some(now),
                Answer::Rest => {
                    self.wake();
                    return None;
                }
            }
        }
        Some(now)
    }

    /// The program is about to destroy `stream`, after which nothing may be put there.
    pub(crate) fn drop_stream(&self, stream: *mut c_void, events: &Events) {
        if !self.streams.has(stream) {
            return;
        }
        if let Some(mut turn) = self.wait_for_turn() {
            let lane = turn.inner();
            lane.settle(&self.allowed, clock::now(), true);
            events.relaxed(|| lane.mark(&self.streams, events));
        }
    }

    /// The program is about to reset the chip, with which streams and events go.
    pub(crate) fn drop_all(&self) {
        if let Some(mut turn) = self.wait_for_turn() {
            let lane = turn.inner();
            lane.settle(&self.allowed, clock::now(), false);
            lane.streams_are_gone(&self.streams);
            self.site.store(NOWHERE, Ordering::Relaxed);
            lane.gate.abandon(&self.chip.now());
            self.wake();
        }
    }

    /// What the program's threads have current when they launch here.
    pub(crate) fn site(&self) -> Option<Site> {
        Some(self.site.load(Ordering::Relaxed)).filter(|site| *site != NOWHERE).map(Site)
    }

    /// Notes what the calling thread has current.
    pub(crate) fn be_at(&self, site: Option<Site>) {
        self.site.store(site.map_or(NOWHERE, |Site(site)| site), Ordering::Relaxed);
    }

    /// As long as a launch would wait.
    fn wait_for_turn(&self) -> Option<Turn<'_>> {
        let begun = clock::now();
        loop {
            match self.take_turn() {
                None if clock::now().saturating_sub(begun) < PATIENCE => std::thread::sleep(STEP),
                turn => return turn,
            }
        }
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
        self.turn.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok().map(|_| Turn(self))
    }

    /// Decides on a launch; `None` when it may go now, else when to ask again.
    fn decide(
        &self,
        turn: &mut Turn<'_>,
        stream: *mut c_void,
        events: &Events,
        terms: &Terms,
        now: u64,
    ) -> Option<u64> {
        let lane = turn.inner();
        lane.settle(&self.allowed, now, false);
        let held = lane.gate.holds();
        let mut now = now;
        loop {
            lane.collect(&self.chip, events, terms, now);
            let answer = lane.gate.ask(&self.chip.now(), terms, now);
            if held && !lane.gate.holds() {
                self.wake();
            }
            match answer {
                Answer::Go(launches) => {
                    lane.granted = launches;
                    // One of them is the caller's.
                    self.allowed.store(i64::from(launches) - 1, Ordering::Relaxed);
                    reached(Mark::LaunchAllowed);
                    return None;
                }
                Answer::Mark => {
                    // The helper thread's last mark may have taken it.
                    self.streams.note(stream);
                    lane.mark(&self.streams, events);
                }
                Answer::Wait(until) => return Some(until),
                // Said to the helper thread only.
                Answer::Rest => return None,
            }
            now = clock::now();
        }
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
    fn settle(&mut self, allowed: &AtomicI64, now: u64, keep: bool) {
        let left = if keep { allowed.load(Ordering::Relaxed) } else { allowed.swap(0, Ordering::Relaxed) };
        let left = u32::try_from(left.max(0)).unwrap_or(0).min(self.granted);
        let launched = self.granted - left;
        if launched > 0 {
            self.gate.launched(now, launched);
            self.launched += u64::from(launched);
        }
        self.granted = if keep { left } else { 0 };
    }

    /// Tells the gate of the marks that are finished.
    fn collect(&mut self, chip: &ChipRegion, events: &Events, terms: &Terms, now: u64) {
        while let Some(mark) = self.marks.front() {
            if !mark.iter().all(|event| events.is_finished(*event)) {
                return;
            }
            let Some(mark) = self.marks.pop_front() else { return };
            let mut elapsed = 0;
            for event in mark {
                let since = self.last.map_or(Some(0), |last| events.nanoseconds(last, event));
                // What ended before the last mark's end is in it already.
                let Some(since) = since.filter(|since| self.last.is_none() || *since > 0) else {
                    self.spare.push(event);
                    continue;
                };
                // From the latest event on: streams run side by side, and the chip is charged once.
                elapsed += since;
                self.spare.extend(self.last.replace(event));
            }
            self.gate.finished(&chip.now(), terms, now, elapsed);
        }
    }

    fn streams_are_gone(&mut self, streams: &Streams) {
        streams.take().for_each(drop);
        self.marks.clear();
        self.spare.clear();
        self.last = None;
    }

    /// Records an event behind all that was launched.
    fn mark(&mut self, streams: &Streams, events: &Events) {
        let mut recorded = Vec::new();
        // An event on a stream in capture would become a part of the program's graph, and never be reached by itself.
        for stream in streams.take().filter(|stream| !events.is_capturing(*stream)) {
            let event = self.spare.pop().or_else(|| events.create());
            recorded.extend(event.filter(|event| events.record(*event, stream)));
        }
        reached(Mark::EventRecorded);
        if !self.gate.marked(clock::now()) {
            self.spare.append(&mut recorded);
        } else if recorded.is_empty() {
            // Without an event nothing can be measured: what was launched is not charged. Compute fails open.
            self.gate.unmeasured();
        } else {
            self.marks.push_back(recorded);
        }
    }
}
