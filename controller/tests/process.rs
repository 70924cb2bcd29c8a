//! The program as a process: how it starts, when it is ready, what it tells, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

use std::convert::Infallible;
use std::net::TcpListener as Port;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testing::FakeApi;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[allow(dead_code)] // not all of it is used here
#[path = "../src/testing.rs"]
mod testing;

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/vnpu-controller";
const SECRET: &str = "/api/v1/namespaces/vnpu-system/secrets/vnpu-controller-tls";

/// A kubeconfig for this API server.
async fn listen(api: &Arc<FakeApi>, dir: &Path) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let api = Arc::clone(api);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let api = Arc::clone(&api);
            let service = hyper::service::service_fn(move |request| {
                let api = Arc::clone(&api);
                async move { Ok::<_, Infallible>(api.serve::<hyper::body::Incoming>(request).await) }
            });
            tokio::spawn(async move {
                let connection = auto::Builder::new(TokioExecutor::new());
                let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    let path = dir.join("kubeconfig");
    std::fs::write(&path, text.to_string()).unwrap();
    path.display().to_string()
}

fn free_port() -> u16 {
    Port::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vnpu-controller"));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A process that does not outlive its test.
struct Controller {
    child: Child,
    admin: u16,
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Controller {
    fn start(kubeconfig: &str, flags: &[String]) -> Self {
        let (admin, webhook) = (free_port(), free_port());
        let child = command()
            .args(["--kubeconfig", kubeconfig])
            .arg(format!("--admin-address=127.0.0.1:{admin}"))
            .arg(format!("--webhook-address=127.0.0.1:{webhook}"))
            .args(flags)
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self { child, admin }
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.admin)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    async fn until(&self, path: &str, wanted: impl Fn(u16, &str) -> bool) {
        let started = Instant::now();
        let mut last = None;
        while started.elapsed() < Duration::from_secs(20) {
            last = self.get(path).await;
            if last.as_ref().is_some_and(|(code, text)| wanted(*code, text)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        panic!("{path}: {last:?}");
    }

    fn signal(&self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }

    async fn ended(&mut self, within: Duration) -> ExitStatus {
        let started = Instant::now();
        while started.elapsed() < within {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it goes on after {within:?}");
    }
}

fn configuration() -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "vnpu-controller"}, "webhooks": [{"name": "claims.vnpu.dev", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": {"service": {"name": "s", "namespace": "n"}}}]})
}

#[test]
fn a_configuration_that_cannot_be_used_ends_with_78() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, "apiVersion: vnpu.dev/v1alpha1\nkind: ControllerConfig\noddPolicy: sometimes\n")
        .unwrap();
    for (flag, told) in [
        (format!("--config={}", path.display()), "oddPolicy"),
        ("--lease-seconds=5".to_owned(), "--renew-seconds"),
        ("--log=[".to_owned(), "filter"),
    ] {
        let output = command().arg(&flag).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{flag}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(told), "{flag}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_is_ready_follows_its_configuration_and_ends() {
    let (api, dir) = (FakeApi::new(), tempfile::tempdir().unwrap());
    api.put(MUTATING, configuration());
    let kubeconfig = listen(&api, dir.path()).await;
    let config = dir.path().join("etc/config.yaml");
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    let head = "apiVersion: vnpu.dev/v1alpha1\nkind: ControllerConfig\n";
    std::fs::write(&config, head).unwrap();
    let started = Instant::now();
    let mut one = Controller::start(&kubeconfig, &[format!("--config={}", config.display())]);
    one.until("/readyz", |code, _| code == 200).await;
    println!("ready after {:?}", started.elapsed());
    assert!(api.object(SECRET).is_some());
    let trusted = &api.object(MUTATING).unwrap()["webhooks"][0]["clientConfig"]["caBundle"];
    assert!(trusted.is_string());

    std::fs::write(&config, format!("{head}oddPolicy: sometimes\n")).unwrap();
    one.until("/metrics", |_, text| text.contains("vnpu_config_valid 0")).await;
    assert!(one.get("/debug/config").await.unwrap().1.contains(r#""oddPolicy": "reject""#));
    std::fs::write(&config, format!("{head}oddPolicy: round-up\n")).unwrap();
    one.until("/debug/config", |_, text| text.contains(r#""oddPolicy": "round-up""#)).await;
    one.until("/metrics", |_, text| text.contains("vnpu_config_valid 1")).await;

    let asked = Instant::now();
    one.signal();
    one.until("/readyz", |code, text| code == 503 && text.contains("ending")).await;
    assert_eq!(one.get("/livez").await.unwrap().0, 200, "probes are answered to the end");
    let status = one.ended(Duration::from_secs(12)).await;
    println!("ended after {:?}", asked.elapsed());
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_api_server_it_lives_says_what_is_missing_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let mut one = Controller::start(&kubeconfig.display().to_string(), &[]);
    one.until("/livez", |code, _| code == 200).await;
    assert_eq!(one.get("/readyz").await.unwrap().0, 503);
    // It comes to be later.
    let api = FakeApi::new();
    listen(&api, dir.path()).await;
    one.until("/readyz", |code, _| code == 200).await;
    one.signal();
    assert!(one.ended(Duration::from_secs(12)).await.success());

    let mut nobody = Controller::start("/nowhere/kubeconfig", &[]);
    nobody.until("/livez", |code, _| code == 200).await;
    nobody.signal();
    assert!(nobody.ended(Duration::from_secs(3)).await.success());
}
