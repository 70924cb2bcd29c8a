//! The agent itself: one runtime directory and every region in it.

use std::path::{Path, PathBuf};

use vnpu_driver::hardware::{Chip, ProcessView};
use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::quantity::Bytes;
use vnpu_driver::share::ClaimShares;

use crate::{AgentError, Attached, ClaimRegions, ClaimUsage, LedgerCheck, ReapReport};

/// Owner of the regions under one runtime directory: `claims/<uid>/{quota,usage}` and `devices/<uuid>`.
#[derive(Debug)]
pub struct Agent {
    root: PathBuf,
}

impl Agent {
    /// Opens `runtime_dir` (made if absent) and takes up the regions that are already there.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(runtime_dir: impl AsRef<Path>) -> Result<Self, AgentError> {
        Ok(Self { root: runtime_dir.as_ref().to_path_buf() })
    }

    /// Makes the regions of one claim, or brings existing ones to these shares; processes that are attached
    /// keep their slots and bytes.
    ///
    /// # Errors
    /// Unusable shares, regions of the same claim for other chips, a chip with too many claims, I/O.
    pub fn create(&self, shares: &ClaimShares) -> Result<ClaimRegions, AgentError> {
        Err(AgentError::UnknownClaim(shares.claim.clone()))
    }

    /// Removes the regions of one claim; a chip's region goes with its last claim. A claim that has none is fine.
    ///
    /// # Errors
    /// I/O; what was removed stays removed and a retry goes on.
    pub fn remove(&self, claim: &ClaimUid) -> Result<(), AgentError> {
        Err(AgentError::UnknownClaim(claim.clone()))
    }

    /// The claims that have regions here, sorted.
    ///
    /// # Errors
    /// The runtime directory cannot be read.
    pub fn claims(&self) -> Result<Vec<ClaimUid>, AgentError> {
        Err(AgentError::io("list", &self.root, std::io::ErrorKind::Unsupported))
    }

    /// Where the claim's regions are; `None` when it has none.
    ///
    /// # Errors
    /// The regions exist and are not readable.
    pub fn regions(&self, claim: &ClaimUid) -> Result<Option<ClaimRegions>, AgentError> {
        Err(AgentError::UnknownClaim(claim.clone()))
    }

    /// What the claim uses now, by its ledger.
    ///
    /// # Errors
    /// The claim has no regions, or they are unusable.
    pub fn usage(&self, claim: &ClaimUid) -> Result<ClaimUsage, AgentError> {
        Err(AgentError::UnknownClaim(claim.clone()))
    }

    /// Whether a living process of the claim has a slot.
    ///
    /// # Errors
    /// The claim has no regions, or they are unusable.
    pub fn attached(&self, claim: &ClaimUid) -> Result<Attached, AgentError> {
        Err(AgentError::UnknownClaim(claim.clone()))
    }

    /// Changes the effective memory quota of one chip in place; attached processes see it at their next
    /// allocation. What is allocated beyond a lowered quota stays until it is freed.
    ///
    /// # Errors
    /// The claim has no regions or no share of the chip; I/O.
    pub fn set_memory(&self, claim: &ClaimUid, chip: &DeviceUuid, _memory: Bytes) -> Result<(), AgentError> {
        Err(AgentError::UnknownChip { claim: claim.clone(), chip: chip.clone() })
    }

    /// Gives back the slots of dead processes in all claims.
    ///
    /// # Errors
    /// The runtime directory cannot be read; a single unreadable claim is in the report instead.
    pub fn reap(&self) -> Result<ReapReport, AgentError> {
        Err(AgentError::io("list", &self.root, std::io::ErrorKind::Unsupported))
    }

    /// Compares the ledgers of all claims on `chip` with the vendor library's numbers.
    ///
    /// # Errors
    /// The runtime directory or the vendor's numbers cannot be read.
    pub fn check(&self, chip: &Chip, view: &dyn ProcessView) -> Result<LedgerCheck, AgentError> {
        let _ = (chip, view);
        Err(AgentError::io("list", &self.root, std::io::ErrorKind::Unsupported))
    }
}
