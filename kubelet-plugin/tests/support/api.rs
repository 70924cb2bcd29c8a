//! As much of an API server as the plugin talks to: claims, slices, the Node, events, and a watch on slices.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use super::{NODE, POOL, uid};

type Reply = UnsyncBoxBody<tonic::codegen::Bytes, Infallible>;

pub struct FakeApi {
    pub claims: Mutex<BTreeMap<String, Value>>,
    pub slices: Mutex<BTreeMap<String, Value>>,
    pub events: Mutex<Vec<Value>>,
    pub node: Mutex<Value>,
    pub status_patches: Mutex<Vec<Value>>,
    /// Every write of a slice, as "METHOD name".
    pub slice_writes: Mutex<Vec<String>>,
    /// Fields of devices that the server drops.
    pub drops: Mutex<Vec<&'static str>>,
    /// Answers 503 to everything.
    pub away: AtomicBool,
    /// Does not answer for as long as it is set.
    pub hangs: AtomicBool,
    /// Paths of all requests, also of those that are not answered yet.
    pub asked: Mutex<Vec<String>>,
    /// Does not know claims, nor any list of them: an API server that is starting, or a proxy before it.
    pub claims_unknown: AtomicBool,
    versions: AtomicU64,
    watch: broadcast::Sender<Value>,
    claim_watch: broadcast::Sender<Value>,
    node_watch: broadcast::Sender<Value>,
    /// Watches on single claims that were begun.
    pub claim_watches: AtomicU64,
}

impl FakeApi {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            claims: Mutex::default(),
            slices: Mutex::default(),
            events: Mutex::default(),
            node: Mutex::new(json!({"metadata": {"name": NODE, "uid": "node-uid", "labels": {
                    "vnpu.dev/leaf": "leaf-7", "vnpu.dev/superpod": "superpod-3"}}})),
            status_patches: Mutex::default(),
            slice_writes: Mutex::default(),
            drops: Mutex::default(),
            away: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
            asked: Mutex::default(),
            claims_unknown: AtomicBool::new(false),
            versions: AtomicU64::new(100),
            watch: broadcast::channel(64).0,
            claim_watch: broadcast::channel(64).0,
            node_watch: broadcast::channel(64).0,
            claim_watches: AtomicU64::new(0),
        })
    }

    /// Changes the node's labels, and tells those who watch it.
    pub fn label_node(&self, labels: Value) {
        let mut node = self.node.lock().unwrap();
        node["metadata"]["labels"] = labels;
        let _ = self.node_watch.send(json!({"type": "MODIFIED", "object": partial(&node)}));
    }

    pub fn client(self: &Arc<Self>) -> kube::Client {
        let api = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = Arc::clone(&api);
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Serves on a free port, for a plugin that is a process of its own; returns a kubeconfig for it.
    pub async fn listen(self: &Arc<Self>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let api = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let api = Arc::clone(&api);
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let api = Arc::clone(&api);
                    async move { Ok::<_, Infallible>(api.serve(request).await) }
                });
                tokio::spawn(async move {
                    let connection = auto::Builder::new(TokioExecutor::new());
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        })
        .to_string()
    }

    /// Whether something was asked for at a path with this end.
    pub fn was_asked(&self, end: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|path| path.ends_with(end))
    }

    /// An allocated claim, reserved for a pod. Results are (request, device, memory, cores); a device of another vendor
    /// than Ascend is `<vendor>/<device>`.
    pub fn allocate(&self, n: u32, results: &[(&str, &str, &str, &str)]) {
        let results: Vec<Value> = results
            .iter()
            .map(|(request, device, memory, cores)| {
                let (pool, device) = match device.split_once('/') {
                    Some((vendor, device)) => (format!("{NODE}/{vendor}"), device),
                    None => (POOL.to_owned(), *device),
                };
                let mut result =
                    json!({"request": request, "driver": "vnpu.dev", "pool": pool, "device": device});
                if device.starts_with("chip") {
                    result["shareID"] = json!(uid(n + 1_000_000));
                    result["consumedCapacity"] = json!({"memory": memory, "cores": cores});
                }
                result
            })
            .collect();
        let claim = json!({
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"namespace": "default", "name": format!("claim-{n}"), "uid": uid(n), "resourceVersion": "1"},
            "spec": {"devices": {}},
            "status": {
                "allocation": {"devices": {"results": results, "config": []}},
                "reservedFor": [{"resource": "pods", "name": "pod", "uid": uid(n + 2_000_000)}],
            },
        });
        self.claims.lock().unwrap().insert(format!("claim-{n}"), claim);
    }

    pub fn share(&self, n: u32, device: &str, memory: &str, cores: &str) {
        self.allocate(n, &[("npu", device, memory, cores)]);
    }

    pub fn edit(&self, n: u32, edit: impl FnOnce(&mut Value)) {
        let mut claims = self.claims.lock().unwrap();
        let claim = claims.get_mut(&format!("claim-{n}")).unwrap();
        edit(claim);
        claim["metadata"]["resourceVersion"] = json!(self.version());
        let _ = self.claim_watch.send(json!({"type": "MODIFIED", "object": claim}));
    }

    pub fn delete(&self, n: u32) {
        self.claims.lock().unwrap().remove(&format!("claim-{n}"));
    }

    /// Removes all slices, as the kubelet does at its start.
    pub fn wipe(&self) {
        let slices = std::mem::take(&mut *self.slices.lock().unwrap());
        for (_, mut slice) in slices {
            slice["metadata"]["resourceVersion"] = json!(self.version());
            let _ = self.watch.send(json!({"type": "DELETED", "object": slice}));
        }
    }

    /// Removes one slice while nobody hears of it, then ends the watch as a server does that has forgotten too much.
    pub fn lose(&self, name: &str) {
        self.slices.lock().unwrap().remove(name);
        let _ = self.watch.send(json!({"type": "ERROR", "object":
            {"kind": "Status", "status": "Failure", "message": "too old", "reason": "Expired", "code": 410}}));
    }

    fn version(&self) -> String {
        self.versions.fetch_add(1, Ordering::Relaxed).to_string()
    }

    async fn serve<B: http_body::Body<Error: std::fmt::Debug>>(
        &self,
        request: Request<B>,
    ) -> Response<Reply> {
        self.asked.lock().unwrap().push(request.uri().path().to_owned());
        while self.hangs.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if self.away.load(Ordering::Relaxed) {
            return answer(
                503,
                &json!({"kind": "Status", "status": "Failure", "message": "away", "code": 503}),
            );
        }
        let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
        let query = parts.uri.query().unwrap_or("");
        if self.claims_unknown.load(Ordering::Relaxed) && path.contains(&"resourceclaims") {
            return not_found();
        }
        match (&parts.method, path.as_slice()) {
            (&Method::GET, ["api", "v1", "nodes", name]) if *name == NODE => {
                answer(200, &self.node.lock().unwrap())
            }
            // Metadata alone, of this one node.
            (&Method::GET, ["api", "v1", "nodes"]) if query.contains("watch=true") => {
                streamed(BroadcastStream::new(self.node_watch.subscribe()).map(Result::unwrap))
            }
            (&Method::GET, ["api", "v1", "nodes"]) => {
                let items = [partial(&self.node.lock().unwrap())];
                answer(
                    200,
                    &json!({
                        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
                        "metadata": {"resourceVersion": "1"}, "items": items,
                    }),
                )
            }
            (&Method::POST, ["api", "v1", "namespaces", _, "events"]) => {
                self.events.lock().unwrap().push(body.clone());
                answer(201, &body)
            }
            (&Method::GET, ["apis", "resource.k8s.io", "v1", "resourceclaims"]) => {
                let items: Vec<Value> = self.claims.lock().unwrap().values().cloned().collect();
                answer(200, &json!({"metadata": {"resourceVersion": "1"}, "items": items}))
            }
            // A name in the selector is all that the plugin uses of it.
            (&Method::GET, ["apis", "resource.k8s.io", "v1", "namespaces", _, "resourceclaims"]) => {
                let name =
                    query.split('&').find_map(|q| q.strip_prefix("fieldSelector=metadata.name%3D")).unwrap();
                if query.contains("watch=true") {
                    self.claim_watches.fetch_add(1, Ordering::Relaxed);
                    let name = name.to_owned();
                    let named = move |event: &Value| event["object"]["metadata"]["name"] == name.as_str();
                    let events = BroadcastStream::new(self.claim_watch.subscribe())
                        .map(Result::unwrap)
                        .filter(move |event| std::future::ready(named(event)));
                    return streamed(events);
                }
                let items: Vec<Value> = self.claims.lock().unwrap().get(name).cloned().into_iter().collect();
                answer(200, &json!({"metadata": {"resourceVersion": "1"}, "items": items}))
            }
            (&Method::GET, ["apis", "resource.k8s.io", "v1", "namespaces", _, "resourceclaims", name]) => {
                match self.claims.lock().unwrap().get(*name) {
                    Some(claim) => answer(200, claim),
                    None => not_found(),
                }
            }
            (&Method::PATCH, [.., "resourceclaims", name, "status"]) => {
                self.status_patches.lock().unwrap().push(body.clone());
                let mut claims = self.claims.lock().unwrap();
                match claims.get_mut(*name) {
                    Some(claim) => {
                        claim["status"]["devices"] = body["status"]["devices"].clone();
                        answer(200, claim)
                    }
                    None => not_found(),
                }
            }
            (method, ["apis", "resource.k8s.io", "v1", "resourceslices", rest @ ..]) => {
                self.slice(method, rest, query, body)
            }
            other => panic!("the fake API server does not know {other:?}"),
        }
    }

    fn slice(&self, method: &Method, rest: &[&str], query: &str, mut body: Value) -> Response<Reply> {
        let note = |name: &str| self.slice_writes.lock().unwrap().push(format!("{method} {name}"));
        let mut slices = self.slices.lock().unwrap();
        match (method, rest) {
            (&Method::GET, []) if query.contains("watch=true") => {
                streamed(BroadcastStream::new(self.watch.subscribe()).map(Result::unwrap))
            }
            (&Method::GET, []) => {
                let items: Vec<&Value> = slices.values().collect();
                answer(200, &json!({"metadata": {"resourceVersion": self.version()}, "items": items}))
            }
            (&Method::POST, []) => {
                let version = self.version();
                let name = format!("{}x{version}", body["metadata"]["generateName"].as_str().unwrap());
                body["metadata"]["name"] = json!(name);
                body["metadata"]["uid"] = json!(format!("uid-{version}"));
                body["metadata"]["resourceVersion"] = json!(version);
                self.keep(&mut body);
                note(&name);
                slices.insert(name, body.clone());
                answer(201, &body)
            }
            (&Method::PUT, [name]) => match slices.get(*name) {
                Some(old) if old["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"] => {
                    body["metadata"]["resourceVersion"] = json!(self.version());
                    self.keep(&mut body);
                    note(name);
                    slices.insert((*name).to_owned(), body.clone());
                    answer(200, &body)
                }
                Some(_) => answer(
                    409,
                    &json!({"kind": "Status", "status": "Failure", "message": "conflict", "reason": "Conflict", "code": 409}),
                ),
                None => not_found(),
            },
            (&Method::DELETE, [name]) => {
                note(name);
                match slices.remove(*name) {
                    Some(old) => answer(200, &old),
                    None => not_found(),
                }
            }
            other => panic!("the fake API server does not know {other:?}"),
        }
    }

    /// Drops what the server has no feature gate for.
    fn keep(&self, slice: &mut Value) {
        let drops = self.drops.lock().unwrap();
        for device in slice["spec"]["devices"].as_array_mut().into_iter().flatten() {
            for field in drops.iter() {
                device.as_object_mut().unwrap().remove(*field);
            }
        }
    }
}

/// An object's metadata alone.
fn partial(object: &Value) -> Value {
    let mut metadata = object["metadata"].clone();
    metadata["resourceVersion"] = json!("1");
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata})
}

/// A watch that goes on until somebody ends it.
fn streamed(events: impl futures::Stream<Item = Value> + Send + 'static) -> Response<Reply> {
    let lines = events.map(|event| {
        let mut line = serde_json::to_vec(&event).unwrap();
        line.push(b'\n');
        Ok::<_, Infallible>(http_body::Frame::data(line.into()))
    });
    Response::new(StreamBody::new(lines).boxed_unsync())
}

fn answer(code: u16, body: &Value) -> Response<Reply> {
    let body = Full::new(serde_json::to_vec(body).unwrap().into()).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

fn not_found() -> Response<Reply> {
    answer(
        404,
        &json!({"kind": "Status", "status": "Failure", "message": "not found", "reason": "NotFound", "code": 404}),
    )
}
