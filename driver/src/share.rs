//! The unit of enforcement: what one claim may use of one chip. The quotas of a claim's results on one chip
//! are added, and all containers of the claim share them.

use serde::{Deserialize, Serialize};

use crate::id::{ClaimUid, DeviceUuid};
use crate::quantity::{Bytes, Percent};

/// How compute over the share is treated (`SharePolicy.compute.mode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ComputeMode {
    /// Never above the share.
    #[default]
    Hard,
    /// Above it while nobody else wants the chip.
    Elastic,
    /// Only what others leave.
    BestEffort,
}

/// What happens to allocations when the quota cannot be read (`SharePolicy.memory.onFailure`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Refuse them.
    #[default]
    Closed,
    /// Let them pass, counted.
    Open,
}

/// Who pays for runtime overhead that is no allocation of the program (`SharePolicy.memory.overhead`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overhead {
    /// The claim's quota.
    #[default]
    Charge,
    /// Headroom beside the quota.
    Headroom,
}

/// What one claim may use of one chip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChipShare {
    /// Which chip.
    pub uuid: DeviceUuid,
    /// The number in the device node's name.
    pub phys_id: u32,
    /// Device memory.
    pub memory: Bytes,
    /// Percent of the chip's compute, 1 to 100.
    pub cores: Percent,
    /// Treatment of compute over the share.
    pub mode: ComputeMode,
    /// Order among the admissible, 0 to 10.
    pub priority: u8,
    /// Treatment of allocations when the quota cannot be read.
    pub on_failure: OnFailure,
    /// Who pays for overhead.
    pub overhead: Overhead,
}

/// Everything one claim may use on this node: what the regions are made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimShares {
    /// Whose shares.
    pub claim: ClaimUid,
    /// One entry per chip, sorted by uuid, no chip twice.
    pub chips: Vec<ChipShare>,
}
