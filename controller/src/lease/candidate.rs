//! What one candidate for a lease does next, and what it makes of the answers. No I/O and no clock: instants are
//! arguments, so that tests can let hours pass and let messages be late or lost.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Timing;

/// Microseconds since 1970, written into the Lease for people to read.
pub type WallClock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What a Lease says. Two records that are equal are the same sign of life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; none when it was given back.
    pub holder: Option<String>,
    /// For how long the holder promised to be gone before others take it.
    pub lease: Option<Duration>,
    /// When the holder got it, by the holder's clock.
    pub acquired: Option<i64>,
    /// When the holder last renewed it, by the holder's clock.
    pub renewed: Option<i64>,
    /// How often it went from one to another.
    pub transitions: i32,
}

/// What the Lease was when it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// There is none.
    Absent,
    /// There is one.
    Present {
        /// What it says.
        record: Record,
        /// Its `resourceVersion`: a write against another one fails.
        version: String,
        /// When this process first saw it say so.
        since: Instant,
    },
}

/// What to do about a Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make it.
    Create,
    /// Keep it.
    Renew,
    /// Take it from nobody, or from somebody who shows no life.
    Take,
    /// It is somebody else's, at least until then.
    Wait(Instant),
}

/// What `me` does about a lease that looks like `seen` at `now`.
pub fn next(seen: &Seen, me: &str, timing: Timing, now: Instant) -> Action {
    let Seen::Present { record, since, .. } = seen else { return Action::Create };
    match &record.holder {
        None => Action::Take,
        Some(holder) if holder == me => Action::Renew,
        Some(_) => {
            // The longer of the two: neither a holder with shorter leases nor one with longer ones is cut short.
            let until = *since + record.lease.unwrap_or(timing.lease).max(timing.lease);
            if now < until { Action::Wait(until) } else { Action::Take }
        }
    }
}

/// A request to the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// None until the next round.
    Rest,
    /// Read the Lease.
    Read,
    /// Make it.
    Create(Record),
    /// Replace it, if it still has this `resourceVersion`.
    Replace {
        /// The `resourceVersion`.
        version: String,
        /// What it shall say.
        wanted: Record,
    },
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There is no Lease.
    Absent,
    /// It was read.
    Found {
        /// What it says.
        record: Record,
        /// Its `resourceVersion`.
        version: String,
    },
    /// It was written.
    Written {
        /// What it says now.
        record: Record,
        /// Its `resourceVersion` now.
        version: String,
    },
    /// Somebody else was faster.
    Conflict,
    /// Nobody knows.
    Failed,
}

/// One process that wants a lease.
pub struct Candidate {
    me: String,
    timing: Timing,
    campaigning: bool,
    wall_clock: WallClock,
    seen: Option<Seen>,
    /// Whether what was seen may be out of date, so that it is read before the next decision.
    stale: bool,
    /// Whether this round's write is done.
    done: bool,
    held_until: Option<Instant>,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("me", &self.me)
            .field("seen", &self.seen)
            .field("held_until", &self.held_until)
            .finish_non_exhaustive()
    }
}

impl Candidate {
    /// A candidate called `me`, which no other process may be called. One that is not `campaigning` only looks.
    pub fn new(me: String, timing: Timing, campaigning: bool, wall_clock: WallClock) -> Self {
        Self { me, timing, campaigning, wall_clock, seen: None, stale: true, done: false, held_until: None }
    }

    /// Its timing.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Until when it may act as the leader without another renewal. May be past.
    pub fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// Until when somebody is believed to lead.
    pub fn somebody_until(&self) -> Option<Instant> {
        match &self.seen {
            Some(Seen::Present { record, since, .. }) if record.holder.is_some() => {
                Some(*since + record.lease.unwrap_or(self.timing.lease))
            }
            _ => None,
        }
    }

    /// How long the answer to a request that starts at `now` is waited for: a leader needs time for another try before
    /// it must stop.
    pub fn patience(&self, now: Instant) -> Duration {
        let most = self.timing.renew / 2;
        match self.held_until {
            Some(until) if until > now => most.min(until - now),
            _ => most,
        }
    }

    /// The next request. After [`Step::Rest`] a new round begins.
    pub fn next(&mut self, now: Instant) -> Step {
        if std::mem::take(&mut self.done) {
            // A leader's own last write is what it knows best; everybody else looks anew.
            self.stale |= self.held_until.is_none_or(|until| until <= now);
            return Step::Rest;
        }
        let seen = match &self.seen {
            Some(seen) if !self.stale => seen,
            _ => return Step::Read,
        };
        let action =
            if self.campaigning { next(seen, &self.me, self.timing, now) } else { Action::Wait(now) };
        let wanted = match action {
            Action::Wait(_) => {
                self.stale = true;
                return Step::Rest;
            }
            Action::Create | Action::Renew | Action::Take => self.wanted(seen, action),
        };
        match seen {
            Seen::Absent => Step::Create(wanted),
            Seen::Present { version, .. } => Step::Replace { version: version.clone(), wanted },
        }
    }

    /// Takes in what came of the request that was sent at `started`.
    pub fn take(&mut self, started: Instant, now: Instant, answer: Answer) {
        match answer {
            Answer::Absent => {
                self.seen = Some(Seen::Absent);
                self.stale = false;
                self.held_until = None;
            }
            Answer::Found { record, version } => {
                if record.holder.as_deref() != Some(self.me.as_str()) {
                    self.held_until = None;
                }
                self.see(record, version, now);
            }
            Answer::Written { record, version } => {
                // From before the request: others may have seen it as early as that.
                self.held_until =
                    (record.holder.as_deref() == Some(self.me.as_str())).then(|| started + self.timing.renew);
                self.see(record, version, now);
                self.done = true;
            }
            Answer::Conflict => self.stale = true,
            Answer::Failed => {
                self.stale = true;
                self.done = false;
            }
        }
    }

    /// The request that gives the lease back, if it is held. Afterwards this candidate has nothing.
    pub fn release(&mut self) -> Option<Step> {
        let held = self.held_until.take().is_some();
        self.campaigning = false;
        match &self.seen {
            Some(Seen::Present { record, version, .. })
                if held && record.holder.as_deref() == Some(self.me.as_str()) =>
            {
                let wanted = Record {
                    holder: None,
                    lease: Some(Duration::from_secs(1)),
                    renewed: Some((self.wall_clock)()),
                    ..record.clone()
                };
                Some(Step::Replace { version: version.clone(), wanted })
            }
            _ => None,
        }
    }

    fn wanted(&self, seen: &Seen, action: Action) -> Record {
        let now = (self.wall_clock)();
        let (acquired, renewed, transitions) = match (seen, action) {
            (Seen::Present { record, .. }, Action::Renew) => {
                // A clock that stands still must not make a renewal look like none.
                let renewed = if record.renewed == Some(now) { now.saturating_add(1) } else { now };
                (record.acquired.unwrap_or(now), renewed, record.transitions)
            }
            (Seen::Present { record, .. }, _) => (now, now, record.transitions.saturating_add(1)),
            (Seen::Absent, _) => (now, now, 0),
        };
        Record {
            holder: Some(self.me.clone()),
            lease: Some(self.timing.lease),
            acquired: Some(acquired),
            renewed: Some(renewed),
            transitions,
        }
    }

    fn see(&mut self, record: Record, version: String, now: Instant) {
        // A change of labels is no sign of life, so the record is compared and not the version.
        let since = match &self.seen {
            Some(Seen::Present { record: before, since, .. }) if *before == record => *since,
            _ => now,
        };
        self.seen = Some(Seen::Present { record, version, since });
        self.stale = false;
    }
}
