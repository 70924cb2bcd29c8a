//! `kubectl vnpu why` and `kubectl vnpu get` as programs, against an API server that answers from fixtures.

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
const POD: &str = "/api/v1/namespaces/bank/pods/train-1";
const EVENTS: &str = "/api/v1/namespaces/bank/events";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/vnpu-system/leases/vnpu-controller";
const LEADER: &str = "/api/v1/namespaces/vnpu-system/pods/vnpu-controller-b";
const LEADER_PAGE: &str = "/api/v1/namespaces/vnpu-system/pods/vnpu-controller-b:9091/proxy/debug/placement";
const SERVICE_PAGE: &str =
    "/api/v1/namespaces/vnpu-system/services/vnpu-controller:admin/proxy/debug/placement";

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
        .args(if arguments.contains(&"--context") { &[][..] } else { &["--context", "here"] })
        .env_clear()
        .env("LC_ALL", "C")
        .output()
        .expect("the program");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Seen { out: text(output.stdout), err: text(output.stderr), code: output.status.code().unwrap() }
}

fn with_nodes() -> Server {
    let server = Server::start();
    let (slices, claims) = objects::bank();
    server.put(SLICES, 200, &json!({"metadata": {}, "items": slices}));
    // In two pages.
    let (first, second) = claims.split_at(3);
    server.put(CLAIMS, 200, &json!({"metadata": {"continue": "more"}, "items": first}));
    server.put(CLAIMS, 200, &json!({"metadata": {}, "items": second}));
    server
}

#[test]
fn nodes_are_shown_without_the_controller() {
    let server = with_nodes();
    let seen = kubectl_vnpu(&server, &["get", "nodes"]);
    assert_eq!((seen.err.as_str(), seen.code), ("", 0));
    insta::assert_snapshot!(seen.out);
    assert_eq!(
        server.asked(),
        [
            format!("{SLICES}?&fieldSelector=spec.driver%3Dvnpu.dev&limit=500"),
            format!("{CLAIMS}?&limit=500"),
            format!("{CLAIMS}?&limit=500&continue=more"),
            format!("{RULES}?&limit=500"),
        ]
    );
}

#[test]
fn the_pool_is_shown_without_the_controller() {
    let server = with_nodes();
    let seen = kubectl_vnpu(&server, &["get", "pool"]);
    assert_eq!((seen.err.as_str(), seen.code), ("", 0));
    insta::assert_snapshot!(seen.out);
    let seen = kubectl_vnpu(&with_nodes(), &["get", "pool", "-o", "json"]);
    let value: Value = serde_json::from_str(&seen.out).unwrap();
    assert_eq!(value["kinds"][0]["model"], "910C");
    assert_eq!(value["totals"]["chips"], 71);
    let empty = Server::start();
    for path in [SLICES, CLAIMS] {
        empty.put(path, 200, &json!({"metadata": {}, "items": []}));
    }
    assert_eq!(kubectl_vnpu(&empty, &["get", "pool"]).out, "no node publishes devices of vnpu.dev\n");
    let seen = kubectl_vnpu(&Server::start(), &["get", "pool"]);
    assert!(seen.err.starts_with("kubectl vnpu get pool: cannot list resourceslices: "), "{}", seen.err);
    assert_eq!(seen.code, 2);
}

#[test]
fn a_node_that_publishes_nothing_is_an_answer_of_its_own() {
    let seen = kubectl_vnpu(&with_nodes(), &["get", "nodes", "node-10", "node-4"]);
    assert!(seen.out.starts_with("node-10: leaf leaf-2, super-pod sp-1\n"), "{}", seen.out);
    assert_eq!(seen.err, "kubectl vnpu get nodes: no devices of vnpu.dev are published for node-4\n");
    assert_eq!(seen.code, 1);
}

#[test]
fn json_is_json() {
    let seen = kubectl_vnpu(&with_nodes(), &["get", "nodes", "-o", "json"]);
    let value: Value = serde_json::from_str(&seen.out).unwrap();
    assert_eq!(value["nodes"].as_array().unwrap().len(), 5);
    assert_eq!(value["nodes"][1]["name"], "node-1");
    assert_eq!(value["totals"]["freeModules"], 15);
}

#[test]
fn a_cluster_that_cannot_be_asked_is_said_with_what_may_help() {
    let server = Server::start();
    let forbidden = json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden",
        "message": "resourceslices.resource.k8s.io is forbidden: User \"eve\" cannot list"});
    server.put(SLICES, 403, &forbidden);
    let seen = kubectl_vnpu(&server, &["get", "nodes"]);
    assert_eq!(
        seen.err,
        "kubectl vnpu get nodes: cannot list resourceslices: resourceslices.resource.k8s.io is forbidden: User \
         \"eve\" cannot list; docs/kubectl.md has the rights that are needed\n"
    );
    assert_eq!((seen.out.as_str(), seen.code), ("", 2));
    let seen = kubectl_vnpu(&server, &["get", "nodes", "--context", "nowhere"]);
    assert_eq!(seen.code, 2);
    assert!(
        seen.err.contains("cannot list resourceslices: ") && seen.err.contains("refused"),
        "{}",
        seen.err
    );
    let seen = kubectl_vnpu(&server, &["get", "nodes", "--context", "typo"]);
    assert!(seen.err.contains("check --kubeconfig and --context") && seen.code == 2, "{}", seen.err);
}

/// A cluster with a pod that waits, of which the leading replica knows.
fn with_pod() -> Server {
    let server = Server::start();
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "bank", "name": "train-1", "uid": "train-1"},
        "spec": {"containers": [{"name": "main"}], "schedulingGates": [{"name": "vnpu.dev/placement"}],
            "resourceClaims": [{"name": "npu"}]},
        "status": {"phase": "Pending"}});
    server.put(POD, 200, &pod);
    server.put(EVENTS, 200, &json!({"metadata": {}, "items": []}));
    server.put(
        LEASE,
        200,
        &json!({"metadata": {"name": "vnpu-controller"}, "spec": {"holderIdentity": "vnpu-controller-b"}}),
    );
    let container = json!({"name": "controller", "ports": [{"name": "admin", "containerPort": 9091}]});
    server.put(
        LEADER,
        200,
        &json!({"metadata": {"name": "vnpu-controller-b"}, "spec": {"containers": [container]}}),
    );
    server
}

fn page(text: &str) -> Value {
    json!([{"pods": ["bank/train-1"], "decision": {}, "text": text, "events": []}])
}

fn forbidden(what: &str) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": format!("{what} is forbidden")})
}

#[test]
fn the_leader_is_found_by_its_lease() {
    let server = with_pod();
    server.put(LEADER_PAGE, 200, &page("Job bank/train: waits"));
    let seen = kubectl_vnpu(&server, &["why", "train-1"]);
    assert_eq!((seen.err.as_str(), seen.code), ("", 0));
    assert!(seen.out.contains("Job bank/train: waits"), "{}", seen.out);
    assert!(server.asked().contains(&format!("{LEADER_PAGE}?pod=bank%2Ftrain-1")), "{:?}", server.asked());
    assert!(
        server.asked().contains(&format!("{EVENTS}?&fieldSelector=involvedObject.uid%3Dtrain-1&limit=500"))
    );
}

#[test]
fn where_the_lease_may_not_be_read_the_service_is_asked_until_a_replica_knows() {
    let server = with_pod();
    server.put(LEADER_PAGE, 403, &forbidden("pods/proxy"));
    for _ in 0..4 {
        server.put(SERVICE_PAGE, 200, &json!([]));
    }
    server.put(SERVICE_PAGE, 200, &page("Job bank/train: waits"));
    let seen = kubectl_vnpu(&server, &["why", "train-1", "-n", "bank"]);
    assert!(seen.out.contains("Job bank/train: waits"), "{}", seen.out);
    assert_eq!(server.asked().iter().filter(|asked| asked.starts_with(SERVICE_PAGE)).count(), 5);
}

#[test]
fn a_controller_that_knows_nothing_or_says_nothing_leaves_what_the_pod_tells() {
    let server = with_pod();
    server.put(LEADER_PAGE, 200, &json!([]));
    let seen = kubectl_vnpu(&server, &["why", "train-1"]);
    assert_eq!(
        seen.out,
        "bank/train-1 waits at the gate of vnpu, and nothing has been decided yet.\n\nThe controller has no record of \
         this pod.\n"
    );
    let server = with_pod();
    server.put(LEADER_PAGE, 403, &forbidden("pods/proxy"));
    server.put(SERVICE_PAGE, 403, &forbidden("services/proxy"));
    let seen = kubectl_vnpu(&server, &["why", "train-1"]);
    assert_eq!(
        seen.out,
        "bank/train-1 waits at the gate of vnpu.\n\nThe controller does not say why: cannot ask the controller: \
         pods/proxy is forbidden; docs/kubectl.md has the rights that are needed\n"
    );
    assert_eq!(seen.code, 0);
}

#[test]
fn the_controller_can_be_asked_directly() {
    let (server, controller) = (with_pod(), Server::start());
    controller.put("/debug/placement", 200, &page("Job bank/train: waits"));
    let seen = kubectl_vnpu(&server, &["why", "train-1", "-o", "json", "--controller", controller.address()]);
    let value: Value = serde_json::from_str(&seen.out).unwrap();
    assert_eq!(value["controller"]["answer"], "known");
    assert_eq!(value["controller"]["placement"]["text"], "Job bank/train: waits");
    assert_eq!(value["pod"]["gated"], true);
    assert_eq!(controller.asked(), ["/debug/placement?pod=bank%2Ftrain-1"]);
}

#[test]
fn a_pod_that_is_not_there_is_an_answer_of_its_own() {
    let seen = kubectl_vnpu(&with_pod(), &["why", "train-9"]);
    assert_eq!(seen.err, "kubectl vnpu why: there is no pod train-9; is -n the right namespace?\n");
    assert_eq!(seen.code, 1);
}
