//! An example and its `expect.yaml` (the format is described in `examples/README.md`). Reading is here;
//! comparing with what a cluster shows is in `judge`.

mod judge;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use judge::{PodProgress, Seen};

use crate::{CaseError, files};

/// One directory of `examples`.
#[derive(Debug, Clone)]
pub struct Example {
    /// The directory's name.
    pub name: String,
    /// The file that users apply.
    pub manifest: PathBuf,
    /// What must come of it.
    pub expectation: Expectation,
}

/// The content of `expect.yaml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expectation {
    /// The pods, each with the phase it must reach.
    pub pods: Vec<PodExpectation>,
    /// The claims, read when all pods are where they should be.
    pub claims: Vec<ClaimExpectation>,
    /// `true`: all results of all claims are one device; `false`: no two are the same.
    pub same_device: Option<bool>,
}

/// What must come of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodExpectation {
    /// Its name.
    pub name: String,
    /// The phase it must reach.
    pub phase: Phase,
    /// Whose logs; the only container's when `None`.
    pub container: Option<String>,
    /// Regular expressions; each must match somewhere in the logs.
    #[serde(default)]
    pub logs: Vec<String>,
}

/// The phase of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Phase {
    /// Not all containers run yet.
    Pending,
    /// At least one runs.
    Running,
    /// All ended well.
    Succeeded,
    /// All ended, one of them not well.
    Failed,
}

/// What must come of a claim, and which it is.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimExpectation {
    /// The claim's name; or
    pub name: Option<String>,
    /// the pod whose claim it is, with
    pub pod: Option<String>,
    /// the name it has in the pod, or
    pub pod_claim: Option<String>,
    /// that it is the one of the pod's extended resources.
    #[serde(default)]
    pub extended_resource: bool,
    /// An anchored regular expression for each result, in any order.
    pub devices: Vec<String>,
    /// The requests of the results, in any order.
    pub requests: Option<Vec<String>>,
    /// On how many different modules the results lie.
    pub modules: Option<usize>,
    /// The consumed capacity of each result, compared as quantities.
    pub consumed: Option<BTreeMap<String, String>>,
    /// Attributes of `vnpu.dev` of each device, as text.
    pub attributes: Option<BTreeMap<String, String>>,
    /// The pods that hold the claim, in any order.
    pub reserved_for: Option<Vec<String>>,
}

impl Example {
    /// The examples of a directory, by name.
    ///
    /// # Errors
    /// A file that is missing or cannot be read, or an expectation that breaks the format.
    pub fn load(directory: &Path) -> Result<Vec<Self>, CaseError> {
        let mut examples = Vec::new();
        for path in files::entries(directory)?.into_iter().filter(|path| path.is_dir()) {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            let expectation = Expectation::read(&path.join("expect.yaml"))?;
            examples.push(Self { manifest: path.join(format!("{name}.yaml")), name, expectation });
        }
        Ok(examples)
    }
}

impl Expectation {
    fn read(path: &Path) -> Result<Self, CaseError> {
        let malformed = |what: String| CaseError::Form { path: path.to_owned(), what };
        let read: Self = serde_saphyr::from_str(&files::text(path)?).map_err(|e| malformed(e.to_string()))?;
        let expressions = read.pods.iter().flat_map(|pod| &pod.logs);
        for expression in expressions.chain(read.claims.iter().flat_map(|claim| &claim.devices)) {
            regex::Regex::new(expression).map_err(|e| malformed(e.to_string()))?;
        }
        for claim in &read.claims {
            let by_pod = claim.pod.is_some() && (claim.pod_claim.is_some() != claim.extended_resource);
            if claim.name.is_some() == by_pod {
                let what = "a claim goes by `name`, or by `pod` with `podClaim` or `extendedResource`";
                return Err(malformed(what.into()));
            }
        }
        Ok(read)
    }
}
