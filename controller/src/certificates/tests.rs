//! Replicas that share one Secret in an API server that keeps versions strictly, under a clock that the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use serde_json::{Value, json};
use vnpu_telemetry::Readiness;

use super::*;
use crate::testing::FakeApi;

const SECRET: &str = "/api/v1/namespaces/vnpu-system/secrets/vnpu-controller-tls";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/vnpu";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/vnpu";
const DAY: u64 = 24 * 3600;

struct Replica {
    keeper: Keeper,
    resolver: Resolver,
    readiness: Readiness,
    metrics: Metrics,
}

impl Replica {
    fn new(api: &Arc<FakeApi>, time: &Arc<AtomicU64>) -> Self {
        let names = Names {
            namespace: "vnpu-system".to_owned(),
            secret: "vnpu-controller-tls".to_owned(),
            configurations: "vnpu".to_owned(),
            server: vec!["vnpu-controller.vnpu-system.svc".to_owned()],
        };
        let time = Arc::clone(time);
        let clock: Clock =
            Arc::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(time.load(Ordering::Relaxed)));
        let (resolver, readiness, metrics) = (Resolver::default(), Readiness::of([PART]), Metrics::default());
        let keeper =
            Keeper::new(api.client(), names, clock, resolver.clone(), readiness.clone(), metrics.clone());
        Self { keeper, resolver, readiness, metrics }
    }

    fn shown(&self) -> Vec<u8> {
        self.resolver.shown().unwrap().certified.cert[0].to_vec()
    }
}

fn set_up() -> (Arc<FakeApi>, Arc<AtomicU64>) {
    let api = FakeApi::new();
    let webhook = |name: &str| {
        json!({"name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 2,
            "clientConfig": {"service": {"name": "vnpu-controller", "namespace": "vnpu-system"}}})
    };
    let mutating = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "vnpu"}, "webhooks": [webhook("claims.vnpu.dev"), webhook("pods.vnpu.dev")]});
    let validating = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "vnpu"}, "webhooks": [webhook("templates.vnpu.dev")]});
    api.put(MUTATING, mutating);
    api.put(VALIDATING, validating);
    (api, Arc::new(AtomicU64::new(1_800_000_000)))
}

fn bundles(api: &FakeApi) -> Vec<String> {
    let mut bundles = Vec::new();
    for path in [MUTATING, VALIDATING] {
        for webhook in api.object(path).unwrap()["webhooks"].as_array().unwrap() {
            let coded = webhook["clientConfig"]["caBundle"].as_str().unwrap_or_default();
            let bytes = base64::engine::general_purpose::STANDARD.decode(coded).unwrap();
            bundles.push(String::from_utf8(bytes).unwrap());
        }
    }
    bundles
}

fn authorities(bundle: &str) -> usize {
    bundle.matches("BEGIN CERTIFICATE").count()
}

fn stored(api: &FakeApi) -> Stored {
    let secret: Secret = serde_json::from_value(api.object(SECRET).unwrap()).unwrap();
    Stored::read(&secret.data.unwrap())
}

#[tokio::test]
async fn two_replicas_that_start_together_end_with_one_authority() {
    let (api, time) = set_up();
    let (mut one, mut two) = (Replica::new(&api, &time), Replica::new(&api, &time));
    // Both have seen that there is none before either writes.
    api.meet(SECRET, 2);
    let (first, second) = tokio::join!(one.keeper.look(), two.keeper.look());
    first.unwrap();
    second.unwrap();
    assert_eq!(api.count("POST"), 2, "both tried");
    assert_eq!(one.shown(), two.shown());
    let bundles = bundles(&api);
    assert_eq!(bundles.len(), 3);
    assert!(bundles.iter().all(|b| *b == stored(&api).anchors()[0].pem));
    assert!(one.readiness.is_ready() && two.readiness.is_ready());
    // The webhooks' other fields are as they were.
    assert_eq!(api.object(MUTATING).unwrap()["webhooks"][1]["timeoutSeconds"], 2);
    // Nothing to do: nothing is written.
    let writes = api.count("P");
    one.keeper.look().await.unwrap();
    two.keeper.look().await.unwrap();
    assert_eq!(api.count("P"), writes);
}

#[tokio::test]
async fn an_authority_is_followed_by_another_without_a_moment_of_mistrust() {
    let (api, time) = set_up();
    let (mut one, mut two) = (Replica::new(&api, &time), Replica::new(&api, &time));
    one.keeper.look().await.unwrap();
    two.keeper.look().await.unwrap();
    let first = stored(&api).anchors()[0].clone();
    // The leaf is renewed on the way.
    for _ in 0..6 {
        time.fetch_add(50 * DAY, Ordering::Relaxed);
        one.keeper.look().await.unwrap();
        two.keeper.look().await.unwrap();
        assert_eq!(one.shown(), two.shown());
    }
    time.fetch_add(5 * DAY, Ordering::Relaxed);
    two.keeper.look().await.unwrap();
    assert!(bundles(&api).iter().all(|b| authorities(b) == 2 && b.contains(&first.pem)), "old and new");
    let before = two.shown();
    time.fetch_add(1800, Ordering::Relaxed);
    one.keeper.look().await.unwrap();
    assert_eq!(one.shown(), before, "not yet: API servers have to learn of the new one");
    time.fetch_add(1801, Ordering::Relaxed);
    one.keeper.look().await.unwrap();
    assert_ne!(one.shown(), before);
    assert!(
        bundles(&api).iter().all(|b| authorities(b) == 2 && b.contains(&first.pem)),
        "two serves the old one"
    );
    two.keeper.look().await.unwrap();
    assert_eq!(one.shown(), two.shown());
    time.fetch_add(3601, Ordering::Relaxed);
    two.keeper.look().await.unwrap();
    assert!(bundles(&api).iter().all(|b| authorities(b) == 1 && !b.contains(&first.pem)));
}

#[tokio::test]
async fn a_foreign_a_damaged_and_an_expired_secret_are_replaced() {
    let (api, time) = set_up();
    let damaged = json!({"ca.crt": "eA==", "ca.key": "eA==", "tls.crt": "eA==", "tls.key": "eA=="});
    let foreign = json!({"tls.crt": "eA==", "tls.key": "eA=="});
    for (case, kind, immutable, data) in [
        ("damaged", "Opaque", false, damaged.clone()),
        ("foreign", "kubernetes.io/tls", false, foreign),
        ("immutable", "Opaque", true, damaged),
        ("empty", "Opaque", false, Value::Null),
    ] {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": kind, "immutable": immutable,
            "metadata": {"name": "vnpu-controller-tls", "namespace": "vnpu-system"}, "data": data});
        api.put(SECRET, secret);
        let mut one = Replica::new(&api, &time);
        one.keeper.look().await.unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(one.readiness.is_ready(), "{case}");
        assert!(stored(&api).leaf.is_ok(), "{case}");
    }
    let mut one = Replica::new(&api, &time);
    one.keeper.look().await.unwrap();
    let before = one.shown();
    time.fetch_add(400 * DAY, Ordering::Relaxed);
    one.keeper.look().await.unwrap();
    assert_ne!(one.shown(), before);
    assert!(bundles(&api).iter().all(|b| authorities(b) == 1));
}

#[tokio::test]
async fn a_secret_that_was_deleted_comes_back_as_it_was() {
    let (api, time) = set_up();
    let mut one = Replica::new(&api, &time);
    one.keeper.look().await.unwrap();
    let before = one.shown();
    api.remove(SECRET);
    one.keeper.look().await.unwrap();
    assert_eq!(one.shown(), before);
    assert_eq!(stored(&api).leaf.unwrap().certified.cert[0].to_vec(), before);
}

#[tokio::test]
async fn a_bundle_that_somebody_took_out_is_put_back_and_other_fields_are_left_alone() {
    let (api, time) = set_up();
    let mut one = Replica::new(&api, &time);
    one.keeper.look().await.unwrap();
    let mut configuration = api.object(MUTATING).unwrap();
    configuration["webhooks"][0]["clientConfig"]["caBundle"] = json!("eA==");
    configuration["webhooks"][0]["timeoutSeconds"] = json!(7);
    api.put(MUTATING, configuration);
    one.keeper.look().await.unwrap();
    assert!(bundles(&api).iter().all(|b| authorities(b) == 1));
    assert_eq!(api.object(MUTATING).unwrap()["webhooks"][0]["timeoutSeconds"], 7);
}

#[tokio::test]
async fn without_the_right_to_write_configurations_the_certificate_is_shown_and_the_failure_told() {
    let (api, time) = set_up();
    api.break_paths(Some("mutatingwebhookconfigurations"));
    let mut one = Replica::new(&api, &time);
    let error = one.keeper.look().await.unwrap_err();
    assert_eq!(error.reason(), "trust_api");
    assert!(one.resolver.shown().is_some());
    assert!(one.readiness.is_ready());
    assert!(!bundles(&api)[2].is_empty(), "the one that can be written is");
    assert_eq!(one.metrics.trust_writes.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_an_api_server_it_goes_on_trying_and_is_not_ready() {
    let (api, time) = set_up();
    api.break_paths(Some("secrets"));
    let one = Replica::new(&api, &time);
    let stop = CancellationToken::new();
    let running = tokio::spawn(one.keeper.run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!one.readiness.is_ready());
    assert!(one.readiness.report().contains("Role"), "{}", one.readiness.report());
    api.break_paths(None);
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert!(one.readiness.is_ready());
    // What is shown is good for weeks, whatever becomes of the API server.
    api.break_paths(Some("secrets"));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(one.readiness.is_ready());
    time.fetch_add(61 * DAY, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(!one.readiness.is_ready());
    stop.cancel();
    running.await.unwrap();
}
