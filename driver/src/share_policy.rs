//! `SharePolicy`: the opaque configuration (`vnpu.dev/v1alpha1`) that classes and claims give their shares.
//! Reading is strict; what applies to one request is the class's configuration overridden by the claim's.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::claim::{ConfigSource, OpaqueConfig, RequestRef};
use crate::quantity::{Bytes, Percent};
use crate::share::{ComputeMode, OnFailure, Overhead};

/// `apiVersion` of the opaque configuration.
pub const API_VERSION: &str = "vnpu.dev/v1alpha1";
/// `kind` of the opaque configuration.
pub const KIND: &str = "SharePolicy";
/// The API's limit on opaque parameters (`resource/v1` `OpaqueParametersMaxLength`), in bytes of JSON.
pub const MAX_PARAMETERS: usize = 10 * 1024;
/// `compute.priority` where nobody says.
pub const DEFAULT_PRIORITY: u8 = 5;

/// What happens to a claim that is found to use more than its share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Breach {
    /// An event and a metric.
    #[default]
    Report,
    /// The pod is evicted.
    Evict,
    /// The process is killed.
    Kill,
}

/// Whether several chips of one claim must come as modules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// They must.
    #[default]
    Module,
    /// Shares may lie anywhere; without effect on whole chips.
    Independent,
}

/// Whether containers get the interposer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interpose {
    /// Where the claim holds less than the whole chip in any dimension.
    #[default]
    Auto,
    /// Always, also on whole chips and modules.
    Always,
    /// Never: the share is not enforced in the process.
    Never,
}

/// `compute` of a SharePolicy; what is `None` was not said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputePolicy {
    /// Treatment of compute over the share.
    pub mode: Option<ComputeMode>,
    /// Order among the admissible, 0 to 10.
    pub priority: Option<u8>,
    /// Where the effective quota starts, 1 to 100 percent of the chip.
    pub initial: Option<Percent>,
}

/// `memory` of a SharePolicy; what is `None` was not said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MemoryPolicy {
    /// What happens to allocations when the quota cannot be read.
    pub on_failure: Option<OnFailure>,
    /// Who pays for the runtime's own memory.
    pub overhead: Option<Overhead>,
    /// Where the effective quota starts, at least 1Gi.
    #[serde(default, deserialize_with = "optional_bytes")]
    pub initial: Option<Bytes>,
}

/// One SharePolicy as written; what is `None` was not said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SharePolicy {
    /// Compute.
    pub compute: ComputePolicy,
    /// Memory.
    pub memory: MemoryPolicy,
    /// What happens on a breach.
    pub breach: Option<Breach>,
    /// Whether several chips must come as modules.
    pub pairing: Option<Pairing>,
    /// Whether containers get the interposer.
    pub interpose: Option<Interpose>,
}

/// What holds for one request: every field has a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EffectivePolicy {
    /// Treatment of compute over the share.
    pub mode: ComputeMode,
    /// Order among the admissible, 0 to 10.
    pub priority: u8,
    /// Where the compute quota starts; `None` means at what the scheduler counted.
    pub initial_cores: Option<Percent>,
    /// What happens to allocations when the quota cannot be read.
    pub on_failure: OnFailure,
    /// Who pays for the runtime's own memory.
    pub overhead: Overhead,
    /// Where the memory quota starts; `None` means at what the scheduler counted.
    pub initial_memory: Option<Bytes>,
    /// What happens on a breach.
    pub breach: Breach,
    /// Whether several chips must come as modules.
    pub pairing: Pairing,
    /// Whether containers get the interposer.
    pub interpose: Interpose,
}

impl Default for EffectivePolicy {
    fn default() -> Self {
        Self {
            mode: ComputeMode::default(),
            priority: DEFAULT_PRIORITY,
            initial_cores: None,
            on_failure: OnFailure::default(),
            overhead: Overhead::default(),
            initial_memory: None,
            breach: Breach::default(),
            pairing: Pairing::default(),
            interpose: Interpose::default(),
        }
    }
}

/// Why an opaque configuration cannot be used. None is worth a retry: the text must change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The parameters are longer than the API allows.
    #[error("the parameters have {found} bytes, more than the {MAX_PARAMETERS} allowed: shorten them")]
    TooLarge {
        /// Bytes of JSON found.
        found: usize,
    },
    /// The parameters are not a JSON object.
    #[error("the parameters must be an object with apiVersion {API_VERSION} and kind {KIND}")]
    NotAnObject,
    /// `apiVersion` is missing or not ours.
    #[error("apiVersion is {found:?}, this driver reads {API_VERSION:?}: correct it, or update the driver")]
    Version {
        /// What was found; empty when missing.
        found: String,
    },
    /// `kind` is missing or not ours.
    #[error("kind is {found:?}, this driver reads {KIND:?}: correct it")]
    Kind {
        /// What was found; empty when missing.
        found: String,
    },
    /// A field that does not exist, or a value of the wrong type.
    #[error("field {field}: {message}")]
    Field {
        /// Path of the field, such as `compute.mode`.
        field: String,
        /// What is wrong, and what is allowed.
        message: String,
    },
}

impl PolicyError {
    /// Whether the same text may be accepted later: never.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word for metrics and events.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "policy_too_large",
            Self::NotAnObject => "policy_not_an_object",
            Self::Version { .. } => "policy_version",
            Self::Kind { .. } => "policy_kind",
            Self::Field { .. } => "policy_field",
        }
    }
}

impl SharePolicy {
    /// Reads one SharePolicy.
    ///
    /// # Errors
    /// Every deviation from the form is one: another version or kind, a field that does not exist, a value
    /// out of range, more than 10 KiB.
    pub fn parse(parameters: &Value) -> Result<Self, PolicyError> {
        let found = parameters.to_string().len();
        if found > MAX_PARAMETERS {
            return Err(PolicyError::TooLarge { found });
        }
        let object = parameters.as_object().ok_or(PolicyError::NotAnObject)?;
        let text = |key: &str| match object.get(key) {
            None => String::new(),
            Some(Value::String(text)) => shortened(text),
            Some(other) => shortened(&other.to_string()),
        };
        if object.get("apiVersion").and_then(Value::as_str) != Some(API_VERSION) {
            return Err(PolicyError::Version { found: text("apiVersion") });
        }
        if object.get("kind").and_then(Value::as_str) != Some(KIND) {
            return Err(PolicyError::Kind { found: text("kind") });
        }
        let mut policy = Self::default();
        for (key, value) in object {
            match key.as_str() {
                "apiVersion" | "kind" => {}
                "compute" => policy.compute = section(key, object_only(key, value)?)?,
                "memory" => policy.memory = section(key, object_only(key, value)?)?,
                "breach" => policy.breach = section(key, value)?,
                "pairing" => policy.pairing = section(key, value)?,
                "interpose" => policy.interpose = section(key, value)?,
                unknown => {
                    return Err(field(
                        &shortened(unknown),
                        "there is no such field; there are compute, memory, breach, pairing and interpose",
                    ));
                }
            }
        }
        policy.check_ranges()?;
        Ok(policy)
    }

    fn check_ranges(&self) -> Result<(), PolicyError> {
        if self.compute.priority.is_some_and(|p| p > 10) {
            return Err(field("compute.priority", "it must be 0 to 10"));
        }
        if self.compute.initial.is_some_and(|p| !(1..=100).contains(&p.0)) {
            return Err(field("compute.initial", "it must be 1 to 100 (percent of one chip)"));
        }
        if self.memory.initial.is_some_and(|b| b < Bytes::GIB) {
            return Err(field("memory.initial", "it must be at least 1Gi"));
        }
        Ok(())
    }
}

impl EffectivePolicy {
    /// What holds for a result of `request`: defaults, then every class configuration that applies, then
    /// every claim configuration that applies, each overriding field by field.
    ///
    /// # Errors
    /// The first configuration that cannot be used, whether or not it applies to this request.
    pub fn for_request(configs: &[OpaqueConfig], request: &RequestRef) -> Result<Self, PolicyError> {
        let mut policy = Self::default();
        for source in [ConfigSource::Class, ConfigSource::Claim] {
            for config in configs.iter().filter(|c| c.source == source) {
                let written = SharePolicy::parse(&config.parameters)?;
                if config.applies_to(request) {
                    policy.override_with(&written);
                }
            }
        }
        Ok(policy)
    }

    fn override_with(&mut self, written: &SharePolicy) {
        fn set<T: Copy>(place: &mut T, written: Option<T>) {
            if let Some(value) = written {
                *place = value;
            }
        }
        set(&mut self.mode, written.compute.mode);
        set(&mut self.priority, written.compute.priority);
        set(&mut self.on_failure, written.memory.on_failure);
        set(&mut self.overhead, written.memory.overhead);
        set(&mut self.breach, written.breach);
        set(&mut self.pairing, written.pairing);
        set(&mut self.interpose, written.interpose);
        self.initial_cores = written.compute.initial.or(self.initial_cores);
        self.initial_memory = written.memory.initial.or(self.initial_memory);
    }
}

fn section<'a, T: Deserialize<'a>>(name: &str, value: &'a Value) -> Result<T, PolicyError> {
    T::deserialize(value).map_err(|error| field(name, &error.to_string()))
}

/// Serde would also take a list, by position.
fn object_only<'a>(name: &str, value: &'a Value) -> Result<&'a Value, PolicyError> {
    if value.is_object() { Ok(value) } else { Err(field(name, "it must be an object")) }
}

fn field(field: &str, message: &str) -> PolicyError {
    PolicyError::Field { field: field.to_owned(), message: message.to_owned() }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A quantity as text (`4Gi`) or as a plain number of bytes.
fn optional_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Text(String),
    }
    let written: Option<Written> = Option::deserialize(deserializer)
        .map_err(|_| serde::de::Error::custom("initial must be a quantity such as 4Gi"))?;
    match written {
        None => Ok(None),
        Some(Written::Number(bytes)) => Ok(Some(Bytes(bytes))),
        Some(Written::Text(text)) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests;
