//! `ControllerConfig` (`vnpu.dev/v1alpha1`): the one configuration document of the controller, which
//! `kubectl vnpu lint` reads too. Reading is strict, and what is not written has a default; where the document comes
//! from is the binaries' business.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub mod kind;
pub mod placement;
pub mod span;
pub mod topology;

pub use kind::WorkloadKind;
pub use placement::{Modes, OnNoFit, OnPartial, Placement, PlacementMode, TopologyWish};
pub use span::Span;
pub use topology::TopologySources;

/// `apiVersion` of the document.
pub const API_VERSION: &str = "vnpu.dev/v1alpha1";
/// `kind` of the document.
pub const KIND: &str = "ControllerConfig";
/// The API's limit on requests, constraints and configurations of a claim (`resource/v1` `DeviceRequestsMaxSize` and
/// its sisters).
pub const MAX_LIST: usize = 32;

/// What becomes of an odd number of whole dual-die chips in one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OddPolicy {
    /// Refused, with the alternatives.
    #[default]
    Reject,
    /// On dual-die hardware the next even number, as whole modules; on single-die hardware what was asked.
    RoundUp,
    /// Single-die hardware only.
    SingleDie,
}

/// DeviceClasses of the administrator, beyond those of vnpu itself. The guard knows its own list (the ConfigMap
/// `vnpu-guard-classes`); name a class in both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Classes {
    /// Classes that select dual-die chips, treated like `npu.vnpu.dev`.
    pub npu: Vec<String>,
    /// Classes that may select dual-die chips among others, treated like `accelerator.vnpu.dev`.
    pub accelerator: Vec<String>,
    /// Classes that select modules only, treated like `npu-module.vnpu.dev`.
    pub module: Vec<String>,
    /// Classes of ours that select single-die chips only, treated like `gpu.vnpu.dev`.
    pub single_die: Vec<String>,
    /// For classes of `npu`: the class of the modules of the same hardware, which an even number of whole chips
    /// becomes. A class without an entry has such requests refused, with the form to write.
    pub modules_of: BTreeMap<String, String>,
    /// `spec.extendedResourceName` of classes of `npu` and `accelerator`. Their implicit resources need no entry.
    pub extended_resources: Vec<String>,
}

/// What a claim gets where it does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Defaults {
    /// `cores` of a share that names only `memory`: percent of one chip, 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub cores: u32,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { cores: 1 }
    }
}

/// How many requests of our devices one claim may have. The allocator's search is exponential in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Limits {
    /// Above this the claim is refused, 1 to 32.
    #[schemars(range(min = 1, max = 32))]
    pub max_requests: usize,
    /// Above this it is warned about, 1 to 32.
    #[schemars(range(min = 1, max = 32))]
    pub warn_requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_requests: 8, warn_requests: 4 }
    }
}

/// The configuration of the controller and of `kubectl vnpu lint`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ControllerConfig {
    /// `vnpu.dev/v1alpha1`.
    pub api_version: ApiVersion,
    /// `ControllerConfig`.
    pub kind: Kind,
    /// DeviceClasses of the administrator.
    pub classes: Classes,
    /// What becomes of an odd number of whole dual-die chips in one request.
    pub odd_policy: OddPolicy,
    /// What a claim gets where it does not say.
    pub defaults: Defaults,
    /// How many requests one claim may have.
    pub limits: Limits,
    /// How pods are placed.
    pub placement: Placement,
    /// Where leaf and super-pod of a node come from.
    pub topology: TopologySources,
}

/// The version of the document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApiVersion {
    /// The only one.
    #[default]
    #[serde(rename = "vnpu.dev/v1alpha1")]
    V1Alpha1,
}

/// The kind of the document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// The only one.
    #[default]
    ControllerConfig,
}

/// Why a document is no usable configuration. None is worth a retry: the text must change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The document is not an object.
    #[error("the configuration must be an object with apiVersion {API_VERSION} and kind {KIND}")]
    NotAnObject,
    /// `apiVersion` or `kind` is missing or not ours.
    #[error(
        "the configuration is {found}, this program reads {API_VERSION} {KIND}: correct it, or update the program"
    )]
    NotOurs {
        /// What was found.
        found: String,
    },
    /// A field that does not exist, or a value of the wrong type.
    #[error("{path}: {message}")]
    Field {
        /// Path of the field, such as `classes.npu[0]`.
        path: String,
        /// What is wrong, and what is allowed.
        message: String,
    },
    /// A value that has the right type and cannot be used.
    #[error("{path}: {message}")]
    Value {
        /// Path of the field.
        path: String,
        /// What is wrong, and what is allowed.
        message: String,
    },
}

impl ConfigError {
    /// Whether the same text may be accepted later: never.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word for metrics and events.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotAnObject => "config_not_an_object",
            Self::NotOurs { .. } => "config_not_ours",
            Self::Field { .. } => "config_field",
            Self::Value { .. } => "config_value",
        }
    }
}

impl ControllerConfig {
    /// Reads the document.
    ///
    /// # Errors
    /// Another version or kind, a field that does not exist, a value of the wrong type or out of range.
    pub fn read(document: &Value) -> Result<Self, ConfigError> {
        let object = document.as_object().ok_or(ConfigError::NotAnObject)?;
        let word = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or("(none)");
        let (version, kind) = (word("apiVersion"), word("kind"));
        if (version, kind) != (API_VERSION, KIND) {
            let found: String = format!("{version} {kind}").chars().take(120).collect();
            return Err(ConfigError::NotOurs { found });
        }
        let config: Self = serde_path_to_error::deserialize(document).map_err(|error| {
            let path = error.path().to_string();
            ConfigError::Field { path, message: error.into_inner().to_string() }
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.classes.check()?;
        within("defaults.cores", self.defaults.cores, 1, 100)?;
        within("limits.maxRequests", self.limits.max_requests, 1, MAX_LIST)?;
        within("limits.warnRequests", self.limits.warn_requests, 1, MAX_LIST)?;
        self.placement.check()?;
        self.topology.check()
    }

    /// The JSON schema of the document (draft 2020-12).
    pub fn schema() -> Value {
        let mut schema = schemars::schema_for!(Self).to_value();
        if let Some(object) = schema.as_object_mut() {
            object.insert("required".to_owned(), serde_json::json!(["apiVersion", "kind"]));
        }
        schema
    }
}

impl Classes {
    fn check(&self) -> Result<(), ConfigError> {
        let lists = [
            ("npu", &self.npu),
            ("accelerator", &self.accelerator),
            ("module", &self.module),
            ("singleDie", &self.single_die),
        ];
        let mut seen = BTreeSet::new();
        for (list, names) in lists {
            for (position, name) in names.iter().enumerate() {
                let path = format!("classes.{list}[{position}]");
                if !is_subdomain(name) {
                    return Err(invalid(path, format!("{name:?} is not the name of a DeviceClass")));
                }
                if !seen.insert(name) {
                    return Err(invalid(path, format!("{name:?} is named twice; a class is of one kind")));
                }
            }
        }
        for (chips, modules) in &self.modules_of {
            let path = format!("classes.modulesOf.{chips}");
            if !self.npu.contains(chips) {
                return Err(invalid(path, format!("{chips:?} is not named in classes.npu")));
            }
            if modules != crate::admission::class::NPU_MODULE && !self.module.contains(modules) {
                return Err(invalid(path, format!("{modules:?} is not named in classes.module")));
            }
        }
        for (position, name) in self.extended_resources.iter().enumerate() {
            let qualified =
                name.split_once('/').is_some_and(|(domain, rest)| is_subdomain(domain) && !rest.is_empty());
            if !qualified {
                let path = format!("classes.extendedResources[{position}]");
                return Err(invalid(
                    path,
                    format!("{name:?} is not the name of a resource such as example.com/npu"),
                ));
            }
        }
        Ok(())
    }
}

pub(crate) fn invalid(path: impl Into<String>, message: impl Into<String>) -> ConfigError {
    ConfigError::Value { path: path.into(), message: message.into() }
}

pub(crate) fn within<N: PartialOrd + std::fmt::Display>(
    path: &str,
    found: N,
    least: N,
    most: N,
) -> Result<(), ConfigError> {
    if found < least || found > most {
        return Err(invalid(path, format!("{found} is not within {least} to {most}")));
    }
    Ok(())
}

/// Whether the text is a DNS subdomain, as the API wants names of classes.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests;
