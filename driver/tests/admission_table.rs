//! One test per row of the table of admission. Each has the row's text in its snapshot, and below it what becomes of
//! claims that the row is about.

// A test may panic; clippy knows that of test functions, not of what they call.
#![allow(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod support;

use std::fmt::Write;

use serde_json::{Value, json};
use support::{claim, create, shipped, template, told, yaml};
use vnpu_driver::admission::{Context, Objects, Planner, review};
use vnpu_driver::controller_config::{ControllerConfig, OddPolicy};

/// The answers to claims with these devices, one after the other, under the row's text.
fn answers(row: &str, config: &ControllerConfig, known: &Objects, devices: &[&str]) -> String {
    let mut text = format!("{row}\n");
    for devices in devices {
        let response = create(&claim(devices), config, known);
        write!(text, "\n{}\n{}", devices.trim_end(), told(&response)).unwrap();
    }
    text
}

fn row(row: &str, devices: &[&str]) -> String {
    answers(row, &ControllerConfig::default(), &shipped(), devices)
}

fn odd(policy: OddPolicy) -> ControllerConfig {
    ControllerConfig { odd_policy: policy, ..ControllerConfig::default() }
}

const SHARE: &str = "capacity: {requests: {memory: 4Gi, cores: '10'}}";
const INDEPENDENT: &str = "opaque: {driver: vnpu.dev, parameters: {apiVersion: vnpu.dev/v1alpha1, kind: SharePolicy, pairing: independent}}";
const SINGLE: &str = r#"selectors: [{cel: {expression: 'device.attributes["vnpu.dev"].dies == 1'}}]"#;

/// `requests` of one request.
fn one(fields: &str) -> String {
    format!("requests: [{{name: r, exactly: {{{fields}}}}}]")
}

/// `requests` called a, b, c, ... of these fields each.
fn several(fields: &[&str]) -> String {
    let each = |(i, fields): (usize, &&str)| {
        format!("{{name: {}, exactly: {{{fields}}}}}", char::from(b'a' + i as u8))
    };
    let requests: Vec<String> = fields.iter().enumerate().map(each).collect();
    format!("requests: [{}]", requests.join(", "))
}

const NPU: &str = "deviceClassName: npu.vnpu.dev";

#[test]
fn one_chip_and_no_capacity_is_an_exclusive_chip() {
    insta::assert_snapshot!(row(
        "1 chip, no capacity: nothing",
        &[&one(NPU), &one("deviceClassName: accelerator.vnpu.dev")]
    ));
}

#[test]
fn memory_and_cores_of_one_chip_stay_as_they_are() {
    insta::assert_snapshot!(row(
        "1 chip, `memory` and `cores`: nothing",
        &[&one(&format!("{NPU}, {SHARE}"))]
    ));
}

#[test]
fn memory_without_cores_gets_cores_and_elastic_compute() {
    let memory = one(&format!("{NPU}, capacity: {{requests: {{memory: 4Gi}}}}"));
    let said = "config: [{opaque: {driver: vnpu.dev, parameters: {apiVersion: vnpu.dev/v1alpha1, kind: SharePolicy, compute: {mode: hard}}}}]";
    let text = "`memory` without `cores`: fills `cores` and, where neither class nor claim sets `compute.mode`, appends a SharePolicy with `mode: elastic`; warns";
    let mut known = shipped();
    let mut class = yaml(
        &std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deviceclasses/gpu.yaml")).unwrap(),
    );
    class["spec"]["config"] = json!([{"opaque": {"driver": "vnpu.dev", "parameters": {
        "apiVersion": "vnpu.dev/v1alpha1", "kind": "SharePolicy", "compute": {"mode": "best-effort"}}}}]);
    known.learn(&class, "");
    let mut config = ControllerConfig::default();
    config.defaults.cores = 5;
    insta::assert_snapshot!(answers(
        text,
        &config,
        &known,
        &[
            &memory,
            &format!("{memory}\n{said}"),
            &one("deviceClassName: gpu.vnpu.dev, count: 2, capacity: {requests: {memory: 4Gi}}"),
            &format!(
                "requests: [{{name: r, firstAvailable: [{{name: s, {NPU}, capacity: {{requests: {{memory: 4Gi}}}}}}]}}]"
            ),
        ]
    ));
    let full: Vec<String> =
        (0..32).map(|_| "{opaque: {driver: other.example.com, parameters: {}}}".to_owned()).collect();
    let full = format!("{memory}\nconfig: [{}]", full.join(", "));
    let response = create(&claim(&full), &config, &known);
    assert!(
        response.operations.is_empty() && response.warnings[0].contains("no room in config"),
        "{response:?}"
    );
}

#[test]
fn cores_without_memory_is_warned_about() {
    insta::assert_snapshot!(row(
        "`cores` without `memory`: warns",
        &[&one(&format!("{NPU}, capacity: {{requests: {{cores: 10}}}}"))]
    ));
}

#[test]
fn capacity_on_modules_is_rejected() {
    insta::assert_snapshot!(row(
        "capacity on `npu-module.vnpu.dev`: rejected",
        &[&one(&format!("deviceClassName: npu-module.vnpu.dev, {SHARE}"))]
    ));
}

#[test]
fn two_chips_get_the_module_constraint() {
    let pair = one(&format!("{NPU}, count: 2"));
    insta::assert_snapshot!(row(
        "`count: 2` of `npu.vnpu.dev`, whole chips or shares: adds `matchAttribute: vnpu.dev/module` over that request (unless the user did)",
        &[
            &pair,
            &one(&format!("{NPU}, count: 2, {SHARE}")),
            &format!("{pair}\nconstraints: [{{requests: [r], matchAttribute: vnpu.dev/module}}]"),
            &format!("{pair}\nconstraints: [{{matchAttribute: vnpu.dev/module}}]"),
            &format!(
                "{pair}\nconstraints: [{{requests: [r], matchAttribute: resource.kubernetes.io/numaNode}}]"
            ),
        ]
    ));
    let others: Vec<String> =
        (0..32).map(|i| format!("{{requests: [r], distinctAttribute: example.com/a{i}}}")).collect();
    let response = create(
        &claim(&format!("{pair}\nconstraints: [{}]", others.join(", "))),
        &ControllerConfig::default(),
        &shipped(),
    );
    assert!(response.refusal.unwrap().message.contains("none can be added"));
}

#[test]
fn an_even_number_of_whole_chips_becomes_modules() {
    let four = one(&format!("{NPU}, count: 4"));
    let selectors = r#"selectors: [{cel: {expression: 'device.attributes["vnpu.dev"].model == "910C"'}}]"#;
    let full: Vec<String> = (0..32).map(|_| "{cel: {expression: 'true'}}".to_owned()).collect();
    insta::assert_snapshot!(row(
        "even n >= 4 whole chips of `npu.vnpu.dev`, `exactly`: becomes `firstAvailable` of modules and single-die chips; tolerations and selectors are copied to both; warns. 32 own selectors, or a `module` constraint over it: rejected",
        &[
            &four,
            &one(&format!(
                "{NPU}, count: 8, allocationMode: ExactCount, adminAccess: false, {selectors}, tolerations: [{{key: a, operator: Exists}}]"
            )),
            &one(&format!("{NPU}, count: 4, selectors: [{}]", full.join(", "))),
            &format!("{four}\nconstraints: [{{requests: [r], matchAttribute: vnpu.dev/module}}]"),
            &format!("{four}\nconstraints: [{{distinctAttribute: vnpu.dev/module}}]"),
            &format!("{four}\nconstraints: [{{matchAttribute: resource.kubernetes.io/pcieRoot}}]"),
            &format!("{four}\nconstraints: [{{requests: [r], matchAttribute: vnpu.dev/superpod}}]"),
        ]
    ));
}

#[test]
fn an_odd_number_of_whole_chips_follows_the_policy() {
    let three = one(&format!("{NPU}, count: 3"));
    let mut text = String::new();
    for policy in [OddPolicy::Reject, OddPolicy::RoundUp, OddPolicy::SingleDie] {
        let named = format!("odd n > 1 whole chips: `oddPolicy` {policy:?}");
        text += &answers(&named, &odd(policy), &shipped(), &[&three]);
    }
    insta::assert_snapshot!(text);
}

#[test]
fn the_single_die_selector_turns_pairing_off() {
    insta::assert_snapshot!(row(
        "selectors that contain exactly `dies == 1`: none of the pairing rules apply",
        &[
            &one(&format!("{NPU}, count: 2, {SINGLE}")),
            &one(&format!("{NPU}, count: 3, {SINGLE}, {SHARE}")),
            &one(&format!("{NPU}, count: 8, {SINGLE}")),
            &several(&[&format!("{NPU}, {SINGLE}"), &format!("{NPU}, {SINGLE}"), NPU]),
            &one(&format!("deviceClassName: accelerator.vnpu.dev, count: 4, {SINGLE}")),
        ]
    ));
}

#[test]
fn several_requests_are_constrained_two_by_two() {
    let share = format!("{NPU}, {SHARE}");
    insta::assert_snapshot!(row(
        "several `exactly` requests of `npu.vnpu.dev`: two by two in the order written; one left over is untouched; count 2 with themselves; `pairing: independent` turns it off (shares only)",
        &[
            &several(&[NPU, NPU]),
            &several(&[NPU, NPU, NPU]),
            &several(&[NPU, "deviceClassName: npu-module.vnpu.dev", NPU, &format!("{NPU}, count: 2")]),
            &several(&[&share, &share]),
            &several(&[&share, &share, &share]),
            &several(&[&share, NPU, &share, &share]),
            &format!(
                "{}\nconstraints: [{{requests: [b, c], matchAttribute: vnpu.dev/module}}]",
                several(&[NPU, NPU, NPU, NPU])
            ),
            &format!("{}\nconfig: [{{{INDEPENDENT}}}]", several(&[&share, &share, &share])),
            &format!("{}\nconfig: [{{requests: [c], {INDEPENDENT}}}]", several(&[&share, &share, &share])),
            &format!("{}\nconfig: [{{{INDEPENDENT}}}]", several(&[NPU, NPU])),
        ]
    ));
}

#[test]
fn more_than_two_shares_in_a_request_are_rejected() {
    insta::assert_snapshot!(row(
        "shares with count > 2 in one request: rejected, with the alternative spelled out",
        &[&one(&format!("{NPU}, count: 3, {SHARE}")), &one(&format!("{NPU}, count: 4, {SHARE}")),]
    ));
}

#[test]
fn selectors_that_mean_chips_do_not_become_selectors_of_modules() {
    let with = |count: u32, expression: &str| {
        one(&format!("{NPU}, count: {count}, selectors: [{{cel: {{expression: '{expression}'}}}}]"))
    };
    let text = "even n >= 4 or odd n > 1 with own selectors that mention `type`, `chips`, `capacity` or `pcieRoot`: rejected with the module form; `uuid` or `pciBusID` with count > 1: rejected";
    insta::assert_snapshot!(answers(
        text,
        &odd(OddPolicy::RoundUp),
        &shipped(),
        &[
            &with(4, r#"device.attributes["vnpu.dev"].type == "chip""#),
            &with(3, r#"device.capacity["vnpu.dev"].memory.compareTo(quantity("32Gi")) >= 0"#),
            &with(2, r#"device.attributes["vnpu.dev"].type == "chip""#),
            &with(2, r#"device.attributes["vnpu.dev"].uuid == "A""#),
            &with(
                4,
                r#"device.attributes["resource.kubernetes.io"].?pciBusID.orValue("") == "0000:81:00.0""#
            ),
            &with(2, r#"device.attributes["vnpu.dev"].uuid != "A""#),
            &with(4, r#"device.attributes["vnpu.dev"].uuid != "A""#),
        ]
    ));
}

#[test]
fn own_alternatives_are_validated_and_not_rewritten() {
    let list = |sub: &str| {
        format!(
            "requests: [{{name: r, firstAvailable: [{{name: s, {sub}}}, {{name: g, deviceClassName: gpu.vnpu.dev, count: 4}}]}}]"
        )
    };
    insta::assert_snapshot!(row(
        "own `firstAvailable`: validated per alternative, not rewritten",
        &[
            &list("deviceClassName: npu-module.vnpu.dev, count: 2"),
            &list(&format!("{NPU}, count: 4, {SINGLE}")),
            &list(&format!("{NPU}, count: 2")),
            &format!(
                "{}\nconstraints: [{{requests: [r/s], matchAttribute: vnpu.dev/module}}]",
                list(&format!("{NPU}, count: 2"))
            ),
            &list(&format!("{NPU}, count: 4")),
            &list(&format!("{NPU}, count: 3")),
            &list(NPU),
        ]
    ));
}

#[test]
fn chips_of_any_vendor_are_rejected_beyond_one() {
    let mut known = shipped();
    known.learn(&yaml(r#"{apiVersion: resource.k8s.io/v1, kind: DeviceClass, metadata: {name: everything.example.com}, spec: {selectors: [{cel: {expression: 'device.driver == "vnpu.dev"'}}]}}"#), "");
    known.learn(&yaml(r#"{apiVersion: resource.k8s.io/v1, kind: DeviceClass, metadata: {name: nic.example.com}, spec: {selectors: [{cel: {expression: 'device.driver == "nic.example.com"'}}]}}"#), "");
    let two = "deviceClassName: accelerator.vnpu.dev, count: 2";
    let text = "`accelerator.vnpu.dev`, or another class that selects our driver and is not known as single-die, with more than one chip per claim: rejected unless `dies == 1`";
    insta::assert_snapshot!(answers(
        text,
        &ControllerConfig::default(),
        &known,
        &[
            &one(two),
            &one(&format!("{two}, {SINGLE}")),
            &several(&["deviceClassName: accelerator.vnpu.dev", "deviceClassName: accelerator.vnpu.dev"]),
            &several(&["deviceClassName: accelerator.vnpu.dev", NPU]),
            &one("deviceClassName: everything.example.com, count: 4"),
            &one("deviceClassName: nic.example.com, count: 4"),
        ]
    ));
}

#[test]
fn gpus_and_other_drivers_are_untouched() {
    insta::assert_snapshot!(row(
        "`gpu.vnpu.dev` with count > 1; claims for other drivers: untouched",
        &[
            &one("deviceClassName: gpu.vnpu.dev, count: 3"),
            &one("deviceClassName: gpu.vnpu.dev, allocationMode: All"),
            &one("deviceClassName: nic.example.com, count: 3, capacity: {requests: {bandwidth: 1G}}"),
            "requests: []",
        ]
    ));
}

#[test]
fn what_can_never_be_meant_is_rejected_with_the_fix() {
    let policy = |text: &str| {
        format!("{}\nconfig: [{{opaque: {{driver: vnpu.dev, parameters: {{{text}}}}}}}]", one(NPU))
    };
    insta::assert_snapshot!(row(
        "`distinctAttribute: vnpu.dev/module` over whole chips; misspelt capacity keys; unknown opaque fields; `allocationMode: All` on chips: rejected with reason and fix",
        &[
            &format!(
                "{}\nconstraints: [{{requests: [a, b], distinctAttribute: vnpu.dev/module}}]",
                several(&[NPU, NPU])
            ),
            &format!(
                "{}\nconstraints: [{{requests: [a, b], distinctAttribute: vnpu.dev/module}}]",
                several(&[&format!("{NPU}, {SHARE}"), &format!("{NPU}, {SHARE}")])
            ),
            &one(&format!("{NPU}, capacity: {{requests: {{vnpu.dev/memory: 4Gi, core: 10, disk: 1}}}}")),
            &policy("apiVersion: vnpu.dev/v1alpha1, kind: SharePolicy, compute: {modus: hard}"),
            &policy("apiVersion: vnpu.dev/v1, kind: SharePolicy"),
            &one(&format!("{NPU}, allocationMode: All")),
            &one("deviceClassName: npu-module.vnpu.dev, allocationMode: All"),
            &one(&format!(
                "{NPU}, count: 2, derivedAttributes: [{{name: vnpu.dev/module, expression: '1'}}]"
            )),
        ]
    ));
}

#[test]
fn many_requests_are_warned_about_and_then_rejected() {
    let modules = |n: usize| several(&vec!["deviceClassName: npu-module.vnpu.dev"; n]);
    insta::assert_snapshot!(row(
        "more than 8 requests of our devices: rejected; above 4 warned",
        &[&modules(4), &modules(5), &modules(9)]
    ));
}

#[test]
fn administrative_access_is_not_rewritten_nor_counted() {
    insta::assert_snapshot!(row(
        "`adminAccess` requests: never rewritten nor counted; warned that they do not fit on full shared chips",
        &[
            &one(&format!("{NPU}, count: 4, adminAccess: true")),
            &one(&format!("{NPU}, adminAccess: true, allocationMode: All")),
            &several(&[&format!("{NPU}, adminAccess: true"), NPU]),
            &one(&format!("{NPU}, adminAccess: true, capacity: {{requests: {{memory: 4Gi}}}}")),
        ]
    ));
}

#[test]
fn pods_with_more_than_one_chip_as_extended_resources_are_rejected() {
    let pod = |containers: &str| {
        yaml(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {containers}}}"))
    };
    let mut text = "pod whose containers ask together for more than 1 of extended resources whose classes can match dual-die chips: rejected, naming `vnpu.dev/npu-module`\n".to_owned();
    for containers in [
        "{containers: [{resources: {limits: {deviceclass.resource.kubernetes.io/npu.vnpu.dev: 1}}}]}",
        "{containers: [{resources: {limits: {deviceclass.resource.kubernetes.io/npu.vnpu.dev: 1}}}, {resources: {limits: {deviceclass.resource.kubernetes.io/accelerator.vnpu.dev: '1'}}}]}",
        "{initContainers: [{resources: {requests: {deviceclass.resource.kubernetes.io/npu.vnpu.dev: 1}}}], containers: [{resources: {limits: {deviceclass.resource.kubernetes.io/npu.vnpu.dev: 1}}}]}",
        "{containers: [{resources: {limits: {vnpu.dev/npu-module: 4}}}]}",
        "{containers: [{resources: {limits: {deviceclass.resource.kubernetes.io/gpu.vnpu.dev: 4}}}]}",
    ] {
        let response = create(&pod(containers), &ControllerConfig::default(), &shipped());
        write!(text, "\n{containers}\n{}", told(&response)).unwrap();
    }
    insta::assert_snapshot!(text);
}

#[test]
fn claims_of_the_scheduler_are_untouched() {
    let mut object = claim(&one(&format!("{NPU}, count: 2")));
    let context =
        Context { config: &ControllerConfig::default(), known: &shipped(), planner: Planner::Alive };
    let asked = |object: &Value, user: &str| {
        let request = json!({"operation": "CREATE", "object": object, "userInfo": {"username": user}});
        told(&review(&request, &context)).lines().next().unwrap().to_owned()
    };
    assert_eq!(asked(&object, "system:kube-scheduler"), "changed");
    object["metadata"]["annotations"] = json!({"resource.kubernetes.io/extended-resource-claim": "true"});
    assert_eq!(asked(&object, "somebody"), "changed");
    assert_eq!(asked(&object, "system:kube-scheduler"), "untouched: made_by_scheduler");
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(asked(&object, "somebody"), "untouched: being_deleted");
}

#[test]
fn templates_are_judged_and_never_rewritten() {
    let mut text = "Templates are validated and warned about, never mutated\n".to_owned();
    for devices in [
        one(NPU),
        one(&format!("{NPU}, capacity: {{requests: {{memory: 4Gi}}}}")),
        one(&format!("{NPU}, count: 2")),
        one(&format!("{NPU}, count: 4")),
        several(&[NPU, NPU]),
        one(&format!("{NPU}, capacity: {{requests: {{mem: 4Gi}}}}")),
    ] {
        let response = create(&template(&devices), &ControllerConfig::default(), &shipped());
        assert!(response.operations.is_empty());
        write!(text, "\n{devices}\n{}", told(&response)).unwrap();
    }
    insta::assert_snapshot!(text);
}

#[test]
fn own_classes_of_chips_become_their_own_modules() {
    let mut config = ControllerConfig::default();
    config.classes.npu = vec!["big.example.com".to_owned(), "small.example.com".to_owned()];
    config.classes.module = vec!["big-module.example.com".to_owned()];
    config.classes.modules_of.insert("big.example.com".to_owned(), "big-module.example.com".to_owned());
    insta::assert_snapshot!(answers(
        "classes of the administrator",
        &config,
        &shipped(),
        &[
            &one("deviceClassName: big.example.com, count: 4"),
            &one("deviceClassName: small.example.com, count: 4"),
            &one("deviceClassName: small.example.com, count: 2"),
        ]
    ));
}

#[test]
fn v1beta1_is_changed_in_its_own_form() {
    let mut text = "v1beta1 has the fields of `exactly` in the request\n".to_owned();
    for request in [
        format!("{{name: r, {NPU}, count: 4}}"),
        format!("{{name: r, {NPU}, count: 2}}"),
        format!("{{name: r, {NPU}, capacity: {{requests: {{memory: 4Gi}}}}}}"),
    ] {
        let mut object = claim(&format!("requests: [{request}]"));
        object["apiVersion"] = json!("resource.k8s.io/v1beta1");
        write!(text, "\n{request}\n{}", told(&create(&object, &ControllerConfig::default(), &shipped())))
            .unwrap();
    }
    insta::assert_snapshot!(text);
}
