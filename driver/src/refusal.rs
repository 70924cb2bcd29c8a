//! Why Prepare refuses a claim: what, which object, and what to do. A refused pod's event is this text.

use crate::id::{ClaimUid, DeviceName, PoolName};
use crate::share_policy::PolicyError;

/// A chip that does not have what is needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "claim {claim}: chip {device} has {free} of {total} {capacity} free, {needed} are needed; claims prepared \
     on it: {holders}. It is tried again; if it stays, delete the pod, so that the claim is allocated again"
)]
pub struct Shortage {
    /// `namespace/name`.
    pub claim: String,
    /// The chip.
    pub device: DeviceName,
    /// `memory` or `cores`.
    pub capacity: &'static str,
    /// What is needed.
    pub needed: String,
    /// What is free.
    pub free: String,
    /// What the chip has.
    pub total: String,
    /// `namespace/name` of the claims that hold the rest, `none` when it is the claim itself.
    pub holders: String,
}

/// Why a claim is not prepared here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The claim of that name is another object now.
    #[error(
        "claim {claim} has UID {found}, kubelet asked for {wanted}: the claim was deleted and made again; \
         the pod must be made again too"
    )]
    UidMismatch {
        /// `namespace/name`.
        claim: String,
        /// UID of the object that is there.
        found: ClaimUid,
        /// UID that was asked for.
        wanted: ClaimUid,
    },
    /// The API server has no such claim.
    #[error("claim {claim} (UID {wanted}) does not exist any more: recreate the pod")]
    NotFound {
        /// `namespace/name`.
        claim: String,
        /// UID that was asked for.
        wanted: ClaimUid,
    },
    /// The allocation has no device of this driver.
    #[error("claim {claim} has no device of vnpu.dev: kubelet should not have asked this driver")]
    NoDevices {
        /// `namespace/name`.
        claim: String,
    },
    /// `status.allocation` is not set.
    #[error("claim {claim} is not allocated: wait for the scheduler, or recreate the pod")]
    NotAllocated {
        /// `namespace/name`.
        claim: String,
    },
    /// `metadata.deletionTimestamp` is set.
    #[error("claim {claim} is being deleted: recreate the pod with a claim that stays")]
    BeingDeleted {
        /// `namespace/name`.
        claim: String,
    },
    /// The claim was unprepared here and no pod holds it any more.
    #[error("claim {claim} was released on this node and is reserved for no pod: nothing is prepared")]
    Released {
        /// `namespace/name`.
        claim: String,
    },
    /// A result names a pool that this node does not serve.
    #[error(
        "claim {claim}, request {request}: pool {pool:?} is not served by this node: delete the pod, so that \
         the claim is allocated again"
    )]
    UnknownPool {
        /// `namespace/name`.
        claim: String,
        /// The request.
        request: String,
        /// The pool's text, shortened.
        pool: String,
    },
    /// A result names a device that is not there now.
    #[error(
        "claim {claim}, request {request}: device {device:?} of pool {pool} is absent on this node: check the \
         hardware (`vnpu doctor`), or delete the pod, so that the claim is allocated again"
    )]
    DeviceAbsent {
        /// `namespace/name`.
        claim: String,
        /// The request.
        request: String,
        /// The pool.
        pool: PoolName,
        /// The device's text, shortened.
        device: String,
    },
    /// A result consumes something that cannot be read as memory or cores of the device.
    #[error(
        "claim {claim}, request {request}: consumedCapacity {key} of device {device} is unusable: {message}"
    )]
    BadCapacity {
        /// `namespace/name`.
        claim: String,
        /// The request.
        request: String,
        /// The device.
        device: DeviceName,
        /// The capacity.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// An opaque configuration is not a usable SharePolicy.
    #[error("claim {claim}: opaque configuration for vnpu.dev: {source}")]
    BadConfig {
        /// `namespace/name`.
        claim: String,
        /// What is wrong with it.
        source: PolicyError,
    },
    /// The claim holds exactly one chip of several modules.
    #[error(
        "claim {claim} straddles: it holds exactly one chip of each of modules {modules:?}. Ask for whole \
         modules (class npu-module.vnpu.dev), add the constraint `matchAttribute: vnpu.dev/module`, or make \
         one claim per chip"
    )]
    Straddles {
        /// `namespace/name`.
        claim: String,
        /// The modules' card ids, ascending.
        modules: Vec<u32>,
    },
    /// A chip does not have what the claim and the claims prepared before need together.
    #[error("{0}")]
    OverCapacity(Box<Shortage>),
}

impl Refusal {
    /// Whether kubelet's next try may succeed without anybody changing the claim.
    pub const fn retryable(&self) -> bool {
        match self {
            Self::NotAllocated { .. }
            | Self::UnknownPool { .. }
            | Self::DeviceAbsent { .. }
            | Self::OverCapacity(_) => true,
            Self::UidMismatch { .. }
            | Self::NotFound { .. }
            | Self::NoDevices { .. }
            | Self::BeingDeleted { .. }
            | Self::Released { .. }
            | Self::BadCapacity { .. }
            | Self::BadConfig { .. }
            | Self::Straddles { .. } => false,
        }
    }

    /// Stable word for metrics, events and status.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::UidMismatch { .. } => "uid_mismatch",
            Self::NotFound { .. } => "not_found",
            Self::NoDevices { .. } => "no_devices",
            Self::NotAllocated { .. } => "not_allocated",
            Self::BeingDeleted { .. } => "being_deleted",
            Self::Released { .. } => "released",
            Self::UnknownPool { .. } => "unknown_pool",
            Self::DeviceAbsent { .. } => "device_absent",
            Self::BadCapacity { .. } => "bad_capacity",
            Self::BadConfig { source, .. } => source.reason(),
            Self::Straddles { .. } => "straddles",
            Self::OverCapacity(_) => "over_capacity",
        }
    }
}
