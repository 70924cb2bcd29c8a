//! An API server for the tests of this crate: objects by path, `resourceVersion` kept strictly, and what can go wrong.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::Barrier;

#[derive(Default)]
struct Objects {
    by_path: BTreeMap<String, Value>,
    version: u64,
}

/// See above.
#[derive(Default)]
pub(crate) struct FakeApi {
    objects: Mutex<Arc<Mutex<Objects>>>,
    hangs: AtomicBool,
    /// Answers 503 to requests whose path contains this.
    broken: Mutex<Option<&'static str>>,
    /// "METHOD path" of each request.
    pub(crate) asked: Mutex<Vec<String>>,
    /// Those who read the same path for the first time wait here for each other.
    meeting: Mutex<Option<(String, Arc<Barrier>)>>,
}

impl FakeApi {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The same objects, another way to them.
    pub(crate) fn share_objects_of(&self, other: &Self) {
        let objects = Arc::clone(&other.objects.lock().unwrap());
        *self.objects.lock().unwrap() = objects;
    }

    /// No request is answered for as long as this is set.
    pub(crate) fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }

    pub(crate) fn break_paths(&self, part: Option<&'static str>) {
        *self.broken.lock().unwrap() = part;
    }

    /// Lets `count` readers of `path` see the same before any goes on.
    pub(crate) fn meet(&self, path: &str, count: usize) {
        *self.meeting.lock().unwrap() = Some((path.to_owned(), Arc::new(Barrier::new(count))));
    }

    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        let objects = Arc::clone(&self.objects.lock().unwrap());
        let objects = objects.lock().unwrap();
        objects.by_path.get(path).cloned()
    }

    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let objects = Arc::clone(&self.objects.lock().unwrap());
        let mut objects = objects.lock().unwrap();
        objects.version += 1;
        object["metadata"]["resourceVersion"] = json!(objects.version.to_string());
        objects.by_path.insert(path.to_owned(), object);
    }

    pub(crate) fn remove(&self, path: &str) {
        let objects = Arc::clone(&self.objects.lock().unwrap());
        objects.lock().unwrap().by_path.remove(path);
    }

    /// How often a request began with this.
    pub(crate) fn count(&self, start: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.starts_with(start)).count()
    }

    pub(crate) fn client(self: &Arc<Self>) -> kube::Client {
        let api = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = Arc::clone(&api);
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub(crate) async fn serve<B: hyper::body::Body<Error: std::fmt::Debug>>(
        &self,
        request: Request<B>,
    ) -> Response<Full<Bytes>> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        self.asked.lock().unwrap().push(format!("{method} {path}"));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.broken.lock().unwrap().is_some_and(|part| path.contains(part)) {
            return status(503, "ServiceUnavailable");
        }
        let answer = self.answer(&method, &path, body);
        if method == Method::GET {
            let meeting = self.meeting.lock().unwrap().clone();
            if let Some((_, barrier)) = meeting.filter(|(at, _)| *at == path) {
                barrier.wait().await;
                *self.meeting.lock().unwrap() = None;
            }
        }
        answer
    }

    fn answer(&self, method: &Method, path: &str, mut body: Value) -> Response<Full<Bytes>> {
        let objects = Arc::clone(&self.objects.lock().unwrap());
        let mut objects = objects.lock().unwrap();
        let path = match *method {
            Method::POST => format!("{path}/{}", body["metadata"]["name"].as_str().unwrap()),
            _ => path.to_owned(),
        };
        let stored = objects.by_path.get(&path).cloned();
        let (wanted, now) = (
            body["metadata"]["resourceVersion"].as_str().map(str::to_owned),
            stored.as_ref().map(|s| s["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()),
        );
        let written = match (method.as_str(), stored) {
            ("GET", Some(object)) => return reply(200, &object),
            ("POST", None) => body,
            ("POST", Some(_)) => return status(409, "AlreadyExists"),
            (_, None) => return status(404, "NotFound"),
            ("DELETE", Some(_)) => {
                let wanted = body["preconditions"]["resourceVersion"].as_str().map(str::to_owned);
                if wanted.is_some() && wanted != now {
                    return status(409, "Conflict");
                }
                let gone = objects.by_path.remove(&path);
                return reply(200, &gone.unwrap());
            }
            (_, Some(_)) if wanted.is_some() && wanted != now => return status(409, "Conflict"),
            ("PUT", Some(object)) if object["immutable"] == json!(true) => return status(422, "Invalid"),
            ("PUT", Some(_)) => body,
            ("PATCH", Some(mut object)) => {
                merge_webhooks(&mut object, &mut body);
                object
            }
            _ => return status(405, "MethodNotAllowed"),
        };
        let mut written = written;
        objects.version += 1;
        written["metadata"]["resourceVersion"] = json!(objects.version.to_string());
        objects.by_path.insert(path, written.clone());
        reply(200, &written)
    }
}

/// As much of a strategic merge as webhook configurations need: webhooks are merged by name.
fn merge_webhooks(object: &mut Value, patch: &mut Value) {
    for change in patch["webhooks"].as_array().cloned().unwrap_or_default() {
        for webhook in object["webhooks"].as_array_mut().unwrap() {
            if webhook["name"] == change["name"] {
                for (key, value) in change["clientConfig"].as_object().unwrap() {
                    webhook["clientConfig"][key] = value.clone();
                }
            }
        }
    }
}

fn reply(code: u16, body: &Value) -> Response<Full<Bytes>> {
    Response::builder().status(code).body(Full::from(body.to_string())).unwrap()
}

fn status(code: u16, reason: &str) -> Response<Full<Bytes>> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": reason, "reason": reason, "code": code});
    reply(code, &body)
}
