//! The webhook server over real TLS: what comes in, what goes out, and how it ends.

use std::net::SocketAddr;
use std::time::SystemTime;

use http::{Method, Version};
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prometheus_client::registry::Registry;
use rustls::ClientConfig;
use rustls::crypto::ring;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use vnpu_driver::admission::Operation;
use vnpu_telemetry::Readiness;

use super::*;
use crate::certificates::issue::{Authority, roots};
use crate::certificates::resolver::{Resolver, Shown};

const NAME: &str = "vnpu-controller.vnpu-system.svc";

/// Does what the object's name says.
struct Obedient;

impl Reviewer for Obedient {
    fn review(&self, request: &Value) -> Verdict {
        let name = request.pointer("/object/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let labels = || Operation::Add { path: "/metadata/labels".to_owned(), value: json!({}) };
        let decision = match name {
            "change" => Decision::Changed(vec![labels()]),
            "deny" => Decision::Denied("not this one".to_owned()),
            "panic" => panic!("a defect"),
            _ => Decision::Allowed,
        };
        Verdict { decision, reason: "obedience", warnings: Vec::new() }
    }
}

struct Running {
    address: SocketAddr,
    resolver: Resolver,
    metrics: Metrics,
    registry: Registry,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn start(patience: server::Patience) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (resolver, stop) = (Resolver::default(), CancellationToken::new());
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let tls = server::tls(resolver.clone()).unwrap();
    let router = router(Arc::new(Obedient), metrics.clone());
    let task = tokio::spawn(server::serve(listener, tls, router, metrics.clone(), patience, stop.clone()));
    Running { address, resolver, metrics, registry, stop, task }
}

fn show(resolver: &Resolver, authority: &Authority, names: &[&str]) {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let leaf = authority.sign(&names, SystemTime::now()).unwrap();
    let roots = Arc::new(roots(std::slice::from_ref(&authority.anchor)).unwrap());
    resolver.show(Shown { certified: leaf.certified, roots });
}

type Https = Client<hyper_rustls::HttpsConnector<HttpConnector>, Full<Bytes>>;

/// What an API server does: trusts the authority, and calls the service by its name.
fn client(resolver: &Resolver, http2: bool) -> Https {
    let roots = Arc::clone(&resolver.shown().unwrap().roots);
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(NAME.try_into().unwrap()));
    if http2 {
        Client::builder(TokioExecutor::new()).http2_only(true).build(connector.enable_http2().build())
    } else {
        Client::builder(TokioExecutor::new()).build(connector.enable_http1().build())
    }
}

fn body(name: &str) -> Vec<u8> {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "u", "operation": "CREATE", "object": {"metadata": {"name": name}}}})
    .to_string()
    .into_bytes()
}

async fn call(
    client: &Https,
    address: SocketAddr,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> (StatusCode, Version, String) {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("https://{address}{path}"))
        .body(Full::from(body))
        .unwrap();
    let response = client.request(request).await.unwrap();
    let (status, version) = (response.status(), response.version());
    let text = response.into_body().collect().await.unwrap().to_bytes();
    (status, version, String::from_utf8(text.to_vec()).unwrap())
}

async fn post(client: &Https, running: &Running, path: &str, body: Vec<u8>) -> (StatusCode, String) {
    let (status, _, text) = call(client, running.address, Method::POST, path, body).await;
    (status, text)
}

#[tokio::test]
async fn reviews_are_answered_over_http_2_and_1() {
    let running = start(server::Patience::default()).await;
    show(&running.resolver, &Authority::make(SystemTime::now()).unwrap(), &[NAME]);
    for (http2, expected) in [(true, Version::HTTP_2), (false, Version::HTTP_11)] {
        let client = client(&running.resolver, http2);
        for path in ["/claims", "/pods"] {
            let (status, version, text) =
                call(&client, running.address, Method::POST, path, body("change")).await;
            assert_eq!((status, version), (StatusCode::OK, expected), "{text}");
            let answer: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(answer["response"]["patchType"], "JSONPatch");
            let (_, text) = post(&client, &running, path, body("deny")).await;
            let answer: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(answer["response"]["status"]["message"], "not this one");
        }
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &running.registry).unwrap();
    for line in [
        r#"vnpu_webhook_reviews_total{webhook="claims",outcome="changed",reason="obedience"} 2"#,
        r#"vnpu_webhook_reviews_total{webhook="pods",outcome="denied",reason="obedience"} 2"#,
        r#"vnpu_webhook_review_duration_seconds_count{webhook="pods"} 4"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    running.stop.cancel();
}

#[tokio::test]
async fn what_is_no_review_gets_a_reason_and_costs_nobody_else_anything() {
    let running = start(server::Patience::default()).await;
    show(&running.resolver, &Authority::make(SystemTime::now()).unwrap(), &[NAME]);
    let client = client(&running.resolver, true);
    let mut large = body("x");
    large.resize(LARGEST + 1, b' ');
    let mut just_fits = body("x");
    just_fits.resize(LARGEST, b' ');
    for (case, body, code, reason) in [
        ("nothing", Vec::new(), 400, "body_not_json"),
        ("no text", vec![0xff; 64], 400, "body_not_json"),
        ("another document", b"{}".to_vec(), 400, "body_other_document"),
        ("too large", large, 413, "body_too_large"),
        ("a defect", body("panic"), 500, "defect"),
    ] {
        let (status, text) = post(&client, &running, "/claims", body).await;
        assert_eq!(status.as_u16(), code, "{case}: {text}");
        assert!(text.contains(reason), "{case}: {text}");
        let failed = Reviewed { webhook: "claims", outcome: "failed", reason };
        assert!(running.metrics.reviews.get_or_create(&failed).get() >= 1, "{case}");
    }
    let (status, _) = post(&client, &running, "/claims", just_fits).await;
    assert_eq!(status, StatusCode::OK);
    let (status, ..) = call(&client, running.address, Method::GET, "/claims", Vec::new()).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let (status, _) = post(&client, &running, "/secrets", body("x")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    running.stop.cancel();
}

#[tokio::test]
async fn a_certificate_is_swapped_under_connections_that_go_on() {
    let running = start(server::Patience::default()).await;
    let (first, second) =
        (Authority::make(SystemTime::now()).unwrap(), Authority::make(SystemTime::now()).unwrap());
    show(&running.resolver, &first, &[NAME]);
    let old = client(&running.resolver, true);
    assert_eq!(post(&old, &running, "/pods", body("x")).await.0, StatusCode::OK);
    show(&running.resolver, &second, &[NAME]);
    let new = client(&running.resolver, true);
    assert_eq!(post(&new, &running, "/pods", body("x")).await.0, StatusCode::OK);
    assert_eq!(post(&old, &running, "/pods", body("x")).await.0, StatusCode::OK, "the open connection");
    assert_eq!(running.metrics.connections.get(), 2);
    running.stop.cancel();
}

#[tokio::test]
async fn it_is_ready_when_it_answers_itself_over_tls_and_not_otherwise() {
    let running = start(server::Patience::default()).await;
    let ask = || check::ask(running.address, NAME, &running.resolver);
    assert_eq!(ask().await.unwrap_err().reason(), "no_certificate");
    let authority = Authority::make(SystemTime::now()).unwrap();
    show(&running.resolver, &authority, &["another.svc"]);
    assert_eq!(ask().await.unwrap_err().reason(), "connect");
    let readiness = Readiness::of([check::PART]);
    let (stop, name) = (CancellationToken::new(), NAME.to_owned());
    let checking = tokio::spawn(check::run(
        running.address,
        name,
        running.resolver.clone(),
        readiness.clone(),
        stop.clone(),
    ));
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!readiness.is_ready());
    show(&running.resolver, &authority, &[NAME]);
    for _ in 0..100 {
        if readiness.is_ready() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(readiness.is_ready(), "{}", readiness.report());
    stop.cancel();
    checking.await.unwrap();
    assert!(!readiness.is_ready(), "an ending server wants no new requests");
    // Nobody there.
    running.stop.cancel();
    running.task.await.unwrap();
    assert_eq!(check::ask(running.address, NAME, &running.resolver).await.unwrap_err().reason(), "connect");
}

#[tokio::test]
async fn it_ends_in_stages() {
    let patience = server::Patience {
        linger: Duration::from_millis(600),
        drain: Duration::from_secs(5),
        ..server::Patience::default()
    };
    let running = start(patience).await;
    show(&running.resolver, &Authority::make(SystemTime::now()).unwrap(), &[NAME]);
    let open = client(&running.resolver, true);
    assert_eq!(post(&open, &running, "/pods", body("x")).await.0, StatusCode::OK);
    // Whoever says nothing does not hold up the end.
    let silent = tokio::net::TcpStream::connect(running.address).await.unwrap();
    let ended = std::time::Instant::now();
    running.stop.cancel();
    // Those who have not heard of the end yet are served.
    let late = client(&running.resolver, true);
    assert_eq!(post(&late, &running, "/pods", body("x")).await.0, StatusCode::OK);
    assert_eq!(post(&open, &running, "/pods", body("x")).await.0, StatusCode::OK);
    running.task.await.unwrap();
    let took = ended.elapsed();
    assert!(took >= patience.linger && took < Duration::from_secs(3), "{took:?}");
    assert!(tokio::net::TcpStream::connect(running.address).await.is_err());
    drop(silent);
}

#[tokio::test]
async fn silence_instead_of_a_handshake_or_a_body_is_given_up() {
    use tokio::io::AsyncReadExt as _;

    let patience = server::Patience { handshake: Duration::from_millis(200), ..server::Patience::default() };
    let running = start(patience).await;
    show(&running.resolver, &Authority::make(SystemTime::now()).unwrap(), &[NAME]);
    let mut silent = tokio::net::TcpStream::connect(running.address).await.unwrap();
    let mut buffer = [0_u8; 16];
    let closed = tokio::time::timeout(Duration::from_secs(5), silent.read(&mut buffer)).await.unwrap();
    assert!(closed.map_or(true, |read| read == 0));
    let slow = crate::metrics::Reason { reason: "handshake_slow" };
    assert_eq!(running.metrics.refused_connections.get_or_create(&slow).get(), 1);
    // A body that never comes.
    let desk = Desk {
        reviewer: Arc::new(Indifferent),
        metrics: running.metrics.clone(),
        room: Semaphore::new(IN_ALL / 1024),
    };
    let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    let response = desk.serve(Subject::Pod, Request::new(never)).await;
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    running.stop.cancel();
}
