//! The waiting rule: in which order batches are looked at, whether one takes its plan or waits, and when its waiting
//! closes nodes to others. Pure functions, so that another rule can take their place. The figures by which this one was
//! chosen are in `docs/placement.md`.

use std::time::Duration;

use crate::field::Spread;

/// Before whom a batch is looked at, inside its priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turn {
    /// It has waited for the aging bound.
    Aged,
    /// Several pods that fit one empty node: what frees a node is theirs before larger batches scatter over it.
    Compact,
    /// All others.
    Other,
}

/// The turn of a batch; equal turns go by arrival.
pub(crate) fn turn(waited: Duration, aging_bound: Duration, compact: bool) -> Turn {
    if waited >= aging_bound {
        Turn::Aged
    } else if compact {
        Turn::Compact
    } else {
        Turn::Other
    }
}

/// What the rule looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation {
    /// The best plan now; `None` when the batch fits nowhere.
    pub(crate) plan: Option<Spread>,
    /// The best plan on an empty cluster; `None` when it would not fit there either.
    pub(crate) minimum: Option<Spread>,
    /// Members of it lie somewhere already: the others follow them as well as they can.
    pub(crate) growth: bool,
    /// How long it has waited, since its first pod was made.
    pub(crate) waited: Duration,
    /// How long ago it could have been placed first: what the planner adds to its wait.
    pub(crate) put_off: Duration,
    /// How long it is put off for a domain of the smallest size.
    pub(crate) patience: Duration,
    /// How long others may pass it.
    pub(crate) aging_bound: Duration,
}

/// What is done with the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It takes its plan.
    Place,
    /// It waits for a better plan, at most so much longer. Nothing is held for it: nodes take hours to drain, and while
    /// one drains, others have to wait and would hold more.
    WaitForBetter(Duration),
    /// It waits for room. `Some`: nodes are closed for it after so much longer; `None`: they are.
    WaitForRoom(Option<Duration>),
    /// It fits nowhere, however long it waits.
    Never,
}

/// Decides.
pub(crate) fn judge(situation: &Situation) -> Verdict {
    let young = situation.aging_bound.saturating_sub(situation.waited);
    let Some(plan) = situation.plan else {
        if situation.minimum.is_none() {
            return Verdict::Never;
        }
        return Verdict::WaitForRoom((!young.is_zero()).then_some(young));
    };
    let left = situation.patience.saturating_sub(situation.put_off).min(young);
    let best = situation.minimum.is_none_or(|minimum| plan <= minimum);
    if best || situation.growth || left.is_zero() { Verdict::Place } else { Verdict::WaitForBetter(left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        let spread = |superpods, leaves, nodes| Some(Spread { superpods, leaves, nodes });
        let seconds = Duration::from_secs;
        let base = Situation {
            plan: spread(1, 1, 2),
            minimum: spread(1, 1, 1),
            growth: false,
            waited: seconds(100),
            put_off: seconds(10),
            patience: seconds(60),
            aging_bound: seconds(600),
        };
        for (situation, expected) in [
            (base, Verdict::WaitForBetter(seconds(50))),
            (Situation { patience: Duration::ZERO, ..base }, Verdict::Place),
            (Situation { put_off: seconds(60), ..base }, Verdict::Place),
            (Situation { waited: seconds(570), ..base }, Verdict::WaitForBetter(seconds(30))),
            (Situation { waited: seconds(600), ..base }, Verdict::Place),
            (Situation { growth: true, ..base }, Verdict::Place),
            (Situation { plan: spread(1, 1, 1), ..base }, Verdict::Place),
            (Situation { plan: None, ..base }, Verdict::WaitForRoom(Some(seconds(500)))),
            (Situation { plan: None, waited: seconds(600), ..base }, Verdict::WaitForRoom(None)),
            (Situation { plan: None, minimum: None, ..base }, Verdict::Never),
        ] {
            assert_eq!(judge(&situation), expected, "{situation:?}");
        }
        let turns = [turn(seconds(9), seconds(9), false), turn(seconds(8), seconds(9), true)];
        assert!(turns[0] < turns[1] && turns[1] < turn(seconds(8), seconds(9), false));
    }
}
