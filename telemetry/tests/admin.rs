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

/// The address of this machine that the default route would use; `None` where there is no network.
fn outside_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_loopback())
}

#[tokio::test]
async fn the_log_filter_is_changed_from_the_own_address_only() {
    let admin = Admin::new(Arc::new(Registry::default()), Readiness::default());
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, admin, stop.clone()));
    // 404: nothing manages the log in this test, but whoever asks is let through.
    let answer = ask(([127, 0, 0, 1], port).into(), "PUT /debug/log").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    if let Some(own) = outside_address() {
        let answer = ask((own, port).into(), "PUT /debug/log").await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        // From one of this machine's addresses to another: a stranger, as far as the server can see.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((own, 0).into()).unwrap();
        if let Ok(mut stream) = socket.connect(([127, 0, 0, 1], port).into()).await {
            stream
                .write_all(b"PUT /debug/log HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        }
    }
    stop.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn open_connections_of_one_address_do_not_add_up() {
    let admin = Admin::new(Arc::new(Registry::default()), Readiness::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, admin, stop.clone()));
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(TcpStream::connect(address).await.unwrap());
    }
    let mut one_more = TcpStream::connect(address).await.unwrap();
    let mut nothing = [0];
    assert!(matches!(one_more.read(&mut nothing).await, Ok(0) | Err(_)), "it is closed at once");
    drop(open);
    // Those are noticed one by one.
    loop {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let mut answer = String::new();
        if stream.read_to_string(&mut answer).await.is_ok() && answer.starts_with("HTTP/1.1 200") {
            break;
        }
    }
    stop.cancel();
    server.await.unwrap().unwrap();
}
