//! Claims and templates: the table applied to a claim that is created, and the one rule for a claim that is changed.
//! Claims are rewritten; templates are judged as they stand, because a second `kubectl apply` of a rewritten one would
//! fail as immutable.

use serde_json::Value;

use super::class::Classes;
use super::form::{Form, FormError, Lists, Place};
use super::owners;
use super::patch::{self, Operation};
use super::rule::{self, CHECKS, Finding, GUARD, Level, Note, REWRITES};
use super::submitted::{self, LISTS, SUBMITTED};
use crate::controller_config::ControllerConfig;

/// What admission thinks of a claim or template.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What must not be; empty when it is admitted.
    pub refusals: Vec<Finding>,
    /// What the user is told.
    pub warnings: Vec<Finding>,
    /// What was (or, of a template's claims, will be) completed without a word.
    pub completed: Vec<Finding>,
    /// The lists as submitted.
    pub before: Lists,
    /// The lists as the claim will have them. Of a template: as its claims would have them.
    pub after: Lists,
    /// What makes the one the other, on the object as submitted; empty for templates and for what is refused.
    pub operations: Vec<Operation>,
}

/// Applies the table to a claim or template as it is created. `None`: nothing of ours is asked for.
///
/// # Errors
/// The object is none that the API server would take.
pub fn create(
    object: &Value,
    place: Place,
    config: &ControllerConfig,
    classes: &Classes<'_>,
) -> Result<Option<Verdict>, FormError> {
    let form = Form::of(object, place, classes)?;
    if !form.is_ours() {
        return Ok(None);
    }
    let mut findings = Vec::new();
    let checked = rule::run(CHECKS, form.clone(), config, classes, &mut findings)?;
    let rewritten = rule::run(REWRITES, checked, config, classes, &mut findings)?;
    let guarded = if place == Place::Claim { &rewritten } else { &form };
    findings.extend(still_straddling(guarded, config, classes, &findings)?);
    let mut verdict = Verdict {
        refusals: Vec::new(),
        warnings: Vec::new(),
        completed: Vec::new(),
        before: form.lists,
        after: rewritten.lists,
        operations: Vec::new(),
    };
    let refused = findings.iter().any(|f| f.note.level == Level::Refused);
    for finding in findings {
        match finding.note.level {
            Level::Refused => verdict.refusals.push(finding),
            Level::Warned => verdict.warnings.push(finding),
            // Nothing becomes of what is refused.
            Level::Changed | Level::Completed if refused => {}
            Level::Changed | Level::Completed if place == Place::Template => {
                verdict.warnings.push(of_template(finding));
            }
            Level::Changed => verdict.warnings.push(finding),
            Level::Completed => verdict.completed.push(finding),
        }
    }
    if !refused && place == Place::Claim {
        verdict.operations = operations(object, &verdict.before, &verdict.after);
    }
    Ok(Some(verdict))
}

/// What the guard would refuse, as far as it is not said already: of a request that is refused for straddling anyway, and
/// of the claim as a whole when anything is.
fn still_straddling(
    form: &Form,
    config: &ControllerConfig,
    classes: &Classes<'_>,
    said: &[Finding],
) -> Result<Vec<Finding>, FormError> {
    let mut findings = Vec::new();
    rule::run(GUARD, form.clone(), config, classes, &mut findings)?;
    let refused = said.iter().filter(|f| f.guard && f.note.level == Level::Refused);
    let refused: Vec<&Note> = refused.map(|f| &f.note).collect();
    findings.retain(|f| match &f.note.request {
        Some(request) => !refused.iter().any(|n| n.request.as_ref() == Some(request)),
        None => refused.is_empty(),
    });
    // The claim as a whole comes last: the guard says it only when no request is wrong by itself.
    if findings.iter().any(|f| f.note.request.is_some()) {
        findings.retain(|f| f.note.request.is_some());
    }
    Ok(findings)
}

fn of_template(mut finding: Finding) -> Finding {
    finding.note.message = format!("of the claims made from it: {}", finding.note.message);
    finding
}

fn operations(object: &Value, before: &Lists, after: &Lists) -> Vec<Operation> {
    let devices = Place::Claim.devices();
    let changed = LISTS.iter().filter(|name| submitted::list(before, name) != submitted::list(after, name));
    let mut operations: Vec<Operation> = changed
        .map(|name| Operation::set(object, devices, name, Value::from(submitted::list(after, name).to_vec())))
        .collect();
    if !operations.is_empty() {
        operations.push(patch::annotate(object, SUBMITTED, &submitted::annotation(before)));
    }
    operations
}

/// Answers a change of a claim: the operations that put the stored specification in, when the change says nothing but
/// what was stored or submitted before. The table never runs on a change, so the answer does not depend on today's
/// configuration; whatever else is wanted, the API server answers (a specification is immutable).
pub fn update(object: &Value, old: &Value) -> Vec<Operation> {
    let (Some(new_spec), Some(old_spec)) = (object.get("spec"), old.get("spec")) else { return Vec::new() };
    let Some(annotation) = old.pointer("/metadata/annotations").and_then(|a| a.get(SUBMITTED)?.as_str())
    else {
        return Vec::new();
    };
    let (Ok(new), Ok(stored)) = (Lists::of(object, Place::Claim), Lists::of(old, Place::Claim)) else {
        return Vec::new();
    };
    let hashes = submitted::hashes(annotation);
    let as_before = |name: &&str| {
        let list = submitted::list(&new, name);
        let hash = submitted::hash(name, list);
        list == submitted::list(&stored, name) || hashes.get(name).is_some_and(|known| *known == hash)
    };
    if new_spec == old_spec || !LISTS.iter().all(as_before) || others(new_spec) != others(old_spec) {
        return Vec::new();
    }
    let mut operations = vec![Operation::Replace { path: "/spec".to_owned(), value: old_spec.clone() }];
    let there = object.pointer("/metadata/annotations").and_then(|a| a.get(SUBMITTED));
    if there.and_then(Value::as_str) != Some(annotation) {
        operations.push(patch::annotate(object, SUBMITTED, annotation));
    }
    if let Some(managers) = owners::settled(object, old) {
        operations.push(Operation::set(object, "/metadata", "managedFields", managers.into()));
    }
    operations
}

/// The specification without the three lists.
fn others(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(devices) = spec.get_mut("devices").and_then(Value::as_object_mut) {
        for name in LISTS {
            devices.remove(name);
        }
        if devices.is_empty() {
            spec.as_object_mut().map(|s| s.remove("devices"));
        }
    }
    spec
}
