//! Whether the webhook server can answer: it is asked over TLS, as an API server would ask it, again and again. What
//! comes of it is the readiness.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use vnpu_telemetry::Readiness;

use crate::certificates::resolver::Resolver;

/// The part of the readiness that says whether the server answers.
pub const PART: &str = "webhook";

/// Between two questions when the last one was answered.
const PERIOD: Duration = Duration::from_secs(10);
/// Between two questions when it was not.
const IMPATIENT: Duration = Duration::from_millis(250);
/// An answer that takes longer is none.
const LONGEST: Duration = Duration::from_secs(2);

/// Why the server did not answer itself.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is nothing to show yet.
    #[error("there is no certificate yet")]
    NoCertificate,
    /// The server's name is none.
    #[error("{0:?} is no name that a certificate could have")]
    Name(String),
    /// No connection, or no TLS with a certificate that clients trust.
    #[error("the webhook server cannot be reached over TLS: {0}")]
    Connect(#[from] std::io::Error),
    /// TLS cannot be used.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// No answer.
    #[error("the webhook server does not answer: {0}")]
    Answer(#[from] hyper::Error),
    /// Another answer.
    #[error("the webhook server answers {0}")]
    Code(http::StatusCode),
    /// No answer in time.
    #[error("the webhook server does not answer within {LONGEST:?}")]
    Slow,
}

impl CheckError {
    /// Always: it is asked again.
    pub const fn retryable(&self) -> bool {
        true
    }

    /// Stable word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Name(_) => "server_name",
            Self::Connect(_) => "connect",
            Self::Tls(_) => "webhook_tls",
            Self::Answer(_) | Self::Code(_) => "no_answer",
            Self::Slow => "slow",
        }
    }
}

/// Asks until `stop`, and keeps `readiness`.
pub async fn run(
    address: SocketAddr,
    name: String,
    resolver: Resolver,
    readiness: Readiness,
    stop: CancellationToken,
) {
    loop {
        let asked = tokio::time::timeout(LONGEST, ask(address, &name, &resolver));
        let Some(answer) = stop.run_until_cancelled(asked).await else { break };
        let pause = match answer.unwrap_or(Err(CheckError::Slow)) {
            Ok(()) => {
                readiness.ready(PART);
                PERIOD
            }
            Err(error) => {
                tracing::debug!(%error, reason = error.reason(), "not ready");
                readiness.not_ready(PART, error.to_string());
                IMPATIENT
            }
        };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
    // No new requests, please: what is open is answered still.
    readiness.not_ready(PART, "ending");
}

/// Asks once, over a connection of its own.
///
/// # Errors
/// Why there was no answer.
pub async fn ask(address: SocketAddr, name: &str, resolver: &Resolver) -> Result<(), CheckError> {
    let shown = resolver.shown().ok_or(CheckError::NoCertificate)?;
    let server = ServerName::try_from(name.to_owned()).map_err(|_| CheckError::Name(name.to_owned()))?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(Arc::clone(&shown.roots))
        .with_no_client_auth();
    let stream = TcpStream::connect(at_home(address)).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(server, stream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static("/healthz");
    request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
    let answered = async {
        let response = sender.send_request(request).await?;
        if response.status().is_success() { Ok(()) } else { Err(CheckError::Code(response.status())) }
    };
    tokio::select! {
        answer = answered => answer,
        ended = connection => ended.map_err(CheckError::from).and(Err(CheckError::Slow)),
    }
}

/// Where a server that listens at `address` can be reached from here.
fn at_home(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
