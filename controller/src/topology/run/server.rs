//! As much of an API server as the topology needs: Nodes that are listed, watched and applied to, Kueue's Topology where
//! it is installed, and events.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::topology::label::MANAGER;

type Reply = UnsyncBoxBody<Bytes, Infallible>;

const NODES: &str = "/api/v1/nodes";
const TOPOLOGIES: &str = "/apis/kueue.x-k8s.io/v1alpha1/topologies";

/// What is stored under a path, and who watches it.
struct Collection {
    objects: BTreeMap<String, Value>,
    watch: broadcast::Sender<Value>,
}

pub(super) struct Server {
    nodes: Mutex<Collection>,
    topologies: Mutex<Collection>,
    versions: Mutex<u64>,
    kueue: Mutex<bool>,
    pub(super) events: Mutex<Vec<Value>>,
    /// Names of nodes in the order in which they were applied to, conflicts included.
    pub(super) applied: Mutex<Vec<String>>,
    pub(super) asked: Mutex<Vec<String>>,
    writing: AtomicUsize,
    pub(super) most_at_once: AtomicUsize,
}

fn collection() -> Mutex<Collection> {
    Mutex::new(Collection { objects: BTreeMap::new(), watch: broadcast::channel(8192).0 })
}

impl Server {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            nodes: collection(),
            topologies: collection(),
            versions: Mutex::new(1),
            kueue: Mutex::new(false),
            events: Mutex::default(),
            applied: Mutex::default(),
            asked: Mutex::default(),
            writing: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        })
    }

    pub(super) fn client(self: &Arc<Self>) -> kube::Client {
        let server = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = Arc::clone(&server);
            async move { Ok::<_, Infallible>(server.serve(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Sets labels of a node as `manager`, as `kubectl label --overwrite` does; `None` takes one away.
    pub(super) fn label(&self, node: &str, manager: &str, labels: &[(&str, Option<&str>)]) {
        self.change(node, |object| {
            for (label, value) in labels {
                let field = format!("f:{label}");
                for entry in object["metadata"]["managedFields"].as_array_mut().unwrap() {
                    entry["fieldsV1"]["f:metadata"]["f:labels"].as_object_mut().unwrap().remove(&field);
                }
                let all = object["metadata"]["labels"].as_object_mut().unwrap();
                match value {
                    Some(value) => all.insert((*label).to_owned(), json!(value)),
                    None => all.remove(*label),
                };
                if value.is_some() {
                    entry_of(object, manager, "Update")[field] = json!({});
                }
            }
        });
    }

    pub(super) fn labels_of(&self, node: &str) -> Value {
        self.nodes.lock().unwrap().objects[node]["metadata"]["labels"].clone()
    }

    /// Installs Kueue, with a Topology.
    pub(super) fn install_kueue(&self, name: &str, levels: &[&str]) {
        *self.kueue.lock().unwrap() = true;
        let levels: Vec<Value> = levels.iter().map(|label| json!({"nodeLabel": label})).collect();
        let version = self.version();
        let object = json!({"apiVersion": "kueue.x-k8s.io/v1alpha1", "kind": "Topology",
            "metadata": {"name": name, "resourceVersion": version}, "spec": {"levels": levels}});
        let mut topologies = self.topologies.lock().unwrap();
        let kind = if topologies.objects.contains_key(name) { "MODIFIED" } else { "ADDED" };
        topologies.objects.insert(name.to_owned(), object.clone());
        let _ = topologies.watch.send(json!({"type": kind, "object": object}));
    }

    fn version(&self) -> String {
        let mut versions = self.versions.lock().unwrap();
        *versions += 1;
        versions.to_string()
    }

    fn change(&self, node: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut nodes = self.nodes.lock().unwrap();
        let fresh = || {
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata":
                {"name": node, "uid": format!("uid-{node}"), "labels": {}, "managedFields": []}})
        };
        let is_new = !nodes.objects.contains_key(node);
        let object = nodes.objects.entry(node.to_owned()).or_insert_with(fresh);
        let before = object.clone();
        change(object);
        // As the API server does: what changes nothing is no new version.
        if is_new || before != *object {
            object["metadata"]["resourceVersion"] = json!(self.version());
            let object = object.clone();
            let kind = if is_new { "ADDED" } else { "MODIFIED" };
            let _ = nodes.watch.send(json!({"type": kind, "object": object}));
        }
        nodes.objects[node].clone()
    }

    async fn serve(&self, request: Request<Body>) -> Response<Reply> {
        let (method, uri) = (request.method().to_string(), request.uri().clone());
        let query = uri.query().unwrap_or_default().to_owned();
        self.asked.lock().unwrap().push(format!("{method} {}", uri.path()));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let kueue = *self.kueue.lock().unwrap();
        match (method.as_str(), uri.path()) {
            ("GET", NODES) => self.read(&self.nodes, &query),
            ("GET", TOPOLOGIES) if kueue => self.read(&self.topologies, &query),
            ("GET", "/apis") => reply(200, &groups(kueue)),
            ("GET", "/apis/kueue.x-k8s.io/v1beta1") if kueue => reply(200, &resources("v1beta1", "Workload")),
            ("GET", "/apis/kueue.x-k8s.io/v1alpha1") if kueue => {
                reply(200, &resources("v1alpha1", "Topology"))
            }
            ("POST", "/api/v1/namespaces/default/events") => {
                self.events.lock().unwrap().push(body.clone());
                reply(201, &body)
            }
            ("PATCH", path) if path.starts_with(NODES) => {
                assert!(query.contains("fieldManager=vnpu-topology") && !query.contains("force"), "{query}");
                self.apply(&path[NODES.len() + 1..], &body).await
            }
            _ => {
                reply(404, &json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}))
            }
        }
    }

    fn read(&self, collection: &Mutex<Collection>, query: &str) -> Response<Reply> {
        let collection = collection.lock().unwrap();
        if !query.contains("watch=true") {
            let items: Vec<&Value> = collection.objects.values().collect();
            let version = self.versions.lock().unwrap().to_string();
            return reply(200, &json!({"metadata": {"resourceVersion": version}, "items": items}));
        }
        let since: u64 =
            query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")).unwrap().parse().unwrap();
        let is_newer = |object: &&Value| {
            object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > since
        };
        // What came between the list and the watch.
        let missed: Vec<Value> = collection.objects.values().filter(is_newer).cloned().collect();
        let missed = missed.into_iter().map(|object| json!({"type": "MODIFIED", "object": object}));
        let live = futures::stream::unfold(collection.watch.subscribe(), |mut receiver| async move {
            Some((receiver.recv().await.ok()?, receiver))
        });
        let lines = futures::stream::iter(missed)
            .chain(live)
            .map(|event| Ok(Frame::data(Bytes::from(format!("{event}\n")))));
        Response::new(StreamBody::new(lines).boxed_unsync())
    }

    /// Server-side apply of labels, without force.
    async fn apply(&self, node: &str, body: &Value) -> Response<Reply> {
        self.applied.lock().unwrap().push(node.to_owned());
        let writing = self.writing.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(writing, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.writing.fetch_sub(1, Ordering::SeqCst);
        assert_eq!(body["metadata"]["uid"], json!(format!("uid-{node}")));
        let wanted = body["metadata"]["labels"].as_object().unwrap().clone();
        let stored = self.nodes.lock().unwrap().objects[node].clone();
        for (label, value) in &wanted {
            let manager = stored["metadata"]["managedFields"].as_array().unwrap().iter().find(|entry| {
                let labels = &entry["fieldsV1"]["f:metadata"]["f:labels"];
                entry["manager"] != MANAGER && labels.get(format!("f:{label}")).is_some()
            });
            if let Some(manager) = manager.filter(|_| stored["metadata"]["labels"][label] != *value) {
                let cause = json!({"reason": "FieldManagerConflict", "message": manager["manager"],
                    "field": format!(".metadata.labels.{label}")});
                let status = json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409,
                    "message": "Apply failed with 1 conflict", "details": {"causes": [cause]}});
                return reply(409, &status);
            }
        }
        let changed = self.change(node, |object| {
            let before = std::mem::replace(entry_of(object, MANAGER, "Apply"), json!({}));
            let managed = object["metadata"]["managedFields"].to_string();
            let labels = object["metadata"]["labels"].as_object_mut().unwrap();
            for field in before.as_object().unwrap().keys() {
                let label = field.trim_start_matches("f:");
                if !wanted.contains_key(label) && !managed.contains(&format!("\"{field}\"")) {
                    labels.remove(label);
                }
            }
            labels.extend(wanted.clone());
            for label in wanted.keys() {
                entry_of(object, MANAGER, "Apply")[format!("f:{label}")] = json!({});
            }
        });
        reply(200, &changed)
    }
}

/// The labels that a manager is known to manage.
fn entry_of<'a>(object: &'a mut Value, manager: &str, operation: &str) -> &'a mut Value {
    let entries = object["metadata"]["managedFields"].as_array_mut().unwrap();
    let at = entries.iter().position(|e| e["manager"] == manager && e["operation"] == operation);
    let at = at.unwrap_or_else(|| {
        entries.push(json!({"manager": manager, "operation": operation,
            "fieldsV1": {"f:metadata": {"f:labels": {}}}}));
        entries.len() - 1
    });
    &mut entries[at]["fieldsV1"]["f:metadata"]["f:labels"]
}

/// As an older Kueue serves it: Topology only in a version that is not the preferred one.
fn groups(kueue: bool) -> Value {
    let version = |v: &str| json!({"groupVersion": format!("kueue.x-k8s.io/{v}"), "version": v});
    let group = json!({"name": "kueue.x-k8s.io", "versions": [version("v1beta1"), version("v1alpha1")],
        "preferredVersion": version("v1beta1")});
    json!({"groups": if kueue { vec![group] } else { Vec::new() }})
}

fn resources(version: &str, kind: &str) -> Value {
    let plural = if kind == "Topology" { "topologies" } else { "workloads" };
    json!({"groupVersion": format!("kueue.x-k8s.io/{version}"), "resources": [{"name": plural, "singularName": "",
        "namespaced": kind != "Topology", "kind": kind, "verbs": ["get", "list", "watch"]}]})
}

fn reply(code: u16, body: &Value) -> Response<Reply> {
    let body = Full::from(body.to_string()).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}
