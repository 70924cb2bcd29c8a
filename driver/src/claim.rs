//! Our view of one allocated ResourceClaim: identity, who it is reserved for, and the results and opaque
//! configuration that belong to this driver. What other drivers were given is not in here.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::id::{ClaimUid, InvalidId, RequestName};
use crate::live::Wishes;

/// A request as allocation results and configuration name it: `main`, or `main/sub` for the alternative of a
/// `firstAvailable` that was chosen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestRef {
    /// The request of the claim: what containers and kubelet refer to.
    pub main: RequestName,
    /// The chosen alternative; `None` for `exactly`.
    pub sub: Option<RequestName>,
}

impl RequestRef {
    /// Whether a configuration that names `self` applies to a result of `request`: naming the main request
    /// covers all its alternatives.
    pub fn covers(&self, request: &Self) -> bool {
        self.main == request.main && (self.sub.is_none() || self.sub == request.sub)
    }
}

impl fmt::Display for RequestRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sub {
            Some(sub) => write!(f, "{}/{sub}", self.main),
            None => self.main.fmt(f),
        }
    }
}

impl FromStr for RequestRef {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.split_once('/') {
            Some((main, sub)) => {
                Ok(Self { main: RequestName::new(main)?, sub: Some(RequestName::new(sub)?) })
            }
            None => Ok(Self { main: RequestName::new(text)?, sub: None }),
        }
    }
}

/// Who may use the claim: one entry of `status.reservedFor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Resource in the plural, such as `pods`.
    pub resource: String,
    /// API group; empty for pods.
    pub api_group: String,
    /// Name in the claim's namespace.
    pub name: String,
    /// UID of the object.
    pub uid: String,
}

impl Consumer {
    /// Whether the consumer is a pod.
    pub fn is_pod(&self) -> bool {
        self.resource == "pods" && self.api_group.is_empty()
    }
}

/// One device that the scheduler gave the claim, of this driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocationResult {
    /// Position among all results of the allocation, those of other drivers counted.
    pub index: usize,
    /// Which request it answers.
    pub request: RequestRef,
    /// The pool, unchecked text: Prepare refuses what this node does not have.
    pub pool: String,
    /// The device, unchecked text.
    pub device: String,
    /// The share's identity; only for devices that may be allocated many times.
    pub share_id: Option<String>,
    /// What the scheduler counted against the device, quantities as text. Empty means the whole device.
    pub consumed_capacity: BTreeMap<String, String>,
    /// Whether the result is administrative access, which is not counted as use.
    pub admin_access: bool,
}

/// Where an opaque configuration was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigSource {
    /// In the DeviceClass, by the administrator.
    Class,
    /// In the claim, by the user.
    Claim,
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Class => "device class",
            Self::Claim => "claim",
        })
    }
}

/// One opaque configuration for this driver.
#[derive(Debug, Clone, PartialEq)]
pub struct OpaqueConfig {
    /// Where it was written.
    pub source: ConfigSource,
    /// The requests that it applies to; empty means all.
    pub requests: Vec<RequestRef>,
    /// The parameters as they came, not yet read.
    pub parameters: serde_json::Value,
}

impl OpaqueConfig {
    /// Whether the configuration applies to a result of `request`.
    pub fn applies_to(&self, request: &RequestRef) -> bool {
        self.requests.is_empty() || self.requests.iter().any(|r| r.covers(request))
    }
}

/// One ResourceClaim as this driver sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// Namespace.
    pub namespace: String,
    /// Name in the namespace.
    pub name: String,
    /// UID: the identity; the same name with another UID is another claim.
    pub uid: ClaimUid,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Whether `status.allocation` is set.
    pub allocated: bool,
    /// `status.reservedFor`.
    pub reserved_for: Vec<Consumer>,
    /// The allocation's results of this driver, in the allocation's order.
    pub results: Vec<AllocationResult>,
    /// The allocation's opaque configurations for this driver, in the allocation's order.
    pub configs: Vec<OpaqueConfig>,
    /// What its annotations ask for.
    pub wishes: Wishes,
}

impl Claim {
    /// `namespace/name`, for messages.
    pub fn display_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether a pod holds the claim.
    pub fn reserved_for_a_pod(&self) -> bool {
        self.reserved_for.iter().any(Consumer::is_pod)
    }
}
