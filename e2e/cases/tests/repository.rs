//! The YAML that users apply, looked at without a cluster: every file parses and is what its place promises.
//! What the API server says to it is asserted by the end-to-end suites.

// A test may panic; clippy knows that of test functions, not of what they call.
#![allow(clippy::indexing_slicing, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cel::{Context, Program, Value as CelValue};
use serde_json::{Value, json};
use vnpu_e2e_cases::{Example, GuardCase, GuardVerdict};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn documents(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a readable file");
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    documents.into_iter().filter(|d| !d.is_null()).collect()
}

fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(directory)).expect("a directory");
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    files
}

fn manifests() -> Vec<Value> {
    yaml_files("deploy/manifests").iter().flat_map(|path| documents(path)).collect()
}

fn one(kind: &str, name: &str) -> Value {
    let mut found = manifests();
    found.retain(|m| m["kind"] == kind && m["metadata"]["name"] == name);
    assert_eq!(found.len(), 1, "{kind} {name}");
    found.remove(0)
}

fn classes() -> Vec<(String, String)> {
    let files = yaml_files("deviceclasses");
    let classes = files.iter().flat_map(|path| documents(path));
    let text = |v: &Value| v.as_str().expect("text").to_owned();
    classes
        .map(|c| (text(&c["metadata"]["name"]), text(&c["spec"]["selectors"][0]["cel"]["expression"])))
        .collect()
}

#[test]
fn every_class_asks_for_the_driver_first() {
    let classes = classes();
    let names: Vec<&str> = classes.iter().map(|(name, _)| name.as_str()).collect();
    let shipped = [
        "accelerator.vnpu.dev",
        "gpu-partition.vnpu.dev",
        "gpu.vnpu.dev",
        "npu-module.vnpu.dev",
        "npu.vnpu.dev",
    ];
    assert_eq!(names, shipped);
    for (name, expression) in classes {
        assert!(expression.starts_with(r#"device.driver == "vnpu.dev" &&"#), "{name}: {expression}");
    }
}

#[test]
fn only_the_module_class_is_an_extended_resource() {
    let files = yaml_files("deviceclasses");
    let resources: Vec<(Value, Value)> = files
        .iter()
        .flat_map(|path| documents(path))
        .filter(|class| !class["spec"]["extendedResourceName"].is_null())
        .map(|class| (class["metadata"]["name"].clone(), class["spec"]["extendedResourceName"].clone()))
        .collect();
    assert_eq!(resources, [(json!("npu-module.vnpu.dev"), json!("vnpu.dev/npu-module"))]);
}

#[test]
fn classes_select_what_their_names_say() {
    let device = |driver: &str, kind: &str, vendor: &str| json!({"driver": driver, "attributes": {"vnpu.dev": {"type": kind, "vendor": vendor}}});
    let selects = |class: &str, device: &Value| {
        let (_, expression) = classes().into_iter().find(|(name, _)| name == class).expect("a class");
        let mut context = Context::default();
        context.add_variable("device", device.clone()).expect("a variable");
        Program::compile(&expression).expect("an expression").execute(&context) == Ok(CelValue::Bool(true))
    };
    let npu = device("vnpu.dev", "chip", "ascend");
    let module = device("vnpu.dev", "module", "ascend");
    let gpu = device("vnpu.dev", "chip", "nvidia");
    let partition = device("vnpu.dev", "partition", "nvidia");
    let foreign = json!({"driver": "other.example.com", "attributes": {}});
    let table = [
        ("npu.vnpu.dev", [true, false, false, false, false]),
        ("npu-module.vnpu.dev", [false, true, false, false, false]),
        ("gpu.vnpu.dev", [false, false, true, false, false]),
        ("gpu-partition.vnpu.dev", [false, false, false, true, false]),
        ("accelerator.vnpu.dev", [true, false, true, false, false]),
    ];
    for (class, expected) in table {
        let selected = [&npu, &module, &gpu, &partition, &foreign].map(|device| selects(class, device));
        assert_eq!(selected, expected, "{class}");
    }
}

#[test]
fn the_plugin_has_exactly_the_rights_it_needs() {
    let role = one("ClusterRole", "vnpu-kubelet-plugin");
    let rights: BTreeSet<String> = role["rules"]
        .as_array()
        .expect("rules")
        .iter()
        .map(|rule| format!("{} {} {}", rule["resources"], rule["resourceNames"], rule["verbs"]))
        .collect();
    let expected = [
        r#"["events"] null ["create","patch"]"#,
        r#"["nodes"] null ["get","list","watch"]"#,
        r#"["resourceclaims"] null ["get","list","watch"]"#,
        r#"["resourceclaims/driver"] ["vnpu.dev"] ["associated-node:update","associated-node:patch"]"#,
        r#"["resourceclaims/status"] null ["patch"]"#,
        r#"["resourceslices"] null ["get","list","watch","create","update","patch","delete"]"#,
    ];
    assert_eq!(rights, expected.map(str::to_owned).into());
}

#[test]
fn the_guard_fails_closed_and_has_a_binding_that_needs_no_parameter() {
    for policy in ["vnpu-claim-guard", "vnpu-pod-guard"] {
        assert_eq!(one("ValidatingAdmissionPolicy", policy)["spec"]["failurePolicy"], "Fail");
        let plain = one("ValidatingAdmissionPolicyBinding", policy);
        assert_eq!(plain["spec"]["paramRef"], Value::Null);
        let own = one("ValidatingAdmissionPolicyBinding", &format!("{policy}-own-classes"));
        assert_eq!(own["spec"]["paramRef"]["parameterNotFoundAction"], "Allow");
        assert_eq!(own["spec"]["paramRef"]["name"], "vnpu-guard-classes");
        for binding in [plain, own] {
            assert_eq!(binding["spec"]["validationActions"], json!(["Deny"]));
            assert_eq!(binding["spec"]["policyName"], policy);
        }
    }
    assert_eq!(
        one("ConfigMap", "vnpu-guard-classes")["data"],
        Value::Null,
        "applying again would take data away"
    );
}

#[test]
fn the_daemonset_mounts_what_its_flags_name() {
    let pod = one("DaemonSet", "vnpu-kubelet-plugin")["spec"]["template"]["spec"].clone();
    let container = &pod["containers"][0];
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    let mounted =
        |path: &str| mounts.iter().filter_map(|m| m["mountPath"].as_str()).any(|m| path.starts_with(m));
    let arguments = container["args"].as_array().expect("arguments");
    for argument in arguments.iter().filter_map(Value::as_str) {
        let (flag, value) = argument.split_once('=').expect("a flag with a value");
        if flag.ends_with("-dir") {
            assert!(mounted(value), "{argument} is not on the host");
        }
    }
    // Paths in CDI files are the host's: what is mounted lies where the host has it.
    for mount in mounts {
        let volumes = pod["volumes"].as_array().expect("volumes");
        let volume = volumes.iter().find(|v| v["name"] == mount["name"]).expect("a volume");
        if mount["name"] == "node-files" {
            // Read by the plugin alone, and not there on most clusters.
            assert_eq!(volume["configMap"], json!({"name": "vnpu-node", "optional": true}));
            continue;
        }
        assert_eq!(volume["hostPath"]["path"], mount["mountPath"]);
    }
}

#[test]
fn every_guard_case_is_readable_and_names_no_namespace() {
    let cases = |folder: &str| GuardCase::load(&root().join(folder)).expect("readable cases");
    let shipped = cases("e2e/guard-cases");
    let own = cases("e2e/guard-cases/own-classes");
    let refused = |cases: &[GuardCase]| cases.iter().filter(|c| c.verdict != GuardVerdict::Legal).count();
    assert!(refused(&shipped) > 0 && refused(&shipped) < shipped.len(), "both kinds");
    assert!(refused(&own) > 0 && refused(&own) < own.len(), "both kinds");
    for case in shipped.iter().chain(&own) {
        let documents = documents(&case.path);
        assert_eq!(documents.len(), 1, "{}", case.name);
        assert_eq!(documents[0]["metadata"]["namespace"], Value::Null, "{}", case.name);
    }
}

#[test]
fn a_guard_case_is_judged_by_success_and_message() {
    let cases = GuardCase::load(&root().join("e2e/guard-cases")).expect("readable cases");
    for case in &cases {
        let judged = match &case.verdict {
            GuardVerdict::Legal => [case.judge(true, ""), case.judge(false, "denied request: no")],
            GuardVerdict::Refused(message) => {
                [case.judge(false, message), case.judge(false, "something else")]
            }
        };
        assert!(judged[0].is_ok() && judged[1].is_err(), "{}", case.name);
    }
}

#[test]
fn every_example_is_readable_and_in_the_list() {
    let examples = Example::load(&root().join("examples")).expect("readable examples");
    assert!(!examples.is_empty());
    let index = std::fs::read_to_string(root().join("examples/README.md")).expect("the list");
    for Example { name, manifest, steps } in &examples {
        assert!(index.contains(&format!("[{name}]({name})")), "{name}: is in the list");
        for object in documents(manifest) {
            assert_eq!(object["metadata"]["namespace"], Value::Null, "{name}: goes where its user wants it");
            let (kind, pod) = (&object["kind"], &object["metadata"]["name"]);
            // What is shown of a pod that does not run yet is a matter of luck.
            let wait = format!("kubectl wait --for=condition=Ready pod/{} ", pod.as_str().expect("a name"));
            let waits = steps.iter().any(|step| step.command.starts_with(&wait));
            assert!(kind != "Pod" || waits, "{name}: the README has no `$ {wait}`");
        }
    }
}
