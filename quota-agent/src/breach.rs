//! Whether a claim keeps within its quota by the vendor's word, judged over several rounds. Pure and bounded; what
//! is done about a breach is decided by the claim's policy elsewhere.

use std::collections::BTreeMap;

use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::quantity::Bytes;

use crate::ledger::{Balance, OnChip, Samples, Slot, balance};

/// When use beyond the ledger is a breach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes beside the quota that each attached process may have: its overhead is only known after it began, when
    /// the quota may be full, and with `headroom` it does not count at all.
    pub per_process: Bytes,
    /// Rounds in a row, at least 1, before anything is said: processes begin, end and are measured at other moments.
    pub rounds: u32,
}

impl Default for Limits {
    /// One GiB, three rounds.
    fn default() -> Self {
        Self { per_process: Bytes(1 << 30), rounds: 3 }
    }
}

/// What is known of one claim on one chip in one round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The most that the claim was ever promised of the chip. A quota that was lowered while memory was in use does
    /// not make a breach of it.
    pub promised: Bytes,
    /// Slots that somebody has.
    pub slots: BTreeMap<usize, Slot>,
    /// The claim's processes on the chip.
    pub processes: Vec<OnChip>,
}

/// What is to be held of a claim on a chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is wrong, or not for long enough.
    Within,
    /// All processes are attached, and together have more than they can have.
    Breach {
        /// The most that the quota and overhead allow.
        allowed: Bytes,
        /// The process that has most beyond its own ledger.
        offenders: Vec<OnChip>,
    },
    /// Processes use the chip without being in the ledger.
    Bypass {
        /// These, in the order of their numbers.
        offenders: Vec<OnChip>,
    },
}

impl Verdict {
    /// The processes that cause it.
    pub fn offenders(&self) -> &[OnChip] {
        match self {
            Self::Within => &[],
            Self::Breach { offenders, .. } | Self::Bypass { offenders } => offenders,
        }
    }
}

/// One round's judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The numbers.
    pub balance: Balance,
    /// What follows.
    pub verdict: Verdict,
    /// Whether the verdict is a breach or bypass that the last round's was not.
    pub begun: bool,
}

/// What is remembered of one claim on one chip.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct History {
    samples: Samples,
    // Rounds in a row over what is allowed.
    over: u32,
    // Rounds in a row outside, of processes that are outside now.
    outside: BTreeMap<(u32, u64), u32>,
    wrong: bool,
}

/// The rounds so far. What is remembered is bounded by claims, chips, slots, and the processes of the last round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    histories: BTreeMap<(ClaimUid, DeviceUuid), History>,
}

impl Watch {
    /// Judges one claim on one chip after one more round.
    pub fn judge(
        &mut self,
        limits: &Limits,
        claim: &ClaimUid,
        chip: &DeviceUuid,
        facts: &Facts,
    ) -> Judgement {
        let history = self.histories.entry((claim.clone(), chip.clone())).or_default();
        let balance = balance(&facts.slots, &facts.processes, &mut history.samples);
        let before = std::mem::take(&mut history.outside);
        for process in &balance.outside {
            let key = (process.pid, process.starttime);
            history.outside.insert(key, before.get(&key).copied().unwrap_or(0).saturating_add(1));
        }
        let beside = limits.per_process.0.saturating_mul(balance.attached.into());
        let allowed = Bytes(facts.promised.0.saturating_add(beside));
        history.over = if balance.vendor > allowed { history.over.saturating_add(1) } else { 0 };

        let long = |rounds: u32| rounds >= limits.rounds.max(1);
        let lasting = |p: &&OnChip| history.outside.get(&(p.pid, p.starttime)).is_some_and(|r| long(*r));
        let mut outside: Vec<OnChip> = balance.outside.iter().filter(lasting).copied().collect();
        outside.sort_by_key(|p| p.pid);
        let verdict = if !outside.is_empty() {
            Verdict::Bypass { offenders: outside }
        } else if long(history.over) {
            Verdict::Breach { allowed, offenders: worst(facts).into_iter().collect() }
        } else {
            Verdict::Within
        };
        let wrong = verdict != Verdict::Within;
        let begun = wrong && !history.wrong;
        history.wrong = wrong;
        Judgement { balance, verdict, begun }
    }

    /// Forgets the claims that are not `wanted`.
    pub fn keep(&mut self, wanted: impl Fn(&ClaimUid) -> bool) {
        self.histories.retain(|(claim, _), _| wanted(claim));
    }
}

/// The process that has most beyond what it says; the ledger is the tenant's own word.
fn worst(facts: &Facts) -> Option<OnChip> {
    let beyond = |p: &&OnChip| {
        let says = p.slot.and_then(|slot| facts.slots.get(&slot)).map_or(0, |s| s.after.committed);
        p.bytes.0.saturating_sub(says)
    };
    facts.processes.iter().max_by_key(beyond).copied()
}

#[cfg(test)]
mod tests;
