//! Points in time as values: the planner is told what time it is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time: how long after an epoch that the caller keeps to (the controller: 1970; the simulator: its start).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub Duration);

impl Moment {
    /// How long `earlier` lies back; zero when it does not.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The point so much later.
    pub const fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}
