//! What Prepare asks the API server for, and what comes of it. The connection is `vnpu_daemon`'s.

use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client};

/// Why the API server did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// There is no such object.
    #[error("{0} does not exist any more: recreate the pod")]
    Gone(String),
    /// The call failed.
    #[error("cannot read {object}: {source}")]
    Call {
        /// Which object.
        object: String,
        /// The client's words.
        source: Box<kube::Error>,
    },
    /// The answer began and did not end.
    #[error("cannot read {object}: the API server's answer is not whole after {after:?}; it is asked again")]
    Slow {
        /// Which object.
        object: String,
        /// How long it was waited for.
        after: Duration,
    },
}

impl ApiError {
    /// Whether the same call may succeed later.
    pub const fn retryable(&self) -> bool {
        !matches!(self, Self::Gone(_))
    }

    /// Stable word for metrics and events.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Gone(_) => "claim_gone",
            Self::Call { .. } | Self::Slow { .. } => "api_call",
        }
    }
}

/// Reads a claim, trying again for a while when the API server cannot be reached.
///
/// # Errors
/// [`ApiError::Gone`] when there is none of that name.
pub async fn claim(client: &Client, namespace: &str, name: &str) -> Result<ResourceClaim, ApiError> {
    let api: Api<ResourceClaim> = Api::namespaced(client.clone(), namespace);
    let object = || format!("claim {namespace}/{name}");
    let mut wait = Duration::from_millis(100);
    loop {
        match api.get_opt(name).await {
            Ok(Some(claim)) => return Ok(claim),
            Ok(None) => return Err(ApiError::Gone(object())),
            Err(error) if passing(&error) && wait < Duration::from_secs(5) => {
                tracing::debug!(%error, namespace, name, "asking again");
                tokio::time::sleep(wait).await;
                wait *= 3;
            }
            Err(source) => return Err(ApiError::Call { object: object(), source: Box::new(source) }),
        }
    }
}

/// Whether an error may pass by itself within seconds.
fn passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        kube::Error::HyperError(_) | kube::Error::Service(_) => true,
        _ => false,
    }
}
