//! Who may launch, and how much, on one chip: the decisions of one process for one of its claims. Pure: time and the
//! chip's region come as arguments, and what is to be done at the vendor's runtime goes back as an [`Answer`], so that
//! the interposer and a simulation of hours run the same code.
//!
//! While a process has work on the chip it holds the chip's lease ([`crate::lease`]), so what it measures between two
//! of its events is its own device time and nobody else's. It charges that to its claim's bucket ([`crate::bucket`]).
//! It gives the lease back when the bucket is in debt, when its time is up and somebody waits, or when it has been
//! idle; always after its own queue has drained. With nobody waiting it renews the lease without draining.

use crate::bucket;
use crate::device::{ChipTable, DeviceEntry};
use crate::lease::{self, Held, nanoseconds, tick, ticks_until};
use crate::line::{Line, Mode, Terms, clock, may_run};
use crate::mark::{Mark as Step, reached};
use crate::marks::{self, Mark, Marks};
use crate::sync::{AtomicU64, Ordering};
pub use crate::table::LoadKind as Load;
pub use crate::tuning::Tuning;
use crate::wishes::Wishes;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Launch so many, report them by [`Gate::launched`], then ask again.
    Go(u32),
    /// Record an event behind what was launched, report it by [`Gate::marked`], then ask again.
    Mark,
    /// Look for finished marks, report them by [`Gate::finished`], and ask again at this time, or earlier when a mark
    /// finishes or the lease word changes.
    Wait(u64),
    /// Nothing is to be done until somebody wants to launch.
    Rest,
}

/// Where the lease stands after what had to be done with it.
enum Tended {
    /// The lease is ours and is being given back: this comes next.
    Busy(Answer),
    /// It is ours.
    Holds {
        held: Held,
        /// Somebody waits for it.
        waited: bool,
    },
    /// It is not ours.
    Free,
}

/// The state of one process for one claim on one chip.
#[derive(Debug)]
pub struct Gate {
    tuning: Tuning,
    held: Option<Held>,
    closing: bool,
    /// The next mark opens an interval.
    opens: bool,
    /// A mark is missing: where the next one's interval began is not known.
    gap: bool,
    marks: Marks,
    /// A graph is allowed that no mark is behind.
    graph: bool,
    /// Measured device time of one graph, smoothed; 0 while unknown.
    graph_ns: u64,
    /// Launches since the last mark.
    since: u32,
    /// Launches that are allowed and not made yet: threads inside the vendor's function.
    under_way: u32,
    /// Since when there are some without a change of their number.
    under_way_since: u64,
    /// Measured device time of one launch, smoothed; 0 while unknown.
    launch_ns: u64,
    /// The longest of late: it fades by an eighth with each mark.
    longest_launch_ns: u64,
    last_work: u64,
    /// When the oldest unfinished mark's launches began, as far as is known.
    running_since: u64,
    /// When the lease was first seen free by a waiter that is not the first in line.
    free_since: Option<u64>,
    /// The lease went back for another process of the claim, which has the same place in the line.
    yields: bool,
    wishes: Wishes,
    /// Wall time of the longest charge.
    longest: u64,
    /// One launch is due although the chip is not ours.
    forced: bool,
    wanting: bool,
    /// Leases taken.
    pub leases: u64,
    /// Launches let through because a wait had lasted too long.
    pub forced_admits: u64,
    /// Device time charged.
    pub busy_ns: u64,
}

impl Gate {
    /// A process that has launched nothing.
    pub const fn new(tuning: Tuning) -> Self {
        Self {
            tuning,
            held: None,
            closing: false,
            opens: false,
            gap: false,
            marks: Marks::new(),
            graph: false,
            graph_ns: 0,
            since: 0,
            under_way: 0,
            under_way_since: 0,
            launch_ns: 0,
            longest_launch_ns: 0,
            last_work: 0,
            running_since: 0,
            free_since: None,
            yields: false,
            wishes: Wishes::new(),
            longest: 0,
            forced: false,
            wanting: false,
            leases: 0,
            forced_admits: 0,
            busy_ns: 0,
        }
    }

    /// Whether this process has the lease.
    pub const fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Notes launches that [`Answer::Go`] allowed.
    pub const fn launched(&mut self, now: u64, launches: u32) {
        self.since = self.since.saturating_add(launches);
        self.last_work = now;
    }

    /// Notes how many launches are allowed and not made yet: no mark is behind them, so the lease is not given back for
    /// as long as one of them may still come. Whoever says so reports them by [`Gate::launched`] when they are made.
    pub const fn under_way(&mut self, now: u64, launches: u32) {
        if launches != self.under_way {
            self.under_way = launches;
            self.under_way_since = now;
        }
    }

    /// Whether threads are on their way to the vendor's queue. Not believed for ever: one may have been ended there.
    const fn is_entered(&self, now: u64) -> bool {
        self.under_way > 0 && !self.is_overdue(now)
    }

    /// Whether those on their way have been so for longer than can be.
    pub const fn is_overdue(&self, now: u64) -> bool {
        // Some calls return when the whole model has run.
        let most = if self.graph { MOST_PATIENCE } else { LONGEST_LAUNCH };
        self.under_way > 0 && now.saturating_sub(self.under_way_since) >= most
    }

    /// Notes that what was launched since the last mark was before it: nothing is left to mark.
    pub fn covered(&mut self) {
        if let Some(newest) = self.marks.newest_mut() {
            newest.launches = newest.launches.saturating_add(self.since);
        }
        self.since = 0;
        self.graph &= self.under_way > 0;
        // An interval that cannot be opened now is opened by the next mark; nobody waits for that.
        self.gap |= self.opens;
        self.opens = false;
    }

    /// Whether the oldest unfinished mark only opens an interval.
    pub fn opens(&self) -> bool {
        self.marks.oldest().is_some_and(|mark| mark.opens)
    }

    /// Since when the oldest unfinished mark's launches have been running, as far as is known; `None` when nothing is
    /// unfinished, or when what it ends is not this process's time.
    pub fn running_since(&self) -> Option<u64> {
        self.marks.oldest().filter(|mark| !mark.opens).map(|_| self.running_since)
    }

    /// Notes that the event that [`Answer::Mark`] asked for is recorded. Returns whether it is wanted: with too many
    /// under way it is not, and must not be reported by [`Gate::finished`].
    pub fn marked(&mut self, now: u64) -> bool {
        // Not one that is still on its way.
        let graph = self.graph && self.under_way == 0;
        self.graph &= !graph;
        let mark = Mark { launches: self.since, graph, opens: self.opens || self.gap };
        if self.marks.count() == 0 {
            self.running_since = now;
        }
        self.since = 0;
        self.last_work = now;
        if self.marks.push(mark) {
            (self.opens, self.gap) = (false, false);
            return true;
        }
        // Measured with the one before it, or too early: a gap either way.
        if let Some(newest) = self.marks.newest_mut() {
            newest.launches = newest.launches.saturating_add(mark.launches);
            newest.graph |= mark.graph;
        }
        // What opens an interval is not in one: the next mark does it.
        self.gap |= self.opens;
        self.opens = false;
        false
    }

    /// All that is queued is gone with its streams, unmeasured; the lease goes back.
    pub fn abandon<C: ChipTable>(&mut self, chip: &C) {
        if let (Some(held), Some(word)) = (self.held.take(), chip.lease()) {
            lease::release(word, held);
        }
        self.marks.clear();
        (self.since, self.under_way) = (0, 0);
        self.wishes = Wishes::new();
        (self.closing, self.forced, self.opens, self.wanting, self.graph) =
            (false, false, false, false, false);
    }

    /// Takes back the newest mark, which could not be recorded: what is before it is charged to nobody.
    pub fn unmeasured(&mut self) {
        self.gap |= self.marks.pop_newest();
    }

    /// Notes that the oldest mark is finished, `elapsed` nanoseconds of device time after the one before it.
    pub fn finished<C: ChipTable>(&mut self, chip: &C, terms: &Terms, now: u64, elapsed: u64) {
        let Some(mark) = self.marks.pop_oldest() else { return };
        (self.last_work, self.running_since) = (now, now);
        if mark.opens {
            return;
        }
        self.busy_ns = self.busy_ns.saturating_add(elapsed);
        if mark.graph {
            let kernels = u64::from(mark.launches.saturating_sub(1)).saturating_mul(self.launch_ns);
            let graph = elapsed.saturating_sub(kernels);
            self.graph_ns = if self.graph_ns == 0 { graph } else { (self.graph_ns * 3 + graph) / 4 };
        } else if mark.launches > 0 {
            let each = elapsed / u64::from(mark.launches);
            self.longest_launch_ns = each.max(self.longest_launch_ns - self.longest_launch_ns / 8);
            // A quarter of the new measurement: kernels of one program differ more than they drift.
            self.launch_ns = if self.launch_ns == 0 { each } else { (self.launch_ns * 3 + each) / 4 };
        }
        let Some(entry) = chip.entry(terms.entry) else { return };
        entry.busy_ns.fetch_add(elapsed, Ordering::Relaxed);
        reached(Step::TimeCounted);
        let share = terms.share_milli.max(1);
        self.longest = self.longest.max(u64::try_from(bucket::wall(elapsed, share)).unwrap_or(0));
        bucket::charge(&entry.tat, clock(now), elapsed, share);
        reached(Step::Charged);
        if terms.mode != Mode::Hard {
            bucket::cut_debt(&entry.tat, clock(now), bucket::wall(self.tuning.debt, share));
        }
    }

    /// Decides for a thread that wants to launch kernels.
    pub fn ask<C: ChipTable>(&mut self, chip: &C, terms: &Terms, now: u64) -> Answer {
        self.ask_for(chip, terms, now, Load::Kernel)
    }

    /// Decides for a thread that wants to launch something.
    pub fn ask_for<C: ChipTable>(&mut self, chip: &C, terms: &Terms, now: u64, load: Load) -> Answer {
        let answer = self.decide(chip, terms, now, load);
        match answer {
            Answer::Go(launches) => return self.go(launches, load),
            // Only steps on the way.
            Answer::Mark | Answer::Rest => return answer,
            Answer::Wait(_) => (),
        }
        let since = self.wishes.denied(load, now);
        let patience = self.tuning.patience.saturating_add(self.longest.saturating_mul(2)).min(MOST_PATIENCE);
        if now.saturating_sub(since) < patience {
            return answer;
        }
        // Somebody spoiled the region, or a queue never drains. Compute is not worth a hang.
        self.forced_admits += 1;
        if self.held.is_some() {
            return self.go(1, load);
        }
        self.wishes.granted(load);
        self.forced = true;
        self.opens = true;
        Answer::Mark
    }

    /// Somebody may launch.
    fn go(&mut self, launches: u32, load: Load) -> Answer {
        self.wishes.granted(load);
        self.graph |= load == Load::Graph;
        Answer::Go(launches)
    }

    fn decide<C: ChipTable>(&mut self, chip: &C, terms: &Terms, now: u64, load: Load) -> Answer {
        let (Some(word), Some(own)) = (chip.lease(), chip.entry(terms.entry)) else {
            // A region without us in it limits nobody.
            return Answer::Go(self.tuning.launches);
        };
        own.last_active_tick.store(tick(now), Ordering::Relaxed);
        bucket::reprice(&own.tat, clock(now), terms.share_milli.max(1));
        let burst = bucket::wall(self.tuning.burst, terms.share_milli.max(1));
        let waits_since = self.wishes.since(now);
        let most = if self.wanting && (self.held.is_some() || waits_since.is_some()) {
            // Who waits saves up for as long as he does.
            let waited = now.saturating_sub(waits_since.unwrap_or(now));
            burst.max(clock(self.tuning.saved)).saturating_add(clock(waited))
        } else {
            burst
        };
        self.wanting = true;
        bucket::cut_credit(&own.tat, clock(now), most);
        match self.tend(chip, terms, now) {
            Tended::Busy(answer) => return answer,
            Tended::Holds { held, waited } => return self.grant(held, waited, now, load),
            Tended::Free => {}
        }
        if self.forced {
            self.forced = false;
            return Answer::Go(1);
        }
        if self.since > 0 && self.marks.count() < marks::MOST {
            return Answer::Mark;
        }
        let credit = bucket::credit(&own.tat, clock(now));
        let others = Line::of(chip, terms, now, credit, false);
        if !may_run(terms, credit, &others) {
            let due = now.saturating_add(u64::try_from(credit.saturating_neg()).unwrap_or(0));
            let look = now.saturating_add(self.tuning.look);
            // Others' wishes change without notice; one's own debt only with the share, which is to hold within a lease.
            let hard = due.clamp(now + 1, now.saturating_add(self.tuning.lease));
            return Answer::Wait(if terms.mode == Mode::Hard { hard } else { look });
        }
        own.waiting_until.store(tick(now + 2 * self.tuning.look), Ordering::Relaxed);
        reached(Step::WaitSaid);
        self.take(word, own, terms, others.before, now)
    }

    /// Takes the lease if it is free and this claim's turn.
    fn take(&mut self, word: &AtomicU64, own: &DeviceEntry, terms: &Terms, before: u32, now: u64) -> Answer {
        let (now_tick, grace) = (tick(now), self.tuning.grace_ticks());
        if !lease::read(word).is_free(now_tick, grace) {
            self.free_since = None;
            self.yields = false;
            return Answer::Wait(now + self.tuning.look);
        }
        // The first in line takes it at once; the others only if those before them do not come.
        let places = u64::from(before) + u64::from(self.yields);
        let turn = self.free_since.get_or_insert(now).saturating_add(places * TURN);
        if now < turn {
            return Answer::Wait(turn);
        }
        let Some(held) = lease::take(word, terms.entry, now_tick, tick(now + self.length()), grace) else {
            return Answer::Wait(now + self.tuning.look);
        };
        self.held = Some(held);
        self.free_since = None;
        self.yields = false;
        self.opens = true;
        self.leases += 1;
        own.waiting_until.store(now_tick, Ordering::Relaxed);
        Answer::Mark
    }

    /// Decides for the helper thread, which wants nothing: idle leases go back, busy ones are kept alive.
    pub fn look<C: ChipTable>(&mut self, chip: &C, terms: &Terms, now: u64) -> Answer {
        let held = match self.tend(chip, terms, now) {
            Tended::Busy(answer) => return answer,
            Tended::Holds { held, .. } => held,
            Tended::Free => {
                // A thread that waits goes on saving up.
                self.wanting = self.wishes.since(now).is_some();
                return Answer::Rest;
            }
        };
        if self.since > 0 {
            return Answer::Mark;
        }
        let idle_at = self.last_work + self.tuning.idle;
        if self.marks.count() == 0 && now >= idle_at && !self.is_entered(now) {
            if let Some(word) = chip.lease() {
                lease::release(word, held);
            }
            self.held = None;
            self.wanting = false;
            return Answer::Rest;
        }
        let idle = self.marks.count() == 0 && now < idle_at;
        Answer::Wait(if idle { idle_at } else { now + self.tuning.look / 4 })
    }

    /// What has to be done with a lease whether or not anybody wants to launch.
    fn tend<C: ChipTable>(&mut self, chip: &C, terms: &Terms, now: u64) -> Tended {
        let (Some(mut held), Some(word), Some(own)) = (self.held, chip.lease(), chip.entry(terms.entry))
        else {
            return Tended::Free;
        };
        bucket::reprice(&own.tat, clock(now), terms.share_milli.max(1));
        let credit = bucket::credit(&own.tat, clock(now));
        let expired = ticks_until(held.expiry(), tick(now)) <= 0;
        let others = Line::of(chip, terms, now, credit, true);
        if !self.closing {
            // Who has begun may go one lease into debt, or near the end of every credit the chip would change
            // hands after each kernel.
            let slack = bucket::wall(self.tuning.lease, terms.share_milli.max(1));
            self.closing =
                (expired && others.waiting) || !may_run(terms, credit.saturating_add(slack), &others);
        }
        if self.closing && self.since == 0 && self.marks.count() == 0 && !self.is_entered(now) {
            lease::release(word, held);
            self.held = None;
            self.closing = false;
            self.yields = others.siblings;
            return Tended::Free;
        }
        if expired {
            // Also while draining: who is late is taken for dead.
            let Some(renewed) = lease::renew(word, held, tick(now + self.length())) else {
                self.held = None;
                self.closing = false;
                return Tended::Free;
            };
            held = renewed;
            self.held = Some(held);
        }
        match (self.closing, self.since) {
            (false, _) => Tended::Holds { held, waited: others.waiting },
            (true, 0) => Tended::Busy(Answer::Wait(self.mark_at(now))),
            (true, _) => Tended::Busy(Answer::Mark),
        }
    }

    /// How many launches the holder of the lease may add to its queue.
    fn grant(&self, held: Held, waited: bool, now: u64, load: Load) -> Answer {
        if self.opens || self.since > 0 {
            return Answer::Mark;
        }
        if self.wishes.is_others_turn(load, now, &self.tuning) {
            return Answer::Wait(if self.marks.count() > 0 {
                self.mark_at(now)
            } else {
                now + self.tuning.look / 5
            });
        }
        let queued = self.marks.iter().map(|mark| self.expected(mark)).sum::<u64>();
        let one = if load == Load::Graph { self.graph_ns } else { self.launch_ns };
        if self.marks.any_launches() && (queued >= self.tuning.lease.max(one + 1) || one == 0)
            || self.marks.count() >= marks::MOST - 1
        {
            return Answer::Wait(self.mark_at(now));
        }
        if load == Load::Graph {
            return Answer::Go(1);
        }
        let mut room = self.tuning.lease.saturating_sub(queued).min(self.tuning.lease / 2);
        if waited {
            // No more than fits until the end.
            let left = nanoseconds(ticks_until(held.expiry(), tick(now)));
            if self.marks.any_launches() && left <= queued {
                return Answer::Wait(self.mark_at(now));
            }
            room = room.min(left.saturating_sub(queued));
        }
        let launches = room.checked_div(self.launch_ns).unwrap_or(1);
        let sure = room.checked_div(self.longest_launch_ns).unwrap_or(1);
        let most = sure.min(self.tuning.short_launches.into()).max(self.tuning.launches.into());
        Answer::Go(u32::try_from(launches.clamp(1, most)).unwrap_or(1))
    }

    /// Wall time of the next lease: some launches at least, or handing over would cost more than the work.
    fn length(&self) -> u64 {
        (self.launch_ns.max(self.graph_ns) * LAUNCHES_PER_LEASE)
            .clamp(self.tuning.lease, self.tuning.lease * 10)
    }

    /// Device time of a mark's launches, as far as is known.
    const fn expected(&self, mark: &Mark) -> u64 {
        let kernels = if mark.graph { mark.launches.saturating_sub(1) } else { mark.launches };
        let graph = if mark.graph { self.graph_ns } else { 0 };
        (kernels as u64).saturating_mul(self.launch_ns).saturating_add(graph)
    }

    /// When to look for the next mark: just before it is expected, then often, then ever less so. Each microsecond
    /// between the end of a queue and its discovery is one in which the chip does nothing.
    fn mark_at(&self, now: u64) -> u64 {
        let length = self.marks.oldest().map_or(0, |mark| self.expected(mark));
        let expected = self.running_since.saturating_add(length);
        let sure = expected.saturating_sub(SPIN);
        if now < sure {
            // Kernels differ: the queue may be short of work before.
            return sure.min(now + self.tuning.look / 5);
        }
        now + (now.saturating_sub(expected) / 4).clamp(SPIN / 16, self.tuning.look / 4)
    }
}

/// Waits shorter than this are spun by the caller, because a sleep ends later than that.
pub const SPIN: u64 = 80_000;

/// A launch that takes longer than this on its way into the vendor's queue is not waited for.
const LONGEST_LAUNCH: u64 = 2_000_000_000;

/// Nobody waits longer for one launch, however long his kernels are.
const MOST_PATIENCE: u64 = 120_000_000_000;

/// A lease is long enough for so many launches, up to ten times its length.
const LAUNCHES_PER_LEASE: u64 = 16;

/// Nanoseconds that each place in the line waits longer for a lease that is free.
const TURN: u64 = 100_000;
