//! The manifests of the controller, held against the program: what they name is what it looks for, and the
//! configuration that stands there is the default one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

use std::collections::BTreeSet;
use std::path::Path;

use cel::parser::Parser;
use cel::{Context, Value as CelValue};
use clap::Parser as _;
use serde_json::{Value, json};
use vnpu_controller::config::{Args, Settings};
use vnpu_driver::controller_config::ControllerConfig;

fn documents(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifests").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    documents.into_iter().filter(|d| !d.is_null()).collect()
}

fn one(file: &str, kind: &str) -> Value {
    let mut found = documents(file);
    found.retain(|d| d["kind"] == kind);
    assert_eq!(found.len(), 1, "{kind} in {file}");
    found.remove(0)
}

/// The settings of the program in the Deployment.
fn deployed() -> Settings {
    let container =
        one("42-controller.yaml", "Deployment")["spec"]["template"]["spec"]["containers"][0].take();
    let flags = container["args"].as_array().unwrap().iter().map(|flag| {
        let flag = flag.as_str().unwrap();
        flag.replace("$(NAMESPACE)", "vnpu-system").replace("$(POD_NAME)", "vnpu-controller-x")
    });
    // The file is mounted there and not here.
    let flags = flags.filter(|flag| !flag.starts_with("--config="));
    Settings::from_args(Args::parse_from(std::iter::once("vnpu-controller".to_owned()).chain(flags))).unwrap()
}

fn webhooks() -> Vec<Value> {
    let configurations = documents("43-webhooks.yaml");
    configurations.iter().flat_map(|c| c["webhooks"].as_array().unwrap().clone()).collect()
}

#[test]
fn the_configuration_that_stands_there_is_the_default() {
    let map = one("41-controller-config.yaml", "ConfigMap");
    let document: Value = serde_saphyr::from_str(map["data"]["config.yaml"].as_str().unwrap()).unwrap();
    assert_eq!(ControllerConfig::read(&document).unwrap(), ControllerConfig::default());
    // Whoever looks there finds every field that always has a value.
    let complete = serde_json::to_value(ControllerConfig::default()).unwrap();
    for (key, value) in complete.as_object().unwrap() {
        let written = &document[key];
        assert!(!written.is_null(), "{key}");
        for field in value.as_object().into_iter().flatten().map(|(field, _)| field) {
            assert!(!written[field].is_null(), "{key}.{field}");
        }
    }
}

#[test]
fn objects_are_called_what_the_program_calls_them() {
    let settings = deployed();
    let names = settings.names();
    let service = one("42-controller.yaml", "Service");
    let service_name = service["metadata"]["name"].as_str().unwrap();
    assert_eq!(names.server, [format!("{service_name}.vnpu-system.svc")]);
    for configuration in documents("43-webhooks.yaml") {
        assert_eq!(configuration["metadata"]["name"], json!(names.configurations));
    }
    for webhook in webhooks() {
        let called = &webhook["clientConfig"]["service"];
        assert_eq!((&called["name"], &called["namespace"]), (&json!(service_name), &json!("vnpu-system")));
        assert_eq!(called["port"], service["spec"]["ports"][0]["port"]);
        assert!(["/claims", "/pods"].contains(&called["path"].as_str().unwrap()));
        assert_eq!(webhook["clientConfig"]["caBundle"], Value::Null, "applying again would take it away");
    }
    let deployment = one("42-controller.yaml", "Deployment");
    let ports = &deployment["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(ports[0]["containerPort"], json!(settings.webhook.unwrap().port()));
    assert_eq!(ports[1]["containerPort"], json!(settings.admin.unwrap().port()));
}

#[test]
fn rights_are_those_that_are_needed() {
    let settings = deployed();
    let rights = |kind: &str| -> BTreeSet<String> {
        let role = one("40-controller-rbac.yaml", kind);
        let rules = role["rules"].as_array().unwrap();
        rules.iter().map(|r| format!("{} {} {}", r["resources"], r["resourceNames"], r["verbs"])).collect()
    };
    let (secret, lease) = (settings.names().secret, settings.args.lease_name);
    let own = [
        r#"["leases"] null ["create"]"#.to_owned(),
        format!(r#"["leases"] ["{lease}"] ["get","update"]"#),
        r#"["secrets"] null ["create"]"#.to_owned(),
        format!(r#"["secrets"] ["{secret}"] ["get","update","delete"]"#),
    ];
    assert_eq!(rights("Role"), own.into());
    let cluster = rights("ClusterRole");
    let watch = r#"["get","list","watch"]"#;
    let writing: BTreeSet<String> = cluster.into_iter().filter(|right| !right.ends_with(watch)).collect();
    let expected = [
        r#"["events"] null ["create","patch"]"#,
        r#"["mutatingwebhookconfigurations","validatingwebhookconfigurations"] ["vnpu-controller"] ["get","patch"]"#,
        r#"["nodes"] null ["get","list","watch","patch"]"#,
        r#"["pods"] null ["get","list","watch","patch"]"#,
        r#"["pods/status"] null ["patch"]"#,
    ];
    assert_eq!(writing, expected.map(str::to_owned).into());
}

#[test]
fn every_kind_that_is_watched_can_be_watched() {
    let role = one("40-controller-rbac.yaml", "ClusterRole");
    let rules = role["rules"].as_array().unwrap();
    for kind in vnpu_controller::planner::watches::KINDS {
        let allows =
            |rule: &Value, field: &str, word: &str| rule[field].as_array().unwrap().contains(&json!(word));
        let granted = rules.iter().filter(|rule| allows(rule, "resources", kind));
        let granted: Vec<_> = granted.filter(|rule| rule["resourceNames"].is_null()).collect();
        for verb in ["list", "watch"] {
            assert!(granted.iter().any(|rule| allows(rule, "verbs", verb)), "{verb} {kind}");
        }
    }
}

#[test]
fn every_kind_that_works_as_one_can_be_looked_at() {
    let role = one("40-controller-rbac.yaml", "ClusterRole");
    let rules = role["rules"].as_array().unwrap();
    for kind in ControllerConfig::default().placement.gang_kinds {
        let resource = format!("{}s", kind.kind.to_lowercase());
        let has = |list: &Value, word: &str| list.as_array().unwrap().contains(&json!(word));
        let allowed =
            rules.iter().any(|r| has(&r["apiGroups"], &kind.group) && has(&r["resources"], &resource));
        assert!(allowed, "{kind}");
    }
}

#[test]
fn no_webhook_can_hold_anything_up() {
    for webhook in webhooks() {
        let name = &webhook["name"];
        assert_eq!(webhook["failurePolicy"], "Ignore", "{name}");
        assert_eq!(webhook["timeoutSeconds"], 2, "{name}");
        assert_eq!(webhook["sideEffects"], "None", "{name}");
        assert_eq!(webhook["matchPolicy"], "Equivalent", "{name}");
        assert_eq!(webhook["namespaceSelector"], Value::Null, "{name}");
    }
}

#[test]
fn replicas_have_no_rights_on_their_node_and_stay_apart() {
    let deployment = one("42-controller.yaml", "Deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
    assert!(pod["volumes"].as_array().unwrap().iter().all(|v| v["hostPath"].is_null()));
    assert_eq!(one("42-controller.yaml", "PodDisruptionBudget")["spec"]["minAvailable"], 1);
}

/// Whether a webhook is asked about a change from `old` to `new`.
fn is_asked(webhook: &str, old: &Value, new: &Value) -> bool {
    let webhook = webhooks().into_iter().find(|w| w["name"] == webhook).unwrap();
    webhook["matchConditions"].as_array().unwrap().iter().all(|condition| {
        let expression = condition["expression"].as_str().unwrap();
        let mut context = Context::default();
        context.add_variable("object", new.clone()).unwrap();
        context.add_variable("oldObject", old.clone()).unwrap();
        let parser = Parser::default().enable_optional_syntax(true);
        let parsed = parser.parse(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
        match CelValue::resolve(&parsed, &context) {
            Ok(CelValue::Bool(answer)) => answer,
            other => panic!("{expression}: {other:?}"),
        }
    })
}

#[test]
fn the_webhooks_are_asked_about_what_is_ours_and_nothing_else() {
    let claim =
        |request: Value| json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [request]}}});
    let exactly = |class: &str| claim(json!({"name": "r", "exactly": {"deviceClassName": class}}));
    let either = |class: &str| {
        claim(json!({"name": "r", "firstAvailable": [
            {"name": "a", "deviceClassName": "gpu.example.com"}, {"name": "b", "deviceClassName": class}]}))
    };
    let mut deleted = exactly("npu.vnpu.dev");
    deleted["metadata"]["deletionTimestamp"] = json!("2026-11-22T00:00:00Z");
    let mut finalized = exactly("npu.vnpu.dev");
    finalized["metadata"]["finalizers"] = json!(["resource.kubernetes.io/delete-protection"]);
    let none = Value::Null;
    for (case, old, new, asked) in [
        ("a claim of ours", &none, exactly("npu.vnpu.dev"), true),
        ("an alternative of ours", &none, either("gpu.vnpu.dev"), true),
        ("another's", &none, exactly("gpu.example.com"), false),
        ("another's alternatives", &none, either("npu.example.com"), false),
        ("no request", &none, json!({"metadata": {}, "spec": {}}), false),
        ("a finalizer", &exactly("npu.vnpu.dev"), finalized, false),
        ("a changed class", &exactly("gpu.vnpu.dev"), exactly("npu.vnpu.dev"), true),
        ("on its way out", &exactly("gpu.vnpu.dev"), deleted, false),
    ] {
        assert_eq!(is_asked("claims.vnpu.dev", old, &new), asked, "{case}");
        let template = json!({"metadata": {}, "spec": {"spec": new["spec"]}});
        if old.is_null() {
            assert_eq!(is_asked("templates.vnpu.dev", old, &template), asked, "template: {case}");
        }
    }
    let limits = |name: &str| json!([{"name": "c", "resources": {"limits": {"cpu": "1", name: "1"}}}]);
    let plain = json!([{"name": "c"}]);
    for (case, spec, asked) in [
        ("nothing", json!({"containers": plain}), false),
        ("a claim", json!({"containers": plain, "resourceClaims": [{"name": "npu"}]}), true),
        ("a module", json!({"containers": limits("vnpu.dev/npu-module")}), true),
        ("a chip", json!({"containers": limits("deviceclass.resource.kubernetes.io/npu.vnpu.dev")}), true),
        (
            "in an init container",
            json!({"containers": plain, "initContainers": limits("vnpu.dev/npu-module")}),
            true,
        ),
        ("another's resource", json!({"containers": limits("example.com/gpu")}), false),
        ("a node", json!({"containers": limits("vnpu.dev/npu-module"), "nodeName": "n"}), false),
    ] {
        let pod = json!({"metadata": {"name": "p"}, "spec": spec});
        assert_eq!(is_asked("pods.vnpu.dev", &none, &pod), asked, "{case}");
    }
}

/// Alerts are about metrics that there are.
#[test]
fn alerts_name_metrics_that_the_program_has() {
    let source = |name: &str| {
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
    };
    let metrics = source("src/metrics.rs") + &source("src/planner/metrics.rs");
    let alerts: Value = serde_saphyr::from_str(&source("../deploy/monitoring/alerts.yaml")).unwrap();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.iter().any(|r| r["expr"] == "max(vnpu_straddling_claims) > 0"), "the first of all");
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| word.starts_with("vnpu_")) {
            let registered = format!("\"{}\"", name.trim_end_matches("_total"));
            assert!(metrics.contains(&registered), "{}: there is no metric {name}", rule["alert"]);
        }
    }
}

/// `onPartial: recreate` needs one right, and the shipped role must not have it.
#[test]
fn the_right_to_delete_pods_is_apart_and_nothing_else() {
    let pods_may = |rules: &Value, verb: &str| {
        let rules = rules.as_array().unwrap().iter();
        let pods = |rule: &&Value| rule["resources"].as_array().unwrap().contains(&json!("pods"));
        rules.filter(pods).any(|rule| rule["verbs"].as_array().unwrap().contains(&json!(verb)))
    };
    assert!(!pods_may(&one("40-controller-rbac.yaml", "ClusterRole")["rules"], "delete"));
    let optional = "../optional/controller-recreate.yaml";
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["delete"]}]);
    assert_eq!(one(optional, "ClusterRole")["rules"], rules);
    let binding = one(optional, "ClusterRoleBinding");
    assert_eq!(binding["subjects"], one("40-controller-rbac.yaml", "ClusterRoleBinding")["subjects"]);
    assert_eq!(binding["roleRef"]["name"], one(optional, "ClusterRole")["metadata"]["name"]);
}
