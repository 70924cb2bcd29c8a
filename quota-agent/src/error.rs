//! What can go wrong with regions on a node. Each error names the object and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use vnpu_driver::id::{ClaimUid, DeviceUuid};

/// Why the agent could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}; check that the runtime directory exists, is writable and has space", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A region file is not what this version can work with.
    #[error("region {} is unusable: {problem}; unprepare the claim so that it is made anew", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The claim has no regions here.
    #[error("claim {0} has no regions on this node")]
    UnknownClaim(ClaimUid),
    /// The shares cannot be written into a region.
    #[error("shares of claim {claim} are not usable: {problem}")]
    BadShares {
        /// Whose shares.
        claim: ClaimUid,
        /// What is wrong with them.
        problem: &'static str,
    },
    /// Regions of the claim exist for other chips than asked for now.
    #[error("claim {0} already has regions for other chips; unprepare it first")]
    Mismatch(ClaimUid),
    /// All entries of the chip's region are taken.
    #[error("chip {0} already serves the greatest number of claims; unprepare one of them")]
    DeviceFull(DeviceUuid),
}

impl AgentError {
    /// Whether trying again later can help without anybody changing the input.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::DeviceFull(_))
    }

    /// Stable low-cardinality word for metrics and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "region_io",
            Self::Invalid { .. } => "region_invalid",
            Self::UnknownClaim(_) => "region_unknown_claim",
            Self::BadShares { .. } => "region_bad_shares",
            Self::Mismatch(_) => "region_mismatch",
            Self::DeviceFull(_) => "region_device_full",
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_path_buf(), source: source.into() }
    }
}
