//! Proves what the admin server answers, over a real socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use vnpu_telemetry::{Admin, Readiness, serve};

async fn ask(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let text = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn probes_metrics_and_pages_are_served_until_stopped() {
    let mut registry = Registry::default();
    let counter = Counter::<u64>::default();
    registry.register("vnpu_things", "Things", counter.clone());
    counter.inc_by(7);
    let readiness = Readiness::of(["sockets", "slices"]);
    let admin = Admin::new(Arc::new(registry), readiness.clone()).with_page("state", || "{\"a\":1}".into());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, admin, stop.clone()));

    assert!(ask(address, "GET /livez").await.starts_with("HTTP/1.1 200"));
    readiness.ready("sockets");
    let answer = ask(address, "GET /readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("[-] slices: not started"), "{answer}");
    readiness.ready("slices");
    assert!(ask(address, "GET /readyz").await.starts_with("HTTP/1.1 200"));
    assert!(ask(address, "GET /metrics").await.contains("vnpu_things_total 7"));
    assert!(ask(address, "GET /debug/state").await.ends_with("{\"a\":1}"));
    assert!(ask(address, "GET /debug/nothing").await.starts_with("HTTP/1.1 404"));
    assert!(ask(address, "GET /debug").await.contains("/debug/state"));

    stop.cancel();
    server.await.unwrap().unwrap();
}
