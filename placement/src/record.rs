//! Recordings: every input of the planner as one line of JSON, and the same planner run again over them. Where the
//! lines go is the caller's business.

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, BatchKey};
use crate::decision::Decision;
use crate::moment::Moment;
use crate::planner::{Config, Planner};
use crate::queue::Entry;
use crate::view::{Change, ViewSnapshot};

/// Takes the lines of a recording.
pub trait Sink {
    /// One line, without its end.
    fn line(&mut self, line: &str);
}

/// Everything that a planner knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The configuration.
    pub config: Config,
    /// The number of the next reservation.
    pub next_order: u64,
    /// The view.
    pub view: ViewSnapshot,
    /// The queue, in order.
    pub queue: Vec<Entry>,
}

/// One line of a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Input {
    /// Everything known when the recording began.
    Snapshot(Box<Snapshot>),
    /// News of the cluster.
    Change(Change),
    /// A batch was entered.
    Submit {
        /// The batch.
        batch: Batch,
        /// When.
        now: Moment,
    },
    /// A batch was taken out.
    Withdraw {
        /// Which.
        batch: BatchKey,
    },
    /// A decision was asked for.
    Decide {
        /// When.
        now: Moment,
    },
    /// What was decided; told so that a replay can be compared, and no input.
    Decided(Box<Decision>),
}

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A line is no input of this version.
    #[error(
        "line {line} of the recording is not an input of this version: {source}; replay it with the version that recorded it"
    )]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl ReplayError {
    /// Whether the same recording may be readable later.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// For metrics and events.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Line { .. } => "UnreadableRecording",
        }
    }
}

/// An input as a line. Serialising these types cannot fail: they hold no maps with keys that are no texts.
pub(crate) fn line(input: &Input) -> String {
    serde_json::to_string(input).unwrap_or_default()
}

/// Runs a recording again; the decisions in order. Of the same recording they are the same, byte for byte.
///
/// # Errors
/// [`ReplayError::Line`] for a line that is no input.
pub fn replay<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Vec<Decision>, ReplayError> {
    let mut planner = Planner::default();
    let mut decisions = Vec::new();
    for (number, text) in (1..).zip(lines) {
        if text.trim().is_empty() {
            continue;
        }
        let input =
            serde_json::from_str(text).map_err(|source| ReplayError::Line { line: number, source })?;
        match input {
            Input::Snapshot(snapshot) => planner = Planner::restore(*snapshot),
            Input::Change(change) => planner.update(change),
            Input::Submit { batch, now } => planner.submit(batch, now),
            Input::Withdraw { batch } => planner.withdraw(&batch),
            Input::Decide { now } => decisions.extend(planner.decide(now)),
            Input::Decided(_) => {}
        }
    }
    Ok(decisions)
}
