//! The time of day as a value. The pure crates read no clock: who calls them says what time it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A wall-clock time, as the duration since 1970-01-01 00:00:00 UTC in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(u64);

impl WallTime {
    /// `since_epoch` after the beginning of 1970, cut to whole seconds.
    pub const fn new(since_epoch: Duration) -> Self {
        Self(since_epoch.as_secs())
    }

    /// The duration since the beginning of 1970.
    pub const fn since_epoch(self) -> Duration {
        Duration::from_secs(self.0)
    }

    /// How long `earlier` lies back; zero when it does not (a clock was set back).
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for WallTime {
    /// Times before 1970 read as 1970.
    fn from(time: SystemTime) -> Self {
        Self::new(time.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}
