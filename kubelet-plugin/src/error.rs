//! Why one claim could not be prepared or unprepared: what the kubelet, the pod's events, the log and the
//! metrics say.

use vnpu_driver::id::InvalidId;
use vnpu_driver::prepare::Refusal;
use vnpu_kube_types::claim::ClaimError;

use crate::checkpoint::StoreError;
use crate::kubeapi::ApiError;
use crate::materials::MaterialError;

/// Why an operation on one claim failed.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The kubelet named something that is no claim's UID.
    #[error("the claim's UID: {0}")]
    Id(#[from] InvalidId),
    /// The claim may not be prepared here.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The claim's object cannot be read.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The checkpoint.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// CDI file, regions, device nodes.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// The plugin has not started fully, or is ending.
    #[error("{0} is not ready yet; it is tried again")]
    NotReady(&'static str),
    /// It took too long; it goes on, and the next try takes what it made.
    #[error("the operation is not done after {0:?}; it goes on, and the next try takes up its result")]
    Deadline(std::time::Duration),
    /// A defect of this program.
    #[error("an internal task ended unexpectedly: please report this with the plugin's log")]
    Internal,
}

impl OperationError {
    /// Whether the kubelet's next try may succeed without anybody changing the claim.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Id(_) => false,
            Self::Refused(e) => e.retryable(),
            Self::Claim(e) => e.retryable(),
            Self::Api(e) => e.retryable(),
            Self::Store(e) => e.retryable(),
            Self::Material(e) => e.retryable(),
            Self::NotReady(_) | Self::Deadline(_) | Self::Internal => true,
        }
    }

    /// Stable word for metrics and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Id(_) => "claim_uid",
            Self::Refused(e) => e.reason(),
            Self::Claim(e) => e.reason(),
            Self::Api(e) => e.reason(),
            Self::Store(e) => e.reason(),
            Self::Material(e) => e.reason(),
            Self::NotReady(_) => "not_ready",
            Self::Deadline(_) => "deadline",
            Self::Internal => "internal",
        }
    }

    /// What the kubelet gets, and shows in the pod's events.
    pub fn for_kubelet(&self) -> String {
        format!("{self} [{}, retryable: {}]", self.reason(), self.retryable())
    }
}
