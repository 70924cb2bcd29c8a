//! The connection to the API server: how it is found, and the few calls that Prepare makes. A client is made
//! in the background, because sockets come first.

use std::path::Path;
use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tower::ServiceBuilder;
use tower::retry::RetryLayer;
use tower::timeout::TimeoutLayer;

/// Why the API server could not be asked, or did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The kubeconfig or the pod's service account cannot be used.
    #[error("cannot connect to the API server: {0}; check --kubeconfig or the pod's service account")]
    Setup(String),
    /// There is no such object.
    #[error("{0} does not exist any more: recreate the pod")]
    Gone(String),
    /// The call failed.
    #[error("cannot read {object}: {source}")]
    Call {
        /// Which object.
        object: String,
        /// The client's words.
        source: Box<kube::Error>,
    },
    /// The answer began and did not end.
    #[error("cannot read {object}: the API server's answer is not whole after {after:?}; it is asked again")]
    Slow {
        /// Which object.
        object: String,
        /// How long it was waited for.
        after: Duration,
    },
}

impl ApiError {
    /// Whether the same call may succeed later.
    pub const fn retryable(&self) -> bool {
        !matches!(self, Self::Gone(_))
    }

    /// Stable word for metrics and events.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Setup(_) => "api_setup",
            Self::Gone(_) => "claim_gone",
            Self::Call { .. } | Self::Slow { .. } => "api_call",
        }
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
pub async fn connect(kubeconfig: Option<&Path>, patience: Patience) -> Result<Client, ApiError> {
    let setup = |e: &dyn std::fmt::Display| ApiError::Setup(e.to_string());
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

/// Reads a claim, trying again for a while when the API server cannot be reached.
///
/// # Errors
/// [`ApiError::Gone`] when there is none of that name.
pub async fn claim(client: &Client, namespace: &str, name: &str) -> Result<ResourceClaim, ApiError> {
    let api: Api<ResourceClaim> = Api::namespaced(client.clone(), namespace);
    let object = || format!("claim {namespace}/{name}");
    let mut wait = Duration::from_millis(100);
    loop {
        match api.get_opt(name).await {
            Ok(Some(claim)) => return Ok(claim),
            Ok(None) => return Err(ApiError::Gone(object())),
            Err(error) if passing(&error) && wait < Duration::from_secs(5) => {
                tracing::debug!(%error, namespace, name, "asking again");
                tokio::time::sleep(wait).await;
                wait *= 3;
            }
            Err(source) => return Err(ApiError::Call { object: object(), source: Box::new(source) }),
        }
    }
}

/// Whether an error may pass by itself within seconds.
fn passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        kube::Error::HyperError(_) | kube::Error::Service(_) => true,
        _ => false,
    }
}
