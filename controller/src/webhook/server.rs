//! The TLS server below the webhooks: connections, their limits, and how they end. What is answered is the router's.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::guests::Guests;
use crate::certificates::resolver::Resolver;
use crate::metrics::{Metrics, Reason};

/// How the server ends and how long it waits for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a TLS handshake, and for a request's head over HTTP/1.1.
    pub handshake: Duration,
    /// Connections are still taken so long after the end was asked for: API servers go on sending until they have
    /// heard of it.
    pub linger: Duration,
    /// After that, requests may go on so long.
    pub drain: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            linger: Duration::from_secs(4),
            drain: Duration::from_secs(6),
        }
    }
}

/// An idle connection over HTTP/1.1 is closed after so long; API servers make another.
const IDLE: Duration = Duration::from_secs(60);
/// After so long without a sign of life over HTTP/2 one is asked for, and after as long again it is given up.
const ALIVE: Duration = Duration::from_secs(30);
/// A review may have several megabytes and should not wait for many confirmations.
const WINDOW: u32 = 1 << 20;
/// After a failed accept, when there are no descriptors left for example.
const BREATH: Duration = Duration::from_millis(200);

/// Whoever cannot serve TLS.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No configuration could be made.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl ServerError {
    /// Never: it is the program that is wrong.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Tls(_) => "webhook_tls",
        }
    }
}

/// TLS with the certificate that `resolver` shows at each handshake.
///
/// # Errors
/// A defect of the program.
pub fn tls(resolver: Resolver) -> Result<ServerConfig, ServerError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Connections are few and long: what would be remembered for the next one is not worth its memory.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Serves `router` until `stop`, then ends in stages.
pub async fn serve(
    listener: TcpListener,
    tls: ServerConfig,
    router: Router,
    metrics: Metrics,
    patience: Patience,
    stop: CancellationToken,
) {
    let server = Server {
        acceptor: TlsAcceptor::from(Arc::new(tls)),
        router,
        metrics,
        patience,
        guests: Guests::default(),
        closing: CancellationToken::new(),
    };
    let (graceful, mut connections) = (GracefulShutdown::new(), JoinSet::new());
    let over = async {
        stop.cancelled().await;
        tokio::time::sleep(patience.linger).await;
    };
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => break,
            accepted = listener.accept() => server.begin(accepted, &graceful, &mut connections).await,
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    server.closing.cancel();
    if tokio::time::timeout(patience.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("webhook connections that did not end are cut off");
    }
}

struct Server {
    acceptor: TlsAcceptor,
    router: Router,
    metrics: Metrics,
    patience: Patience,
    guests: Guests,
    /// Handshakes are not waited for any more.
    closing: CancellationToken,
}

impl Server {
    async fn begin(
        &self,
        accepted: io::Result<(TcpStream, SocketAddr)>,
        graceful: &GracefulShutdown,
        connections: &mut JoinSet<()>,
    ) {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a webhook connection could not be accepted");
                return tokio::time::sleep(BREATH).await;
            }
        };
        let Some(place) = self.guests.take(peer.ip()) else {
            return self.refused("too_many");
        };
        let _ = stream.set_nodelay(true);
        let handshake = tokio::time::timeout(self.patience.handshake, self.acceptor.accept(stream));
        let service = TowerToHyperService::new(self.router.clone());
        let (metrics, watcher, builder) = (self.metrics.clone(), graceful.watcher(), builder());
        let closing = self.closing.clone();
        connections.spawn(async move {
            let _place = place;
            let stream = match closing.run_until_cancelled(handshake).await {
                Some(Ok(Ok(stream))) => stream,
                Some(Ok(Err(error))) => {
                    tracing::debug!(%error, %peer, "no TLS");
                    return refused(&metrics, "handshake");
                }
                Some(Err(_)) => return refused(&metrics, "handshake_slow"),
                None => return refused(&metrics, "ending"),
            };
            metrics.connections.inc();
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, %peer, "a webhook connection ended");
            }
            metrics.connections.dec();
        });
    }

    fn refused(&self, reason: &'static str) {
        refused(&self.metrics, reason);
    }
}

fn refused(metrics: &Metrics, reason: &'static str) {
    metrics.refused_connections.get_or_create(&Reason { reason }).inc();
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(ALIVE)
        .keep_alive_timeout(ALIVE)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 4)
        .max_concurrent_streams(256);
    builder
}
