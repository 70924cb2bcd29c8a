//! Kinds of workloads, as `kind.group`: what a pod's controller is.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A kind with its API group, written `Job.batch` or `PyTorchJob.kubeflow.org`. The version does not matter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadKind {
    /// The kind, such as `Job`.
    pub kind: String,
    /// The API group, such as `batch`; empty for the core group.
    pub group: String,
}

/// Why a text is no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a kind with its group, such as Job.batch or PyTorchJob.kubeflow.org")]
pub struct InvalidKind {
    /// The refused text, shortened to 80 characters.
    pub text: String,
}

impl WorkloadKind {
    /// The kind in `kind`, in the group of `apiVersion`; `None` where it has no kind.
    pub fn of(object: &Value) -> Option<Self> {
        let word = |key: &str| object.get(key).and_then(Value::as_str);
        let kind = word("kind")?.to_owned();
        let group = word("apiVersion").and_then(|v| v.split_once('/')).map_or("", |(group, _)| group);
        Some(Self { kind, group: group.to_owned() })
    }

    /// The kind of a pod's controller: the owner reference with `controller: true`.
    pub fn controller_of(pod: &Value) -> Option<Self> {
        let owners = pod.pointer("/metadata/ownerReferences")?.as_array()?;
        owners.iter().find(|o| o.get("controller").and_then(Value::as_bool) == Some(true)).and_then(Self::of)
    }
}

impl FromStr for WorkloadKind {
    type Err = InvalidKind;

    fn from_str(text: &str) -> Result<Self, InvalidKind> {
        let (kind, group) = text.split_once('.').unwrap_or((text, ""));
        let named = kind.starts_with(|c: char| c.is_ascii_uppercase())
            && kind.bytes().all(|b| b.is_ascii_alphanumeric())
            && (group.is_empty() != text.contains('.'))
            && (group.is_empty() || super::is_subdomain(group));
        if !named {
            return Err(InvalidKind { text: text.chars().take(80).collect() });
        }
        Ok(Self { kind: kind.to_owned(), group: group.to_owned() })
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

impl TryFrom<String> for WorkloadKind {
    type Error = InvalidKind;

    fn try_from(text: String) -> Result<Self, InvalidKind> {
        text.parse()
    }
}

impl From<WorkloadKind> for String {
    fn from(kind: WorkloadKind) -> Self {
        kind.to_string()
    }
}

impl JsonSchema for WorkloadKind {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "WorkloadKind".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[A-Z][A-Za-z0-9]*(\\.[a-z0-9.-]+)?$",
            "description": "A kind with its API group, such as Job.batch or PyTorchJob.kubeflow.org.",
        })
    }
}
