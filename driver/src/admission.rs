//! Admission: what users naturally write, turned into what the guard admits, and the gate of pods. Pure functions over
//! JSON objects of any served version of the API; the webhook and `kubectl vnpu lint` call the same [`review`].
//!
//! The guard (CEL in the API server) refuses everything that could straddle, whether or not this code runs; it is
//! convenience on top, with a word for each rule.

use serde_json::Value;

use crate::controller_config::ControllerConfig;

pub mod check;
pub mod claim;
pub mod class;
pub mod form;
pub mod known;
pub mod merge;
mod owners;
pub mod patch;
pub mod pod;
pub mod rewrite;
pub mod rule;
pub mod selector;
pub mod straddling;
pub mod submitted;

pub use claim::Verdict;
pub use class::{ClassKind, Classes};
pub use form::Place;
pub use known::{ClaimFacts, ClassFacts, Known, Objects};
pub use patch::Operation;
pub use pod::{Gating, Planner};
pub use rule::{Finding, Level};

/// Who makes the claims of pods with extended resources.
const SCHEDULER: &str = "system:kube-scheduler";
/// The annotation of those claims (KEP-5004).
const EXTENDED_RESOURCE_CLAIM: &str = "resource.kubernetes.io/extended-resource-claim";

/// What an answer depends on besides the object.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The configuration.
    pub config: &'a ControllerConfig,
    /// What is known of the cluster.
    pub known: &'a dyn Known,
    /// Who places pods now.
    pub planner: Planner<'a>,
}

/// Why an object is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Untouched {
    /// It asks for nothing of ours.
    Foreign,
    /// It is being deleted.
    BeingDeleted,
    /// The scheduler made it for a pod's extended resources, and allocated it already.
    MadeByScheduler,
    /// A change of something that admission says nothing about, or one that the API server answers.
    Change,
    /// A kind, version, subresource or operation that admission does not look at.
    OtherKind,
}

impl Untouched {
    /// Stable word for metrics and logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::BeingDeleted => "being_deleted",
            Self::MadeByScheduler => "made_by_scheduler",
            Self::Change => "change",
            Self::OtherKind => "other_kind",
        }
    }
}

/// How an answer came about.
#[derive(Debug, Clone, PartialEq)]
pub enum Judged {
    /// Not looked into.
    Nothing(Untouched),
    /// A claim or a template that is created.
    Claim(Box<Verdict>),
    /// A changed claim, whose stored specification is put in.
    Reapplied,
    /// A pod.
    Pod {
        /// What must not be.
        refusals: Vec<Finding>,
        /// The gate.
        gating: Gating,
    },
    /// An object that cannot be read.
    Malformed,
}

/// Why an object is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The words of the rules, each once, in order.
    pub reasons: Vec<&'static str>,
    /// All that is the matter, and what to write.
    pub message: String,
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// Why not; `None` when it is allowed.
    pub refusal: Option<Refusal>,
    /// What is changed of the object as submitted; empty when it is refused.
    pub operations: Vec<Operation>,
    /// What the user is told.
    pub warnings: Vec<String>,
    /// How it came about.
    pub judged: Judged,
}

impl Response {
    /// The HTTP status of a refusal: like the guard's, "Unprocessable Entity" with the reason `Invalid`.
    pub const REFUSED: u16 = 422;

    /// Whether the object is allowed.
    pub const fn allowed(&self) -> bool {
        self.refusal.is_none()
    }

    fn untouched(why: Untouched) -> Self {
        Self::changed(Vec::new(), Judged::Nothing(why))
    }

    fn changed(operations: Vec<Operation>, judged: Judged) -> Self {
        Self { refusal: None, operations, warnings: Vec::new(), judged }
    }
}

/// Answers the `request` of an AdmissionReview: claims and templates of `resource.k8s.io`, and pods. Everything else is
/// allowed and left alone.
pub fn review(request: &Value, context: &Context<'_>) -> Response {
    let text = |pointer: &str| request.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let none = Value::Null;
    let object = request.get("object").unwrap_or(&none);
    let old = request.get("oldObject").unwrap_or(&none);
    let operation = text("/operation");
    let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    if !text("/subResource").is_empty() || !matches!(operation, "CREATE" | "UPDATE") {
        return Response::untouched(Untouched::OtherKind);
    }
    if object.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null()) {
        return Response::untouched(Untouched::BeingDeleted);
    }
    match (version, kind) {
        ("v1", "Pod") => pod_answer(object, operation, text("/namespace"), context),
        ("resource.k8s.io/v1" | "resource.k8s.io/v1beta1" | "resource.k8s.io/v1beta2", "ResourceClaim") => {
            let annotated =
                object.pointer("/metadata/annotations").and_then(|a| a.get(EXTENDED_RESOURCE_CLAIM));
            if annotated.is_some() && text("/userInfo/username") == SCHEDULER {
                Response::untouched(Untouched::MadeByScheduler)
            } else if operation == "CREATE" {
                claim_answer(object, Place::Claim, context)
            } else {
                match claim::update(object, old) {
                    nothing if nothing.is_empty() => Response::untouched(Untouched::Change),
                    operations => Response::changed(operations, Judged::Reapplied),
                }
            }
        }
        (
            "resource.k8s.io/v1" | "resource.k8s.io/v1beta1" | "resource.k8s.io/v1beta2",
            "ResourceClaimTemplate",
        ) => match operation {
            "CREATE" => claim_answer(object, Place::Template, context),
            _ => Response::untouched(Untouched::Change),
        },
        _ => Response::untouched(Untouched::OtherKind),
    }
}

fn claim_answer(object: &Value, place: Place, context: &Context<'_>) -> Response {
    let classes = Classes::new(context.config, context.known);
    let verdict = match claim::create(object, place, context.config, &classes) {
        Ok(Some(verdict)) => verdict,
        Ok(None) => return Response::untouched(Untouched::Foreign),
        Err(error) => {
            let refusal = Refusal { reasons: vec![error.reason()], message: error.to_string() };
            return Response {
                refusal: Some(refusal),
                operations: Vec::new(),
                warnings: Vec::new(),
                judged: Judged::Malformed,
            };
        }
    };
    Response {
        refusal: refusal(&verdict.refusals),
        operations: verdict.operations.clone(),
        warnings: verdict.warnings.iter().map(|f| f.note.message.clone()).collect(),
        judged: Judged::Claim(Box::new(verdict)),
    }
}

fn pod_answer(pod: &Value, operation: &str, namespace: &str, context: &Context<'_>) -> Response {
    let classes = Classes::new(context.config, context.known);
    // What is stored was judged when it was created, and must stay changeable.
    let refusals = if operation == "CREATE" { pod::check(pod, &classes) } else { Vec::new() };
    let gating = pod::gate(pod, operation, namespace, context.config, context.known, context.planner);
    let refusal = refusal(&refusals);
    let operations = match &gating {
        _ if refusal.is_some() => Vec::new(),
        Gating::Gate(operations) | Gating::Preferred { operations, .. } => operations.clone(),
        Gating::No(_) => Vec::new(),
    };
    Response { refusal, operations, warnings: Vec::new(), judged: Judged::Pod { refusals, gating } }
}

fn refusal(findings: &[Finding]) -> Option<Refusal> {
    let mut reasons = Vec::new();
    let mut messages: Vec<&str> = Vec::new();
    for finding in findings {
        if !reasons.contains(&finding.reason) {
            reasons.push(finding.reason);
        }
        if !messages.contains(&finding.note.message.as_str()) {
            messages.push(&finding.note.message);
        }
    }
    if reasons.is_empty() { None } else { Some(Refusal { reasons, message: messages.join("; ") }) }
}

#[cfg(test)]
mod tests;
