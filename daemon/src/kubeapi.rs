//! The connection to the API server: how it is found and what is done about one that leads nowhere. What is asked for
//! lives with those who ask.

use std::path::Path;
use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::ServiceBuilder;
use tower::retry::RetryLayer;
use tower::timeout::TimeoutLayer;

/// The API server cannot be asked for anything.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to the API server: {0}; check --kubeconfig or the pod's service account")]
pub struct ConnectError(String);

impl ConnectError {
    /// A kubeconfig may be written, and a token be mounted, after the start.
    pub const fn retryable(&self) -> bool {
        true
    }

    /// Stable word.
    pub const fn reason(&self) -> &'static str {
        "api_setup"
    }
}

/// How long the API server is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For an answer to begin: a connection that leads nowhere must not hold up the work. Watches, whose answers
    /// never end, live on.
    pub answer: Duration,
    /// After so long without a sign of life the server is asked for one, and after as long again given up.
    pub alive: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(5), answer: seconds(10), alive: seconds(10) }
    }
}

/// Makes the client: from a kubeconfig, or from the pod's service account.
///
/// # Errors
/// When neither can be used.
pub async fn connect(kubeconfig: Option<&Path>, patience: Patience) -> Result<Client, ConnectError> {
    let setup = |e: &dyn std::fmt::Display| ConnectError(e.to_string());
    // Said here, because rustls panics where it finds two in one program. An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|e| setup(&e))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|e| setup(&e))?
        }
        None => Config::incluster().map_err(|e| setup(&e))?,
    };
    config.connect_timeout = Some(patience.connect);
    let answers = TimeoutLayer::new(patience.answer);
    if config.proxy_url.is_some() {
        let client = ClientBuilder::try_from(config).map_err(|e| setup(&e))?;
        return Ok(client.with_layer(&answers).build());
    }
    Ok(multiplexed(&config, patience.alive).map_err(|e| setup(&e))?.with_layer(&answers).build())
}

/// Makes the client, trying again for as long as it takes: a kubeconfig may be written after the start.
pub async fn reach(kubeconfig: Option<&Path>) -> Client {
    let mut pause = Duration::from_millis(250);
    loop {
        match connect(kubeconfig, Patience::default()).await {
            Ok(client) => return client,
            Err(error) => {
                tracing::warn!(%error, "trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(30));
            }
        }
    }
}

/// The client that kube makes of a configuration speaks HTTP/1.1: each call that finds all connections busy begins
/// with a TLS handshake of its own, which costs the API server more than the call. This one asks for HTTP/2, as
/// Kubernetes' own clients do, and takes HTTP/1.1 where a proxy in between speaks nothing else.
fn multiplexed(
    config: &Config,
    alive: Duration,
) -> Result<
    ClientBuilder<
        impl tower::Service<
            http::Request<Body>,
            Response = http::Response<hyper::body::Incoming>,
            Error = tower::BoxError,
            Future: Send,
        > + Send
        + 'static,
    >,
    tower::BoxError,
> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(config.connect_timeout);
    let mut tls =
        HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
    if let Some(name) = &config.tls_server_name {
        tls = tls.with_server_name_resolver(FixedServerNameResolver::new(name.clone().try_into()?));
    }
    let client = hyper_util::client::legacy::Builder::new(TokioExecutor::new())
        // Everything goes over one connection, so one that leads nowhere has to be noticed.
        .http2_keep_alive_interval(alive)
        .http2_keep_alive_timeout(alive)
        .http2_keep_alive_while_idle(true)
        .timer(TokioTimer::new())
        .build::<_, Body>(tls.enable_all_versions().wrap_connector(tcp));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()))
}
