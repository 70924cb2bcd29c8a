//! The connection to the cluster, as kubectl makes it: which kubeconfig, which context, which namespace. What is asked
//! for lives with the verbs.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;

/// For a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// For an answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Objects in one answer.
const PAGE: u32 = 500;

/// What cannot be asked.
pub(crate) const UNREACHABLE: u8 = 2;
/// What was asked for is not there.
pub(crate) const ABSENT: u8 = 1;

/// Which cluster.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterArguments {
    /// Kubeconfig file; without it $KUBECONFIG, then ~/.kube/config, then the pod's service account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; without it the current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// Why the cluster cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The kubeconfig cannot be used.
    #[error("cannot connect to a cluster: {0}; check --kubeconfig and --context")]
    Setup(String),
    /// The answer is an error.
    #[error("cannot {what}: {message}{hint}")]
    Call {
        /// The API server's status, where it is that who says no.
        code: Option<u16>,
        /// Such as `list resourceslices`.
        what: String,
        /// The API server's words, or the client's.
        message: String,
        /// What may help.
        hint: &'static str,
    },
    /// There is no answer.
    #[error("cannot {what}: no answer within {} s", ANSWER.as_secs())]
    Slow {
        /// Such as `list resourceslices`.
        what: String,
    },
}

impl ClusterError {
    /// Whether the API server knows neither object nor kind.
    pub(crate) fn is_not_served(&self) -> bool {
        matches!(self, Self::Call { code: Some(404), .. })
    }

    /// Whether the user may not do it.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Call { code: Some(403), .. })
    }
}

/// A call that failed.
pub(crate) fn failed(what: &str, error: &kube::Error) -> ClusterError {
    let (code, message, hint) = match error {
        kube::Error::Api(status) => {
            let message =
                if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
            let hint = match status.code {
                401 => "; log in again",
                403 => "; docs/kubectl.md has the rights that are needed",
                404 if what.starts_with("list resource") => {
                    "; resource.k8s.io/v1 needs Kubernetes 1.34 or later"
                }
                _ => "",
            };
            (Some(status.code), message, hint)
        }
        other => (None, with_causes(other), ""),
    };
    ClusterError::Call { code, what: what.to_owned(), message, hint }
}

/// An error with what caused it, as far as it does not say so itself.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Waits for an answer, but not for ever.
pub(crate) async fn answer<T>(
    what: &str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(result) => result.map_err(|error| failed(what, &error)),
        Err(_) => Err(ClusterError::Slow { what: what.to_owned() }),
    }
}

/// A client, and the namespace of the context.
pub(crate) async fn connect(arguments: &ClusterArguments) -> Result<(Client, String), ClusterError> {
    let setup = |e: &dyn std::fmt::Display| ClusterError::Setup(e.to_string());
    install_crypto();
    let mut config = match &arguments.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|e| setup(&e))?;
            Config::from_custom_kubeconfig(file, &options(arguments)).await.map_err(|e| setup(&e))?
        }
        None if arguments.context.is_some() => {
            Config::from_kubeconfig(&options(arguments)).await.map_err(|e| setup(&e))?
        }
        None => Config::infer().await.map_err(|e| setup(&e))?,
    };
    config.connect_timeout = Some(CONNECT);
    let namespace = config.default_namespace.clone();
    Ok((Client::try_from(config).map_err(|e| setup(&e))?, namespace))
}

/// A client of a server that is no API server, at `http://HOST:PORT`.
pub(crate) fn plain(address: &str) -> Result<Client, ClusterError> {
    install_crypto();
    let uri = address.parse().map_err(|e| ClusterError::Setup(format!("{address}: {e}")))?;
    let mut config = Config::new(uri);
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|e| ClusterError::Setup(format!("{address}: {e}")))
}

/// Said here, because rustls panics where it finds two in one program.
fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn options(arguments: &ClusterArguments) -> KubeConfigOptions {
    KubeConfigOptions { context: arguments.context.clone(), ..KubeConfigOptions::default() }
}

/// All objects of a kind, page by page; each is turned into what is kept of it at once.
pub(crate) async fn list<K, T>(
    api: &Api<K>,
    what: &str,
    parameters: ListParams,
    keep: impl Fn(K) -> Option<T>,
) -> Result<Vec<T>, ClusterError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut kept = Vec::new();
    let mut parameters = parameters.limit(PAGE);
    loop {
        let page = answer(what, api.list(&parameters)).await?;
        kept.extend(page.items.into_iter().filter_map(&keep));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(kept),
        }
    }
}

/// Runs a verb that talks to the cluster.
///
/// # Errors
/// The verb's, or there is no runtime for it.
pub(crate) fn block_on<T, E: From<ClusterError>>(verb: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| ClusterError::Setup(e.to_string()))?.block_on(verb)
}
