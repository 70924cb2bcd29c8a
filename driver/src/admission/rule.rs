//! The table of admission: every rule once, with its reason word, whether the guard holds it too, and the pure function
//! that applies it. The order is that of application.

use std::collections::BTreeSet;

use serde_json::Value;

use super::class::Classes;
use super::form::{Form, FormError, Lists};
use super::{check, merge, rewrite, straddling};
use crate::controller_config::ControllerConfig;

/// What a rule looks at.
pub struct Bench<'a> {
    /// The claim, as the rules before left it.
    pub form: &'a Form,
    /// The configuration.
    pub config: &'a ControllerConfig,
    /// The classes.
    pub classes: Classes<'a>,
    /// Requests that a rule before refused for straddling: they are not rewritten. What is wrong in another way is, so
    /// that the guard's rules judge what it would have become.
    pub refused: &'a BTreeSet<String>,
}

/// What a rule thinks of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It must not be.
    Refused,
    /// It may be, and the user should know something.
    Warned,
    /// It was changed into what the user means, and he should know it.
    Changed,
    /// It was completed without changing what it means.
    Completed,
}

/// One thing that a rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What the rule thinks of it.
    pub level: Level,
    /// The request that it is about; `None` for the claim as a whole.
    pub request: Option<String>,
    /// JSON pointer of what it is about.
    pub pointer: String,
    /// What is the matter, and what to write.
    pub message: String,
}

/// One change of the lists.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Another request in the place of one.
    Request(usize, Value),
    /// One more constraint.
    Constraint(Value),
    /// One more configuration.
    Config(Value),
}

/// All that a rule does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effect {
    /// What it says.
    pub notes: Vec<Note>,
    /// What it changes.
    pub edits: Vec<Edit>,
}

impl Effect {
    pub(super) fn note(
        &mut self,
        level: Level,
        request: Option<&str>,
        pointer: &str,
        message: impl Into<String>,
    ) {
        let request = request.map(str::to_owned);
        self.notes.push(Note { level, request, pointer: pointer.to_owned(), message: message.into() });
    }

    pub(super) fn refuse(&mut self, ask: &super::form::Ask, message: impl AsRef<str>) {
        let message = format!("request {:?}: {}", ask.path, message.as_ref());
        self.note(Level::Refused, Some(&ask.request), &ask.pointer, message);
    }

    pub(super) fn warn(&mut self, ask: &super::form::Ask, message: impl AsRef<str>) {
        let message = format!("request {:?}: {}", ask.path, message.as_ref());
        self.note(Level::Warned, Some(&ask.request), &ask.pointer, message);
    }
}

/// One rule of the table.
#[derive(Debug)]
pub struct Rule {
    /// Stable word for metrics and tests.
    pub reason: &'static str,
    /// Whether the guard refuses the same by itself: all that is about straddling.
    pub guard: bool,
    /// What it does with a claim.
    pub apply: fn(&Bench<'_>) -> Effect,
}

const fn rule(reason: &'static str, guard: bool, apply: fn(&Bench<'_>) -> Effect) -> Rule {
    Rule { reason, guard, apply }
}

/// What is looked at before anything is changed.
pub static CHECKS: &[Rule] = &[
    rule("forged_attribute", true, |b| straddling::forged_attribute(b.form)),
    rule("policy", false, check::policy),
    rule("capacity_key", false, check::capacity_key),
    rule("all_of_chips", true, |b| straddling::all_of_chips(b.form)),
    rule("share_of_module", true, |b| straddling::share_of_module(b.form)),
    rule("independent_whole", true, |b| straddling::independent_whole(b.form)),
    rule("accelerator_chips", true, |b| straddling::accelerator_chips(b.form)),
    rule("many_shares", true, |b| straddling::many_shares(b.form)),
    rule("spread_chips", true, |b| straddling::spread_chips(b.form)),
    rule("spread_shares", true, check::spread_shares),
    rule("one_device_meant", false, check::one_device_meant),
    rule("request_limit", false, check::request_limit),
    rule("admin_access", false, check::admin_access),
    rule("cores_without_memory", false, check::cores_without_memory),
    rule("memory_only_alternative", false, check::memory_only_alternative),
    rule("odd_chips", true, merge::odd_chips),
    rule("chips_meant", true, merge::chips_meant),
    rule("constraint_over_modules", true, merge::constraint_over_modules),
    rule("no_room_for_selector", true, merge::no_room_for_selector),
    rule("no_module_class", true, merge::no_module_class),
];

/// What turns a claim into what its user means.
pub static REWRITES: &[Rule] = &[
    rule("memory_without_cores", false, rewrite::memory_without_cores),
    rule("odd_on_single_die", false, merge::odd_on_single_die),
    rule("chips_as_modules", false, merge::chips_as_modules),
    rule("pair_in_a_request", false, rewrite::pair_in_a_request),
    rule("requests_two_by_two", false, rewrite::requests_two_by_two),
];

/// What no claim may be when it is admitted: the guard's own rules, in its order and words.
pub static GUARD: &[Rule] = &[
    rule("forged_attribute", true, |b| straddling::forged_attribute(b.form)),
    rule("all_of_chips", true, |b| straddling::all_of_chips(b.form)),
    rule("share_of_module", true, |b| straddling::share_of_module(b.form)),
    rule("independent_whole", true, |b| straddling::independent_whole(b.form)),
    rule("accelerator_chips", true, |b| straddling::accelerator_chips(b.form)),
    rule("many_shares", true, |b| straddling::many_shares(b.form)),
    rule("many_chips", true, |b| straddling::many_chips(b.form)),
    rule("odd_chips", true, |b| straddling::odd_chips(b.form)),
    rule("spread_chips", true, |b| straddling::spread_chips(b.form)),
    rule("loose_pair", true, |b| straddling::loose_pair(b.form)),
    rule("lone_chips", true, |b| straddling::lone_chips(b.form)),
];

/// One note with the rule that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule's word.
    pub reason: &'static str,
    /// Whether the guard holds the rule too.
    pub guard: bool,
    /// What it says.
    pub note: Note,
}

/// Applies rules one after the other; each sees what those before it made of the claim.
///
/// # Errors
/// The edits of a rule made something that cannot be read.
pub(super) fn run(
    rules: &[Rule],
    mut form: Form,
    config: &ControllerConfig,
    classes: &Classes<'_>,
    findings: &mut Vec<Finding>,
) -> Result<Form, FormError> {
    for rule in rules {
        let refused = findings.iter().filter(|f| f.guard && f.note.level == Level::Refused);
        let refused: BTreeSet<String> = refused.filter_map(|f| f.note.request.clone()).collect();
        let bench = Bench { form: &form, config, classes: *classes, refused: &refused };
        let effect = (rule.apply)(&bench);
        findings.extend(effect.notes.into_iter().map(|note| Finding {
            reason: rule.reason,
            guard: rule.guard,
            note,
        }));
        if !effect.edits.is_empty() {
            form = edited(&form, effect.edits, classes)?;
        }
    }
    Ok(form)
}

/// The claim after some changes.
pub(super) fn edited(form: &Form, edits: Vec<Edit>, classes: &Classes<'_>) -> Result<Form, FormError> {
    let mut lists: Lists = form.lists.clone();
    for edit in edits {
        match edit {
            Edit::Request(position, value) => {
                if let Some(place) = lists.requests.get_mut(position) {
                    *place = value;
                }
            }
            Edit::Constraint(value) => lists.constraints.push(value),
            Edit::Config(value) => lists.config.push(value),
        }
    }
    Form::read(lists, form.place, classes)
}
