//! Who wants to launch and may not: kernels and graphs of one process, which leave each other no room in the queue and so
//! take turns by how long they have waited.

use crate::gate::{Load, Tuning};

/// A wish that waits.
#[derive(Debug, Clone, Copy)]
struct Wish {
    since: Option<u64>,
    /// When it was said last: who waits looks again soon, who has gone away does not.
    asked: u64,
}

impl Wish {
    /// Since when it waits; `None` when whoever had it has ended, or gone another way.
    fn since_at(self, now: u64) -> Option<u64> {
        self.since.filter(|_| now.saturating_sub(self.asked) < GONE)
    }
}

/// Who waits and has not asked for so long does not wait any more: a thread looks every few milliseconds, if the system
/// lets it.
const GONE: u64 = 4_000_000_000;

/// The wishes of a process's threads, by what they want to launch.
#[derive(Debug)]
pub(crate) struct Wishes {
    kernels: Wish,
    graphs: Wish,
}

impl Wishes {
    pub(crate) const fn new() -> Self {
        let none = Wish { since: None, asked: 0 };
        Self { kernels: none, graphs: none }
    }

    const fn own(&mut self, load: Load) -> &mut Wish {
        match load {
            Load::Kernel => &mut self.kernels,
            Load::Graph => &mut self.graphs,
        }
    }

    /// Nobody waits with this any more.
    pub(crate) const fn granted(&mut self, load: Load) {
        self.own(load).since = None;
    }

    /// Somebody has to wait with this; since when somebody does.
    pub(crate) fn denied(&mut self, load: Load, now: u64) -> u64 {
        let wish = self.own(load);
        let since = wish.since_at(now).unwrap_or(now);
        *wish = Wish { since: Some(since), asked: now };
        since
    }

    /// Since when somebody waits with anything.
    pub(crate) fn since(&self, now: u64) -> Option<u64> {
        self.kernels.since_at(now).into_iter().chain(self.graphs.since_at(now)).min()
    }

    /// Whether a wish of the other kind has waited for longer, and for long enough.
    pub(crate) fn is_others_turn(&self, load: Load, now: u64, tuning: &Tuning) -> bool {
        let (own, other) = match load {
            Load::Kernel => (self.kernels, self.graphs),
            Load::Graph => (self.graphs, self.kernels),
        };
        other.since.is_some_and(|since| {
            own.since.is_none_or(|own| since < own)
                && now.saturating_sub(since) >= tuning.lease
                && now.saturating_sub(other.asked) < tuning.look * 20
        })
    }
}
