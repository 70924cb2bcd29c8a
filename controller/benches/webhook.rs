//! What a review costs over TLS on connections that stay open, with one client and with eight, against a reviewer that
//! allows everything in the same run. The eight once send as fast as they are answered, which says how much the one
//! thread can bear, and once at a fixed rate, which is nearer to what an API server does: then a review's time counts
//! from when it was to be sent. Prints a table; `--check` fails when a claim's review is slower than it may be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::indexing_slicing)] // a bench may

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::crypto::ring;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use vnpu_controller::certificates::issue::{Authority, roots};
use vnpu_controller::certificates::resolver::{Resolver, Shown};
use vnpu_controller::lease::Leadership;
use vnpu_controller::metrics::Metrics;
use vnpu_controller::webhook::admission::Admission;
use vnpu_controller::webhook::lookup::Board;
use vnpu_controller::webhook::{Indifferent, Reviewer, router, server};

const NAME: &str = "vnpu-controller.vnpu-system.svc";
const WARM_UP: usize = 200;
const CALLS: usize = 4000;
/// Reviews a second that eight clients send together. An API server sends hundreds.
const RATES: [u32; 2] = [1000, 5000];
/// For how long, without what warms up.
const PACED: Duration = Duration::from_secs(4);
/// What a claim's review over an open connection may take: half of all, and all but one in a hundred.
const ALLOWED: (Duration, Duration) = (Duration::from_micros(250), Duration::from_micros(500));

/// Starts a server on a runtime and thread of its own, as the controller has; returns where and what to trust.
fn serve(reviewer: impl FnOnce() -> Arc<dyn Reviewer> + Send + 'static) -> (SocketAddr, Arc<ClientConfig>) {
    let authority = Authority::make(SystemTime::now()).unwrap();
    let leaf = authority.sign(&[NAME.to_owned()], SystemTime::now()).unwrap();
    let trusted = Arc::new(roots(std::slice::from_ref(&authority.anchor)).unwrap());
    let resolver = Resolver::default();
    resolver.show(Shown { certified: leaf.certified, roots: Arc::clone(&trusted) });
    let (told, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            let (tls, metrics) = (server::tls(resolver).unwrap(), Metrics::default());
            let router = router(reviewer(), metrics.clone());
            let patience = server::Patience::default();
            server::serve(listener, tls, router, metrics, patience, CancellationToken::new()).await;
        });
    });
    let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    (address.recv().unwrap(), Arc::new(client))
}

/// A planner is alive, and nothing is known of the cluster.
fn admission() -> Arc<dyn Reviewer> {
    let now = tokio::time::Instant::now();
    let leading =
        Leadership { somebody_until: Some(now + Duration::from_secs(3600)), ..Leadership::unknown(now) };
    let (_, config) = watch::channel(Arc::default());
    let (_, leadership) = watch::channel(leading);
    Arc::new(Admission::new(config, leadership, Board::default()))
}

fn review(kind: &str, object: &Value) -> Bytes {
    let resource = json!({"group": "resource.k8s.io", "version": "v1", "resource": kind});
    let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "0b9c7d0e-4c2d-4c6c-9df4-0a4c8d1f3b21", "operation": "CREATE", "namespace": "team-a",
        "resource": resource, "userInfo": {"username": "system:serviceaccount:kube-system:resource-claim-controller",
        "groups": ["system:serviceaccounts", "system:authenticated"]}, "object": object, "oldObject": null,
        "dryRun": false, "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"}}});
    Bytes::from(body.to_string())
}

/// Eight chips, which become four modules.
fn claim() -> Bytes {
    review(
        "resourceclaims",
        &json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": "train-npu-x7k2p", "generateName": "train-npu-", "namespace": "team-a", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "train-0", "uid": "6f0b3c1e-0000-4000-8000-000000000001"}]},
        "spec": {"devices": {"requests": [{"name": "npu", "exactly": {"deviceClassName": "npu.vnpu.dev", "count": 8,
            "allocationMode": "ExactCount", "selectors": [
                {"cel": {"expression": "device.attributes[\"vnpu.dev\"].model == \"910C\""}}]}}]}}}),
    )
}

/// A pod as a Job makes it, with the usual weight.
fn pod() -> Bytes {
    let variables: Vec<Value> = (0..40)
        .map(|n| json!({"name": format!("VARIABLE_{n}"), "value": format!("value of variable {n}")}))
        .collect();
    let container = json!({"name": "train", "image": "registry.example.com/team-a/train:2026.11", "env": variables,
        "resources": {"limits": {"cpu": "16", "memory": "128Gi"}, "claims": [{"name": "npu"}]},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "token", "mountPath": "/var/run/secrets"}]});
    review(
        "pods",
        &json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "train-", "namespace": "team-a", "labels": {"app": "train", "job-name": "train"},
            "annotations": {"batch.kubernetes.io/job-completion-index": "0"}, "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "Job", "name": "train", "controller": true, "uid": "6f0b3c1e-0000-4000-8000-00000002"}]},
        "spec": {"containers": [container], "schedulerName": "default-scheduler", "resourceClaims": [
            {"name": "npu", "resourceClaimTemplateName": "npu"}], "volumes": [{"name": "data", "emptyDir": {}},
            {"name": "token", "projected": {"sources": []}}]}}),
    )
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

async fn connect(address: SocketAddr, tls: &Arc<ClientConfig>, http2: bool) -> Sender {
    let mut tls = ClientConfig::clone(tls);
    if !http2 {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = NAME.try_into().unwrap();
    let stream = TokioIo::new(TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap());
    if http2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        Sender::Http2(sender)
    } else {
        let (sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Sender::Http1(sender)
    }
}

async fn calls(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    http2: bool,
    path: &str,
    body: Bytes,
    count: usize,
) -> Vec<Duration> {
    let mut sender = connect(address, &tls, http2).await;
    let mut took = Vec::with_capacity(count);
    for call in 0..count + WARM_UP {
        let uri = if http2 { format!("https://{NAME}{path}") } else { path.to_owned() };
        let request = Request::post(uri).header("host", NAME).body(Full::from(body.clone())).unwrap();
        let started = Instant::now();
        let response = match &mut sender {
            Sender::Http1(sender) => sender.send_request(request).await.unwrap(),
            Sender::Http2(sender) => sender.send_request(request).await.unwrap(),
        };
        assert!(response.status().is_success());
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        if call >= WARM_UP {
            took.push(started.elapsed());
        }
        assert!(answer.windows(14).any(|w| w == b"\"allowed\":true"), "{answer:?}");
    }
    took
}

/// Sends at a fixed rate from `first` on, whether earlier ones were answered or not; how long each took from the moment
/// at which it was to be sent.
async fn paced(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    path: &'static str,
    body: Bytes,
    first: Instant,
    interval: Duration,
) -> Vec<Duration> {
    let Sender::Http2(sender) = connect(address, &tls, true).await else { unreachable!("it was asked for") };
    let mut sent = Vec::new();
    let (mut due, end) = (first, first + PACED);
    while due < end {
        // The runtime's timer knows milliseconds only, so the last one is waited for by looking at the clock.
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            match left.checked_sub(Duration::from_millis(2)) {
                Some(long) => tokio::time::sleep(long).await,
                None => tokio::task::yield_now().await,
            }
        }
        let (mut sender, body) = (sender.clone(), body.clone());
        sent.push(tokio::spawn(async move {
            let request = Request::post(format!("https://{NAME}{path}")).body(Full::from(body)).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert!(response.status().is_success());
            response.into_body().collect().await.unwrap();
            due.elapsed()
        }));
        due += interval;
    }
    let mut took = Vec::with_capacity(sent.len());
    for answer in sent {
        took.push(answer.await.unwrap());
    }
    took.split_off(took.len() / 10)
}

/// Eight clients that send `rate` reviews a second together, one after the other.
fn measure_paced(
    address: SocketAddr,
    tls: &Arc<ClientConfig>,
    path: &'static str,
    body: &Bytes,
    rate: u32,
) -> Figures {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let took = runtime.block_on(async {
        // Long enough to shake hands.
        let first = Instant::now() + Duration::from_millis(300);
        let apart = Duration::from_secs(1) / rate;
        let tasks: Vec<_> = (0..8)
            .map(|client| {
                let (tls, body) = (Arc::clone(tls), body.clone());
                tokio::spawn(paced(address, tls, path, body, first + apart * client, apart * 8))
            })
            .collect();
        let mut took = Vec::new();
        for task in tasks {
            took.extend(task.await.unwrap());
        }
        took
    });
    Figures::of(took, f64::from(rate))
}

struct Figures {
    half: Duration,
    nearly_all: Duration,
    longest: Duration,
    rate: f64,
}

impl Figures {
    fn of(mut took: Vec<Duration>, rate: f64) -> Self {
        took.sort();
        Self {
            half: took[took.len() / 2],
            nearly_all: took[took.len() * 99 / 100],
            longest: took[took.len() - 1],
            rate,
        }
    }

    fn print(&self, object: &str, reviewer: &str, protocol: &str, clients: &str) {
        let [half, nearly_all, longest] =
            [self.half, self.nearly_all, self.longest].map(|took| took.as_secs_f64() * 1e3);
        println!(
            "{object:<8}{reviewer:<10}{protocol:<10}{clients:<14}{half:>10.3}{nearly_all:>10.3}{longest:>10.3}{:>12.0}",
            self.rate
        );
    }
}

fn measure(
    address: SocketAddr,
    tls: &Arc<ClientConfig>,
    http2: bool,
    path: &'static str,
    body: &Bytes,
    clients: usize,
) -> Figures {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let started = Instant::now();
    let took: Vec<Duration> = runtime.block_on(async {
        let each = CALLS / clients;
        let tasks: Vec<_> = (0..clients)
            .map(|_| tokio::spawn(calls(address, Arc::clone(tls), http2, path, body.clone(), each)))
            .collect();
        let mut took = Vec::new();
        for task in tasks {
            took.extend(task.await.unwrap());
        }
        took
    });
    let calls = took.len() + clients * WARM_UP;
    let rate = calls as f64 / started.elapsed().as_secs_f64();
    Figures::of(took, rate)
}

fn main() {
    let check = std::env::args().any(|argument| argument == "--check");
    let (real, indifferent) = (serve(admission), serve(|| Arc::new(Indifferent)));
    let mut slow = Vec::new();
    println!(
        "{:<8}{:<10}{:<10}{:<14}{:>10}{:>10}{:>10}{:>12}",
        "object", "reviewer", "protocol", "clients", "p50 ms", "p99 ms", "max ms", "reviews/s"
    );
    for (object, path, body) in [("claim", "/claims", claim()), ("pod", "/pods", pod())] {
        for http2 in [true, false] {
            for clients in [1, 8] {
                for (reviewer, (address, tls)) in [("none", &indifferent), ("rules", &real)] {
                    let figures = measure(*address, tls, http2, path, &body, clients);
                    let protocol = if http2 { "HTTP/2" } else { "HTTP/1.1" };
                    figures.print(object, reviewer, protocol, &clients.to_string());
                    if object == "claim"
                        && clients == 1
                        && (figures.half > ALLOWED.0 || figures.nearly_all > ALLOWED.1)
                    {
                        slow.push(format!("{reviewer} over {protocol}"));
                    }
                }
            }
        }
    }
    for (object, path, body) in [("claim", "/claims", claim()), ("pod", "/pods", pod())] {
        for rate in RATES {
            for (reviewer, (address, tls)) in [("none", &indifferent), ("rules", &real)] {
                let figures = measure_paced(*address, tls, path, &body, rate);
                figures.print(object, reviewer, "HTTP/2", "8, paced");
            }
        }
    }
    if check && !slow.is_empty() {
        println!("slower than {ALLOWED:?}: {}", slow.join(", "));
        std::process::exit(1);
    }
}
