//! What the agent tells about regions: where they are, what is used, who is attached.

use std::path::PathBuf;
use std::time::Duration;

use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::quantity::{Bytes, Percent};

/// Where the regions of one claim are on the host, for the CDI file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRegions {
    /// The claim's limits; mounted read-only at `/run/vnpu/claims/<uid>/quota`.
    pub quota: PathBuf,
    /// The claim's ledger; mounted writable at `/run/vnpu/claims/<uid>/usage`.
    pub usage: PathBuf,
    /// One region per chip, shared by the claims on it; mounted writable at `/run/vnpu/devices/<uuid>`.
    /// In the order of the shares that they were asked for with, or else were made of.
    pub devices: Vec<(DeviceUuid, PathBuf)>,
}

/// Use of one chip by one claim, as the ledger says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChipUsage {
    /// Which chip.
    pub uuid: DeviceUuid,
    /// The number in the device node's name.
    pub phys_id: u32,
    /// The effective memory quota.
    pub quota: Bytes,
    /// The effective compute quota; 0 stands for none.
    pub cores: Percent,
    /// Bytes of successful allocations.
    pub used: Bytes,
    /// Bytes of allocations that are being made at this moment.
    pub reserved: Bytes,
    /// Bytes of runtime overhead that the agent put on processes.
    pub overhead: Bytes,
    /// Allocations refused because of the quota, since the region was made.
    pub denied: u64,
    /// Frees of pointers that the ledger did not know, since the region was made.
    pub unknown_frees: u64,
    /// Allocations that went round the ledger, since the region was made: let through by the claim's open policy,
    /// or made on chips beside the claim's.
    pub unaccounted: u64,
    /// Allocations refused to processes that found no free slot, since the region was made.
    pub denied_without_slot: u64,
    /// Use of compute.
    pub compute: ComputeUsage,
}

/// Use of one chip's compute by one claim since its regions were made, as its processes counted it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ComputeUsage {
    /// Device time that was measured and charged.
    pub busy: Duration,
    /// Time that threads waited for their turn, all threads added up.
    pub throttled: Duration,
    /// Launches.
    pub launches: u64,
    /// Times that a process took the chip's lease.
    pub leases: u64,
    /// Launches let through because a wait had lasted too long.
    pub forced: u64,
}

/// Use of one claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimUsage {
    /// Whose.
    pub claim: ClaimUid,
    /// One entry per chip, in the order of the shares that the regions were made of.
    pub chips: Vec<ChipUsage>,
    /// Slots whose process lives.
    pub live_slots: u32,
    /// All slots of the region.
    pub slot_count: u32,
    /// Processes that found every slot taken, since the region was made; at most [`MOST_WITHOUT_SLOT`].
    pub without_slot: u32,
    /// Functions of the vendor's that take memory or launch, that its processes asked for by name and got, and that the
    /// interposer does not know, since the region was made: what they do is not limited. Each asking counts.
    pub unhooked_functions: u64,
}

impl ClaimUsage {
    /// Whether a living process of the claim has a slot, and whether others found none.
    pub const fn attached(&self) -> Attached {
        match (self.live_slots, self.without_slot) {
            (0, _) => Attached::Unknown,
            (_, 0) => Attached::True,
            _ => Attached::Crowded,
        }
    }
}

/// No kernel has more processes at a time (`PID_MAX_LIMIT` of Linux). A greater number says only that a tenant
/// wrote it, or that there were far too many.
pub const MOST_WITHOUT_SLOT: u32 = 1 << 22;

/// What a pass over dead processes' slots did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReapReport {
    /// Slots given back.
    pub reaped: u32,
    /// Slots of living processes.
    pub live: u32,
    /// Bytes given back, over all chips.
    pub bytes: Bytes,
    /// Claims whose regions could not be read, with the reason in words. What a tenant did to a ledger's size or
    /// header has been repaired when it is told here, and the next pass reads it again.
    pub unreadable: Vec<(ClaimUid, String)>,
}

/// Whether a process of the claim is held by the interposer (the `Attached` condition).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// No process has attached; nothing says that one should have.
    Unknown,
    /// At least one living process has a slot, and no other was without one.
    True,
    /// At least one living process has a slot, and others have found none since the region was made: the memory
    /// policy applied to them.
    Crowded,
}
