//! From a ResourceClaim object to the driver's view of it: only what this driver was given.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1 as api;
use vnpu_driver::DRIVER_NAME;
use vnpu_driver::claim::{AllocationResult, Claim, ConfigSource, Consumer, OpaqueConfig, RequestRef};
use vnpu_driver::id::{ClaimUid, InvalidId};
use vnpu_driver::live::Wishes;

/// Why a ResourceClaim cannot be read. The API server would not have let it in, so a retry is no help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The UID, or the name of a request, is not what the API server makes.
    #[error("claim {claim}: {source}")]
    Identity {
        /// `namespace/name`.
        claim: String,
        /// What is wrong.
        source: InvalidId,
    },
    /// A configuration's source is neither the class nor the claim.
    #[error("claim {claim}: configuration of unknown source {source_text:?}: is this driver too old?")]
    ConfigSource {
        /// `namespace/name`.
        claim: String,
        /// The source found.
        source_text: String,
    },
}

impl ClaimError {
    /// Whether the same object may be readable later: never.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word for metrics and events.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Identity { .. } => "claim_identity",
            Self::ConfigSource { .. } => "claim_config_source",
        }
    }
}

/// Reads a ResourceClaim.
///
/// # Errors
/// When it holds something that the API server does not let in, such as a UID that is no UUID.
pub fn read_claim(object: &api::ResourceClaim) -> Result<Claim, ClaimError> {
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    let identity = |source: InvalidId| ClaimError::Identity { claim: format!("{namespace}/{name}"), source };
    let uid = ClaimUid::new(object.metadata.uid.clone().unwrap_or_default()).map_err(&identity)?;
    let status = object.status.as_ref();
    let allocation = status.and_then(|s| s.allocation.as_ref());
    let devices = allocation.and_then(|a| a.devices.as_ref());
    let mut results = Vec::new();
    for (index, result) in devices.and_then(|d| d.results.as_ref()).into_iter().flatten().enumerate() {
        if result.driver == DRIVER_NAME {
            results.push(read_result(index, result).map_err(&identity)?);
        }
    }
    let mut configs = Vec::new();
    for config in devices.and_then(|d| d.config.as_ref()).into_iter().flatten() {
        let Some(opaque) = config.opaque.as_ref().filter(|o| o.driver == DRIVER_NAME) else { continue };
        let source = match config.source.as_str() {
            "FromClass" => ConfigSource::Class,
            "FromClaim" => ConfigSource::Claim,
            other => {
                return Err(ClaimError::ConfigSource {
                    claim: format!("{namespace}/{name}"),
                    source_text: other.chars().take(80).collect(),
                });
            }
        };
        let requests = config
            .requests
            .iter()
            .flatten()
            .map(|r| r.parse::<RequestRef>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(&identity)?;
        configs.push(OpaqueConfig { source, requests, parameters: opaque.parameters.0.clone() });
    }
    let reserved_for =
        status.and_then(|s| s.reserved_for.as_ref()).into_iter().flatten().map(read_consumer).collect();
    Ok(Claim {
        uid,
        deleting: object.metadata.deletion_timestamp.is_some(),
        allocated: allocation.is_some(),
        reserved_for,
        results,
        configs,
        wishes: Wishes::of(object.metadata.annotations.as_ref().unwrap_or(&BTreeMap::new())),
        namespace,
        name,
    })
}

fn read_result(
    index: usize,
    result: &api::DeviceRequestAllocationResult,
) -> Result<AllocationResult, InvalidId> {
    Ok(AllocationResult {
        index,
        request: result.request.parse()?,
        pool: result.pool.clone(),
        device: result.device.clone(),
        share_id: result.share_id.clone(),
        consumed_capacity: result
            .consumed_capacity
            .iter()
            .flatten()
            .map(|(name, quantity)| (name.clone(), quantity.0.clone()))
            .collect(),
        admin_access: result.admin_access == Some(true),
    })
}

fn read_consumer(consumer: &api::ResourceClaimConsumerReference) -> Consumer {
    Consumer {
        resource: consumer.resource.clone(),
        api_group: consumer.api_group.clone().unwrap_or_default(),
        name: consumer.name.clone(),
        uid: consumer.uid.clone(),
    }
}

#[cfg(test)]
mod tests;
