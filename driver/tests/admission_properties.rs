//! What holds for all claims: admission is idempotent, what it admits is legal to the guard, it refuses for the guard's
//! reasons exactly where the guard would, versions of the API make no difference, and the same file can be applied again.

// A test may panic; clippy knows that of test functions, not of what they call.
#![allow(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod support;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::claims::claims;
use support::{create, patched, shipped, update};
use vnpu_driver::admission::form::Form;
use vnpu_driver::admission::rule::{Bench, GUARD};
use vnpu_driver::admission::{Classes, Judged, Objects, Place};
use vnpu_driver::controller_config::{ControllerConfig, OddPolicy};

fn policies() -> impl Strategy<Value = ControllerConfig> {
    prop_oneof![Just(OddPolicy::Reject), Just(OddPolicy::RoundUp), Just(OddPolicy::SingleDie)]
        .prop_map(|odd_policy| ControllerConfig { odd_policy, ..ControllerConfig::default() })
}

fn legal(object: &Value, config: &ControllerConfig) -> bool {
    let known = Objects::default();
    let classes = Classes::new(config, &known);
    let form = Form::of(object, Place::Claim, &classes).expect("a claim");
    let bench = Bench { form: &form, config, classes, refused: &Default::default() };
    GUARD.iter().all(|r| (r.apply)(&bench).notes.is_empty())
}

/// The claim with the fields of `exactly` in the request.
fn as_v1beta1(claim: &Value) -> Value {
    let mut claim = claim.clone();
    claim["apiVersion"] = json!("resource.k8s.io/v1beta1");
    for request in claim["spec"]["devices"]["requests"].as_array_mut().unwrap() {
        if let Some(Value::Object(fields)) = request.as_object_mut().unwrap().remove("exactly") {
            request.as_object_mut().unwrap().extend(fields);
        }
    }
    claim
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn admitting_an_admitted_claim_changes_nothing(claim in claims(), config in policies()) {
        let known = shipped_once();
        let response = create(&claim, &config, known);
        if response.allowed() {
            let again = create(&patched(&claim, &response), &config, known);
            prop_assert!(again.allowed(), "{:?}", again.refusal);
            prop_assert_eq!(&again.operations, &[]);
        }
    }

    #[test]
    fn what_is_admitted_is_legal_and_what_the_guard_refuses_is_refused_or_mended(claim in claims(), config in policies()) {
        let response = create(&claim, &config, shipped_once());
        if response.allowed() {
            prop_assert!(legal(&patched(&claim, &response), &config));
        }
        let Judged::Claim(verdict) = &response.judged else { return Ok(()) };
        let by_the_guard = verdict.refusals.iter().any(|f| f.guard);
        if legal(&claim, &config) {
            prop_assert!(!by_the_guard, "the guard would take it: {:?}", verdict.refusals);
        } else if !response.allowed() && !by_the_guard {
            let mut mended = claim.clone();
            mended["spec"]["devices"] = json!({
                "requests": verdict.after.requests, "constraints": verdict.after.constraints, "config": verdict.after.config,
            });
            prop_assert!(legal(&mended, &config), "{:?}", verdict.refusals);
        }
    }

    #[test]
    fn versions_of_the_api_make_no_difference(claim in claims(), config in policies()) {
        let response = create(&claim, &config, shipped_once());
        let older = as_v1beta1(&claim);
        let other = create(&older, &config, shipped_once());
        prop_assert_eq!(response.refusal.as_ref().map(|r| &r.message), other.refusal.as_ref().map(|r| &r.message));
        prop_assert_eq!(&response.warnings, &other.warnings);
        prop_assert_eq!(as_v1beta1(&patched(&claim, &response)), patched(&older, &other));
    }

    #[test]
    fn the_same_file_can_be_applied_again(claim in claims(), config in policies(), kept in 0u8..8) {
        let response = create(&claim, &config, shipped_once());
        if !response.operations.is_empty() {
            let stored = patched(&claim, &response);
            // kubectl patches some of the lists, and leaves the others as they are stored.
            let mut applied = claim.clone();
            for (bit, name) in ["requests", "constraints", "config"].iter().enumerate() {
                if kept & (1 << bit) != 0 {
                    applied["spec"]["devices"][name] = stored["spec"]["devices"][name].clone();
                }
            }
            let answer = update(&applied, &stored);
            prop_assert_eq!(&patched(&applied, &answer)["spec"], &stored["spec"]);
            // Another wish is left to the API server, which refuses it.
            applied["spec"]["devices"]["requests"][0]["name"] = json!("other");
            prop_assert_eq!(&update(&applied, &stored).operations, &[]);
        }
    }

    #[test]
    fn any_devices_are_answered(devices in any_json()) {
        let object = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {}, "spec": {"devices": devices},
        });
        create(&object, &ControllerConfig::default(), shipped_once());
    }
}

/// JSON with the API's words in places where they may or may not belong.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        Just(json!(true)),
        any::<i64>().prop_map(Value::from),
        Just(json!("npu.vnpu.dev")),
        Just(json!("")),
    ];
    let keys = [
        "requests",
        "constraints",
        "config",
        "exactly",
        "firstAvailable",
        "deviceClassName",
        "count",
        "capacity",
    ];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((prop::sample::select(keys.to_vec()), inner), 0..4).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

fn shipped_once() -> &'static Objects {
    static SHIPPED: std::sync::OnceLock<Objects> = std::sync::OnceLock::new();
    SHIPPED.get_or_init(shipped)
}
