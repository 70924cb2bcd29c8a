//! The guard's cases through admission: what the guard admits stays allowed, and what it refuses is refused by a rule
//! that is marked as the guard's too, or rewritten into something that the guard's rules find legal.

// A test may panic; clippy knows that of test functions, not of what they call.
#![allow(clippy::indexing_slicing, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vnpu_driver::admission::form::Form;
use vnpu_driver::admission::rule::{Bench, GUARD, Level};
use vnpu_driver::admission::{Classes, Context, Judged, Objects, Place, Planner, Response, review};
use vnpu_driver::controller_config::ControllerConfig;
use vnpu_e2e_cases::{GuardCase, GuardVerdict};

fn cases(folder: &str) -> Vec<GuardCase> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/guard-cases").join(folder);
    let cases = GuardCase::load(&directory).expect("guard cases");
    assert!(!cases.is_empty());
    cases
}

fn object(path: &PathBuf) -> Value {
    let text = std::fs::read_to_string(path).expect("a readable file");
    serde_saphyr::from_str(&text).expect("YAML")
}

/// The configuration that says what the guard's ConfigMap says.
fn own_classes() -> ControllerConfig {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/guard-cases/own-classes/classes.yaml");
    let map = object(&path);
    let words = |key: &str| -> Vec<String> {
        let text = map["data"][key].as_str().unwrap_or_default();
        text.split([' ', ',', '\n']).filter(|w| !w.is_empty()).map(str::to_owned).collect()
    };
    let mut config = ControllerConfig::default();
    config.classes.npu = words("npuClasses");
    config.classes.accelerator = words("acceleratorClasses");
    config.classes.module = words("moduleClasses");
    config.classes.extended_resources = words("extendedResources");
    config
}

fn answer(case: &GuardCase, object: &Value, config: &ControllerConfig) -> Response {
    let user = case.user.as_deref().unwrap_or("somebody");
    let request = json!({
        "operation": "CREATE", "namespace": "default", "userInfo": {"username": user}, "object": object,
    });
    review(&request, &Context { config, known: &Objects::default(), planner: Planner::Alive })
}

/// What the guard's rules say to an object, in their order.
fn guard(object: &Value, config: &ControllerConfig) -> Vec<&'static str> {
    let known = Objects::default();
    let classes = Classes::new(config, &known);
    let form = Form::of(object, Place::Claim, &classes).expect("a claim");
    let bench = Bench { form: &form, config, classes, refused: &Default::default() };
    GUARD.iter().filter(|r| !(r.apply)(&bench).notes.is_empty()).map(|r| r.reason).collect()
}

fn patched(object: &Value, response: &Response) -> Value {
    let mut object = object.clone();
    let patch = serde_json::to_value(&response.operations).expect("JSON");
    let patch: json_patch::Patch = serde_json::from_value(patch).expect("a patch");
    json_patch::patch(&mut object, &patch).expect("a patch that fits");
    object
}

/// What a verdict would have made of a claim that another rule refused.
fn would_be(object: &Value, response: &Response) -> Value {
    let Judged::Claim(verdict) = &response.judged else { panic!("no claim") };
    let mut object = object.clone();
    object["spec"]["devices"] = json!({
        "requests": verdict.after.requests, "constraints": verdict.after.constraints, "config": verdict.after.config,
    });
    object
}

fn guarded(response: &Response) -> Vec<(bool, String)> {
    let findings = match &response.judged {
        Judged::Claim(verdict) => &verdict.refusals,
        Judged::Pod { refusals, .. } => refusals,
        other => panic!("{other:?}"),
    };
    findings.iter().map(|f| (f.guard, f.note.message.clone())).collect()
}

fn parity(folder: &str, config: &ControllerConfig) -> (usize, usize, usize) {
    let (mut legal, mut refused, mut fixed) = (0, 0, 0);
    for case in cases(folder) {
        let object = object(&case.path);
        let name = &case.name;
        let response = answer(&case, &object, config);
        match (&case.verdict, &response.refusal) {
            (GuardVerdict::Legal, None) => legal += 1,
            (GuardVerdict::Legal, Some(refusal)) => {
                panic!("{name} is legal, but was refused: {}", refusal.message)
            }
            (GuardVerdict::Refused(_), None) => {
                assert!(!response.operations.is_empty(), "{name} must be refused or rewritten");
                let after = patched(&object, &response);
                assert_eq!(guard(&after, config), [""; 0], "{name}");
                fixed += 1;
            }
            (GuardVerdict::Refused(_), Some(_)) => {
                let refusals = guarded(&response);
                if !refusals.iter().any(|(guard, _)| *guard) {
                    // Wrong in a way that the guard does not know; without that it would have been rewritten.
                    assert_eq!(guard(&would_be(&object, &response), config), [""; 0], "{name}: {refusals:?}");
                }
                refused += 1;
            }
        }
    }
    (legal, refused, fixed)
}

#[test]
fn the_guards_cases_agree() {
    let counts = parity(".", &ControllerConfig::default());
    println!("legal, refused, rewritten: {counts:?}");
    assert!(counts.0 > 50 && counts.1 > 30 && counts.2 > 15, "{counts:?}");
}

#[test]
fn the_guards_cases_with_own_classes_agree() {
    let counts = parity("own-classes", &own_classes());
    println!("legal, refused, rewritten: {counts:?}");
    assert!(counts.0 >= 4 && counts.1 >= 5 && counts.2 >= 3, "{counts:?}");
}

/// The rules of the guard in this crate, alone, on every claim and template: the same verdict, and for what is refused
/// the words that the case expects.
#[test]
fn the_rules_marked_as_the_guards_are_the_guards() {
    for (folder, config) in [(".", ControllerConfig::default()), ("own-classes", own_classes())] {
        for case in cases(folder) {
            let object = object(&case.path);
            let place = match object["kind"].as_str() {
                Some("ResourceClaim") => Place::Claim,
                Some("ResourceClaimTemplate") => Place::Template,
                _ => continue,
            };
            let known = Objects::default();
            let classes = Classes::new(&config, &known);
            let form = Form::of(&object, place, &classes).expect("a claim");
            let bench = Bench { form: &form, config: &config, classes, refused: &Default::default() };
            let notes: Vec<_> = GUARD.iter().flat_map(|r| (r.apply)(&bench).notes).collect();
            assert!(notes.iter().all(|n| n.level == Level::Refused) && GUARD.iter().all(|r| r.guard));
            match &case.verdict {
                // The exemption of the scheduler is no rule over the claim.
                GuardVerdict::Legal if case.user.is_some() => {}
                GuardVerdict::Legal => assert_eq!(notes, [], "{}", case.name),
                GuardVerdict::Refused(message) => {
                    let first = notes.first().unwrap_or_else(|| panic!("{} must be refused", case.name));
                    assert!(first.message.contains(message), "{}: {}", case.name, first.message);
                }
            }
        }
    }
}

/// Admission's words where it refuses what the guard refuses, too.
#[test]
fn what_is_refused_is_mostly_refused_in_the_guards_words() {
    let config = ControllerConfig::default();
    let mut others = Vec::new();
    for case in cases(".") {
        let GuardVerdict::Refused(words) = &case.verdict else { continue };
        let response = answer(&case, &object(&case.path), &config);
        if response.refusal.as_ref().is_some_and(|r| !r.message.contains(words.as_str())) {
            others.push(case.name.clone());
        }
    }
    assert_eq!(others, ["distinct-modules-shares", "independent-misspelt"]);
}
