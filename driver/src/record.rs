//! The life of a claim on this node as records of an append-only log: what a record says, how records fold to
//! the present state, and what is to be done next. Framing, checksums and fsync are the store's.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::ClaimUid;
use crate::plan::PreparePlan;
use crate::time::WallTime;

/// Version of the payload that this code writes, and the newest that it reads. Fields may be added without
/// raising it (unknown ones are passed over); it is raised when an old reader would do harm.
pub const RECORD_VERSION: u32 = 1;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event")]
pub enum Event {
    /// The log was opened on this boot of the node.
    Boot {
        /// `/proc/sys/kernel/random/boot_id`.
        boot_id: String,
    },
    /// Side effects of a Prepare begin.
    PrepareStarted {
        /// What is being made.
        plan: PreparePlan,
    },
    /// Side effects of the Prepare are all there.
    PrepareCompleted {
        /// What was made.
        plan: PreparePlan,
    },
    /// The undoing begins.
    UnprepareStarted {
        /// What is being undone.
        plan: PreparePlan,
    },
    /// Nothing is left of the claim but this.
    Unprepared {
        /// Whose tombstone.
        claim: ClaimUid,
    },
    /// A tombstone's time is over.
    Forgotten {
        /// Whose.
        claim: ClaimUid,
    },
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the payload.
    pub version: u32,
    /// When it was written.
    pub time: WallTime,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Why the bytes of a record, whose checksum is right, are no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A newer version of this program wrote it.
    #[error(
        "the checkpoint has a record of version {found}, this program reads up to {RECORD_VERSION}: run the \
         newer version again, or drain the node and remove the state directory"
    )]
    Newer {
        /// The version found.
        found: u64,
    },
    /// It is not what any version wrote.
    #[error("the checkpoint has a record that cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl RecordError {
    /// Whether another try may succeed: never, the bytes stay.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word for metrics and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Newer { .. } => "record_newer",
            Self::Malformed(_) => "record_malformed",
        }
    }
}

impl Record {
    /// A record of the present version.
    pub const fn new(time: WallTime, event: Event) -> Self {
        Self { version: RECORD_VERSION, time, event }
    }

    /// The payload for the log: JSON.
    ///
    /// # Errors
    /// None that these types can cause; serde's signature has one.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Reads a payload; unknown fields are passed over.
    ///
    /// # Errors
    /// [`RecordError::Newer`] for a version above ours, [`RecordError::Malformed`] for anything else.
    pub fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Head {
            version: u64,
        }
        let head: Head = serde_json::from_slice(payload)?;
        if head.version > u64::from(RECORD_VERSION) {
            return Err(RecordError::Newer { found: head.version });
        }
        Ok(serde_json::from_slice(payload)?)
    }
}

/// Where a claim stands on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimState {
    /// A Prepare began and did not end.
    PrepareStarted(PreparePlan),
    /// Everything of the plan is there.
    PrepareCompleted(PreparePlan),
    /// An Unprepare began and did not end.
    UnprepareStarted(PreparePlan),
    /// Unprepared at that time.
    Unprepared(WallTime),
}

impl ClaimState {
    /// The plan, while anything of it may be there: what counts as use of chips.
    pub const fn plan(&self) -> Option<&PreparePlan> {
        match self {
            Self::PrepareStarted(plan) | Self::PrepareCompleted(plan) | Self::UnprepareStarted(plan) => {
                Some(plan)
            }
            Self::Unprepared(_) => None,
        }
    }
}

/// The present state: all records folded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    boot_id: Option<String>,
    claims: BTreeMap<ClaimUid, (ClaimState, WallTime)>,
}

impl Checkpoint {
    /// The state after `records`, oldest first.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut state = Self::default();
        for record in records {
            state.apply(record);
        }
        state
    }

    /// Takes one more record in. The newest record of a claim is what holds, whatever came before: a log that
    /// lost its tail or was rebuilt is still a log.
    pub fn apply(&mut self, record: &Record) {
        let time = record.time;
        let (claim, state) = match &record.event {
            Event::Boot { boot_id } => {
                self.boot_id = Some(boot_id.clone());
                return;
            }
            Event::Forgotten { claim } => {
                self.claims.remove(claim);
                return;
            }
            Event::PrepareStarted { plan } => (&plan.claim, ClaimState::PrepareStarted(plan.clone())),
            Event::PrepareCompleted { plan } => (&plan.claim, ClaimState::PrepareCompleted(plan.clone())),
            Event::UnprepareStarted { plan } => (&plan.claim, ClaimState::UnprepareStarted(plan.clone())),
            Event::Unprepared { claim } => (claim, ClaimState::Unprepared(time)),
        };
        self.claims.insert(claim.clone(), (state, time));
    }

    /// The boot that the log was last opened on.
    pub fn boot_id(&self) -> Option<&str> {
        self.boot_id.as_deref()
    }

    /// Where a claim stands; `None` when nothing is known of it.
    pub fn state(&self, claim: &ClaimUid) -> Option<&ClaimState> {
        self.claims.get(claim).map(|(state, _)| state)
    }

    /// All claims that something is known of, by UID.
    pub fn states(&self) -> impl Iterator<Item = (&ClaimUid, &ClaimState)> {
        self.claims.iter().map(|(uid, (state, _))| (uid, state))
    }

    /// The plans that count as use of this node's chips.
    pub fn plans(&self) -> impl Iterator<Item = &PreparePlan> {
        self.claims.values().filter_map(|(state, _)| state.plan())
    }

    /// The fewest records that fold to this state: what compaction writes.
    pub fn compact(&self, now: WallTime) -> Vec<Record> {
        let boot = self.boot_id.iter().map(|id| Record::new(now, Event::Boot { boot_id: id.clone() }));
        let claims = self.claims.iter().map(|(uid, (state, time))| {
            let event = match state.clone() {
                ClaimState::PrepareStarted(plan) => Event::PrepareStarted { plan },
                ClaimState::PrepareCompleted(plan) => Event::PrepareCompleted { plan },
                ClaimState::UnprepareStarted(plan) => Event::UnprepareStarted { plan },
                ClaimState::Unprepared(_) => Event::Unprepared { claim: uid.clone() },
            };
            Record::new(*time, event)
        });
        boot.chain(claims).collect()
    }

    /// Tombstones older than `age` at `now`: the caller writes [`Event::Forgotten`] for them.
    pub fn expired_tombstones(&self, now: WallTime, age: Duration) -> Vec<ClaimUid> {
        self.claims
            .iter()
            .filter(|(_, (state, _))| matches!(state, ClaimState::Unprepared(at) if now.since(*at) > age))
            .map(|(uid, _)| uid.clone())
            .collect()
    }
}

/// What a Prepare does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrepareStep {
    /// Answer from the stored plan (after looking that CDI file and regions are there). Never refused.
    Answer(PreparePlan),
    /// An earlier attempt did not end: finish what `Undo` means (remove CDI file, then regions), then go on
    /// as with `Fresh`.
    Redo(PreparePlan),
    /// Read the claim and plan.
    Fresh,
    /// As `Fresh`, and first [`crate::prepare::check_after_tombstone`].
    AfterTombstone,
}

/// What a Prepare does next with a claim in `state`.
pub fn next_prepare(state: Option<&ClaimState>) -> PrepareStep {
    match state {
        None => PrepareStep::Fresh,
        Some(ClaimState::PrepareCompleted(plan)) => PrepareStep::Answer(plan.clone()),
        Some(ClaimState::PrepareStarted(plan) | ClaimState::UnprepareStarted(plan)) => {
            PrepareStep::Redo(plan.clone())
        }
        Some(ClaimState::Unprepared(_)) => PrepareStep::AfterTombstone,
    }
}

/// What an Unprepare does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnprepareStep {
    /// Nothing is here: success at once.
    Done,
    /// Write `UnprepareStarted`, remove the CDI file, remove the regions, write `Unprepared`.
    Start(PreparePlan),
    /// `UnprepareStarted` is written: go on with the removal.
    Continue(PreparePlan),
}

/// What an Unprepare does next with a claim in `state`. Success for an unknown claim still means that the
/// shell removes what may lie under the UID: files are observed, not remembered.
pub fn next_unprepare(state: Option<&ClaimState>) -> UnprepareStep {
    match state {
        None | Some(ClaimState::Unprepared(_)) => UnprepareStep::Done,
        Some(ClaimState::PrepareStarted(plan) | ClaimState::PrepareCompleted(plan)) => {
            UnprepareStep::Start(plan.clone())
        }
        Some(ClaimState::UnprepareStarted(plan)) => UnprepareStep::Continue(plan.clone()),
    }
}

/// What is to be done with one claim at the start of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// Half made or half undone: remove the CDI file, then the regions, then write `Unprepared`.
    Undo(PreparePlan),
    /// Make sure that CDI file and regions are there, made from the plan where they are not.
    Ensure {
        /// What must be there.
        plan: PreparePlan,
        /// Whether the node booted since: then nothing of `/run` is left, and what the API server says is
        /// not allocated any more need not be made again.
        rebooted: bool,
    },
}

/// What is to be done at the start, on boot `boot_id`. Pure and idempotent: done twice, or again after a kill
/// in the middle, it ends in the same state.
pub fn recover(state: &Checkpoint, boot_id: &str) -> Vec<Recovery> {
    let rebooted = state.boot_id().is_some_and(|known| known != boot_id);
    state
        .states()
        .filter_map(|(_, claim)| match claim {
            ClaimState::PrepareStarted(plan) | ClaimState::UnprepareStarted(plan) => {
                Some(Recovery::Undo(plan.clone()))
            }
            ClaimState::PrepareCompleted(plan) => Some(Recovery::Ensure { plan: plan.clone(), rebooted }),
            ClaimState::Unprepared(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
