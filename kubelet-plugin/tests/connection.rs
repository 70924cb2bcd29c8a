//! Proves how the API server is spoken to: over one HTTP/2 connection where it can, over HTTP/1.1 where it cannot,
//! and never waiting for a connection that leads nowhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use vnpu_daemon::kubeapi::{Patience, connect};
use vnpu_kubelet_plugin::error::OperationError;
use vnpu_kubelet_plugin::kubeapi::{self, ApiError};

/// An API server that has one claim.
#[derive(Default)]
struct Server {
    connections: AtomicUsize,
    versions: Mutex<Vec<Version>>,
    /// Requests are taken and never answered.
    silent: AtomicBool,
}

impl Server {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        self.versions.lock().unwrap().push(request.version());
        if self.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let claim = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"namespace": "default", "name": "claim-1", "uid": "u"}, "spec": {"devices": {}},
        });
        Ok(Response::new(Full::from(claim.to_string())))
    }

    /// Serves on a free port with these protocols; returns the port and a kubeconfig's path.
    async fn start(self: &Arc<Self>, dir: &Path, protocols: &[&str]) -> u16 {
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(dir.join("ca.crt"), certified.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
        let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        let (acceptor, server) = (TlsAcceptor::from(Arc::new(tls)), Arc::clone(self));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, server) = (acceptor.clone(), Arc::clone(&server));
                server.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(move |request| Arc::clone(&server).answer(request));
                    let connection = auto::Builder::new(TokioExecutor::new());
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        port
    }
}

fn kubeconfig(dir: &Path, port: u16) -> std::path::PathBuf {
    let path = dir.join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "certificate-authority": dir.join("ca.crt")}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(&path, text.to_string()).unwrap();
    path
}

async fn read(client: &kube::Client) -> Result<(), ApiError> {
    let claim = kubeapi::claim(client, "default", "claim-1").await?;
    assert_eq!(claim.metadata.uid.as_deref(), Some("u"));
    Ok(())
}

#[tokio::test]
async fn concurrent_calls_share_one_connection_where_the_server_speaks_http2() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Arc::new(Server::default()));
    let port = server.start(dir.path(), &["h2", "http/1.1"]).await;
    let client = connect(Some(&kubeconfig(dir.path(), port)), Patience::default()).await.unwrap();
    read(&client).await.unwrap();
    futures::future::try_join_all((0..16).map(|_| read(&client))).await.unwrap();
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    assert!(server.versions.lock().unwrap().iter().all(|version| *version == Version::HTTP_2));
}

#[tokio::test]
async fn a_server_without_http2_is_spoken_to_as_it_wants() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Arc::new(Server::default()));
    let port = server.start(dir.path(), &["http/1.1"]).await;
    let client = connect(Some(&kubeconfig(dir.path(), port)), Patience::default()).await.unwrap();
    read(&client).await.unwrap();
    assert_eq!(*server.versions.lock().unwrap(), [Version::HTTP_11]);
}

#[tokio::test]
async fn a_server_that_never_answers_is_an_error_that_passes() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Arc::new(Server::default()));
    server.silent.store(true, Ordering::Relaxed);
    let port = server.start(dir.path(), &["h2"]).await;
    let patience = Patience { answer: Duration::from_millis(50), ..Patience::default() };
    let client = connect(Some(&kubeconfig(dir.path(), port)), patience).await.unwrap();
    let error = OperationError::from(read(&client).await.unwrap_err());
    assert!(error.retryable() && error.reason() == "api_call", "{error}");
    assert!(error.to_string().contains("claim default/claim-1"), "{error}");
    assert!(server.versions.lock().unwrap().len() > 1, "it is asked more than once");
}

#[tokio::test]
async fn a_connection_that_leads_nowhere_is_replaced() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Arc::new(Server::default()));
    let port = server.start(dir.path(), &["h2"]).await;
    // In between stands something that forgets its first connection without a word, as a firewall does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let between = listener.local_addr().unwrap().port();
    let (forget, forgotten) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut forgotten = Some(forgotten);
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let until = forgotten.take();
            tokio::spawn(async move {
                match until {
                    Some(until) => {
                        tokio::select! {
                            _ = copy_bidirectional(&mut near, &mut far) => {}
                            _ = until => std::future::pending().await,
                        }
                    }
                    None => drop(copy_bidirectional(&mut near, &mut far).await),
                }
            });
        }
    });
    let patience = Patience {
        answer: Duration::from_secs(60),
        alive: Duration::from_millis(100),
        ..Patience::default()
    };
    let client = connect(Some(&kubeconfig(dir.path(), between)), patience).await.unwrap();
    read(&client).await.unwrap();
    forget.send(()).unwrap();
    let begun = Instant::now();
    read(&client).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
}
