//! `kubectl vnpu drain` and `undrain` as programs, against an API server that answers from fixtures.

// A test may panic; clippy knows that of test functions, not of what they call.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "support/objects.rs"]
mod objects;
#[path = "support/server.rs"]
mod server;

use std::process::Command;

use serde_json::{Value, json};
use server::Server;

const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
const CLAIMS: &str = "/apis/resource.k8s.io/v1/resourceclaims";
const RULES: &str = "/apis/resource.k8s.io/v1/devicetaintrules";

/// What a person sees.
struct Seen {
    out: String,
    err: String,
    code: i32,
}

fn kubectl_vnpu(server: &Server, arguments: &[&str]) -> Seen {
    let kubeconfig = server.kubeconfig();
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-vnpu"))
        .args(arguments)
        .arg("--kubeconfig")
        .arg(kubeconfig.path())
        .args(["--context", "here"])
        .env_clear()
        .env("LC_ALL", "C")
        .output()
        .expect("the program");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Seen { out: text(output.stdout), err: text(output.stderr), code: output.status.code().unwrap() }
}

fn rule(device: &str, effect: &str) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "DeviceTaintRule",
        "metadata": {
            "name": format!("vnpu-drain.node-1.ascend.{device}"),
            "labels": {"app.kubernetes.io/managed-by": "vnpu"},
        },
        "spec": {
            "deviceSelector": {"driver": "vnpu.dev", "pool": "node-1/ascend", "device": device},
            "taint": {"key": "vnpu.dev/drain", "effect": effect},
        },
    })
}

/// A cluster with these rules; `None` is one that does not know the kind.
fn cluster(rules: Option<&[Value]>) -> Server {
    let server = Server::start();
    let (slices, claims) = objects::bank();
    server.put(SLICES, 200, &json!({"metadata": {}, "items": slices}));
    server.put(CLAIMS, 200, &json!({"metadata": {}, "items": claims}));
    if let Some(rules) = rules {
        server.put(RULES, 200, &json!({"metadata": {}, "items": rules}));
    }
    server
}

/// What was written, as (method, name, effect).
fn written(server: &Server) -> Vec<String> {
    let asked = server.asked();
    let writes = asked.iter().filter(|asked| !asked.starts_with('/'));
    writes
        .map(|asked| {
            let mut words = asked.splitn(3, ' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let body: Value = serde_json::from_str(words.next().unwrap()).unwrap_or_default();
            let path = path.split('?').next().unwrap().strip_prefix(RULES).unwrap();
            let name = body["metadata"]["name"].as_str().unwrap_or(path.trim_start_matches('/')).to_owned();
            let effect = body["spec"]["taint"]["effect"].as_str().unwrap_or_default();
            format!("{method} {name} {effect}").trim().to_owned()
        })
        .collect()
}

#[test]
fn a_chip_goes_out_of_service_with_its_module() {
    let server = cluster(Some(&[]));
    let seen = kubectl_vnpu(&server, &["drain", "node-1", "chip-4-1"]);
    assert_eq!((seen.err.as_str(), seen.code), ("", 0));
    assert_eq!(
        seen.out,
        "node-1/ascend:chip-4-1 is drained; module-4 is not given out whole either\n  nothing is on it\nback with: \
         kubectl vnpu undrain node-1 node-1/ascend:chip-4-1\n"
    );
    assert_eq!(
        written(&server),
        [
            "POST vnpu-drain.node-1.ascend.module-4 NoSchedule",
            "POST vnpu-drain.node-1.ascend.chip-4-1 NoSchedule"
        ]
    );
    let asked = server.asked();
    let body = asked.last().unwrap().splitn(3, ' ').nth(2).unwrap();
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), rule("chip-4-1", "NoSchedule"));
}

#[test]
fn a_drain_again_changes_nothing_and_one_with_eviction_changes_the_effect() {
    let rules = [rule("chip-4-0", "NoSchedule"), rule("module-4", "NoSchedule")];
    let server = cluster(Some(&rules));
    let seen = kubectl_vnpu(&server, &["drain", "node-1", "chip-4-0"]);
    assert!(seen.out.starts_with("node-1/ascend:chip-4-0 was drained already; "), "{}", seen.out);
    assert!(seen.out.contains("bank/infer-a  bank/infer-a-7d9f  16Gi 25%  stays"), "{}", seen.out);
    assert_eq!((written(&server), seen.code), (Vec::new(), 0));
    let seen = kubectl_vnpu(&server, &["drain", "node-1", "chip-4-0", "--evict"]);
    assert!(seen.out.contains("bank/infer-a  bank/infer-a-7d9f  16Gi 25%  evicted"), "{}", seen.out);
    assert_eq!(
        written(&server),
        [
            "PATCH vnpu-drain.node-1.ascend.module-4 NoExecute",
            "PATCH vnpu-drain.node-1.ascend.chip-4-0 NoExecute"
        ]
    );
}

#[test]
fn a_dry_run_writes_nothing() {
    let server = cluster(Some(&[]));
    let seen = kubectl_vnpu(&server, &["drain", "node-1", "module-5", "--dry-run", "--evict"]);
    assert!(seen.out.starts_with("node-1/ascend:module-5 would be drained, with chip-5-0 and chip-5-1\n"));
    assert!(seen.out.contains("risk/score  risk/score-0  64Gi 100%  evicted"), "{}", seen.out);
    assert_eq!((written(&server), seen.code), (Vec::new(), 0));
    let server = cluster(Some(&[rule("chip-4-0", "NoSchedule"), rule("module-4", "NoSchedule")]));
    let seen = kubectl_vnpu(&server, &["undrain", "node-1", "chip-4-0", "--dry-run"]);
    assert_eq!(seen.out, "node-1/ascend:chip-4-0 would be back in service\n");
    assert!(written(&server).is_empty());
}

#[test]
fn undrain_takes_away_what_drain_made_and_nothing_else() {
    let mut other = rule("chip-4-0", "NoSchedule");
    other["metadata"]["name"] = json!("somebody-elses");
    other["metadata"]["labels"] = json!({});
    let rules = [rule("chip-4-0", "NoSchedule"), rule("module-4", "NoSchedule"), other];
    let server = cluster(Some(&rules));
    let seen = kubectl_vnpu(&server, &["undrain", "node-1", "chip-4-0"]);
    assert_eq!((seen.out.as_str(), seen.code), ("node-1/ascend:chip-4-0 is back in service\n", 0));
    assert_eq!(
        written(&server),
        ["DELETE vnpu-drain.node-1.ascend.chip-4-0", "DELETE vnpu-drain.node-1.ascend.module-4"]
    );
    let server = cluster(Some(&[]));
    let seen = kubectl_vnpu(&server, &["undrain", "node-1", "chip-4-0"]);
    assert_eq!((seen.out.as_str(), seen.code), ("node-1/ascend:chip-4-0 was not drained\n", 0));
    assert!(written(&server).is_empty());
}

#[test]
fn nothing_is_changed_unless_every_chip_is_known() {
    let server = cluster(Some(&[]));
    for (arguments, message) in [
        (
            &["drain", "node-1", "chip-4-0", "chip-9-0"][..],
            "kubectl vnpu drain: node-1 publishes no chip-9-0; `kubectl vnpu get nodes node-1` shows what it has\n",
        ),
        (
            &["undrain", "node-9", "chip-0-0"],
            "kubectl vnpu undrain: no devices of vnpu.dev are published for node-9\n",
        ),
    ] {
        let seen = kubectl_vnpu(&server, arguments);
        assert_eq!((seen.err.as_str(), seen.code), (message, 1));
    }
    assert!(written(&server).is_empty());
}

#[test]
fn a_node_that_is_gone_leaves_rules_that_can_be_taken_away() {
    let mut rule = rule("chip-0-0", "NoSchedule");
    rule["spec"]["deviceSelector"]["pool"] = json!("gone-1/ascend");
    let server = cluster(Some(&[rule]));
    let seen = kubectl_vnpu(&server, &["undrain", "gone-1", "chip-0-0"]);
    assert_eq!((seen.out.as_str(), seen.code), ("gone-1/ascend:chip-0-0 is back in service\n", 0));
    assert_eq!(written(&server).len(), 1);
}

#[test]
fn a_cluster_without_the_kind_is_told_what_to_do_in_one_line() {
    let seen = kubectl_vnpu(&cluster(None), &["drain", "node-1", "chip-4-0"]);
    assert_eq!(
        seen.err,
        "kubectl vnpu drain: this cluster does not serve DeviceTaintRule of resource.k8s.io/v1 (Kubernetes 1.37 and later \
         do): upgrade it; until then `kubectl cordon node-1` keeps new pods from the whole node\n"
    );
    assert_eq!((seen.out.as_str(), seen.code), ("", 2));
}

#[test]
fn whoever_may_not_is_told_where_the_rights_are() {
    let forbidden = |what: &str| {
        json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden",
            "message": format!("{what} is forbidden")})
    };
    let server = cluster(None);
    server.put(RULES, 403, &forbidden("list"));
    let seen = kubectl_vnpu(&server, &["drain", "node-1", "chip-4-0"]);
    let rights = "docs/kubectl.md has the rights that are needed\n";
    assert_eq!(
        seen.err,
        format!("kubectl vnpu drain: cannot list devicetaintrules: list is forbidden; {rights}")
    );
    assert_eq!(seen.code, 2);
    let server = cluster(Some(&[]));
    server.put(&format!("POST {RULES}"), 403, &forbidden("create"));
    let seen = kubectl_vnpu(&server, &["drain", "node-1", "chip-4-0"]);
    assert_eq!(
        seen.err,
        format!(
            "kubectl vnpu drain: cannot create the devicetaintrule vnpu-drain.node-1.ascend.module-4: create is \
             forbidden; {rights}"
        )
    );
    assert_eq!((seen.out.as_str(), seen.code), ("", 2));
}

#[test]
fn drained_chips_are_shown_as_such_where_rules_may_be_read() {
    let rules = [rule("chip-4-1", "NoSchedule"), rule("module-4", "NoSchedule")];
    let seen = kubectl_vnpu(&cluster(Some(&rules)), &["get", "nodes"]);
    assert!(seen.out.contains("## ## ## ## 5~ #. 55 .."), "{}", seen.out);
    assert!(seen.out.contains("! sick  ~ drained  - not there"), "{}", seen.out);
    let seen = kubectl_vnpu(&cluster(Some(&rules)), &["get", "nodes", "node-1"]);
    assert!(seen.out.contains("chip-4-1  drained"), "{}", seen.out);
    assert!(seen.out.contains("chip-4-1 has the taint vnpu.dev/drain:NoSchedule"), "{}", seen.out);
    let seen = kubectl_vnpu(&cluster(Some(&rules)), &["get", "pool"]);
    assert!(seen.out.lines().next().unwrap().contains("SICK  DRAINED  SHARING"), "{}", seen.out);
    let seen = kubectl_vnpu(&cluster(Some(&rules)), &["get", "pool", "-o", "json"]);
    let value: Value = serde_json::from_str(&seen.out).unwrap();
    assert_eq!((&value["totals"]["drained"], &value["totals"]["sick"]), (&json!(1), &json!(1)));
    // A rule of anybody else makes it sick.
    let mut other = rule("chip-4-1", "NoExecute");
    other["spec"]["taint"]["key"] = json!("example.com/hot");
    let seen = kubectl_vnpu(&cluster(Some(&[other])), &["get", "nodes"]);
    assert!(seen.out.contains("## ## ## ## 5! #. 55 .."), "{}", seen.out);
    // Without rules to read it goes on without.
    let server = cluster(None);
    server.put(RULES, 403, &json!({"kind": "Status", "status": "Failure", "code": 403, "message": "no"}));
    for server in [cluster(None), server] {
        let seen = kubectl_vnpu(&server, &["get", "nodes"]);
        assert!(seen.err.is_empty() && seen.out.contains("## ## ## ## 5. #. 55 .."), "{}", seen.out);
    }
}
