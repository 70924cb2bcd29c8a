//! The webhook server's certificate: the replicas share an authority and a certificate in one Secret, whoever sees first
//! that something is needed writes it, and each shows what is there. Nobody outside has to make or renew anything.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use vnpu_telemetry::Readiness;

pub mod issue;
pub mod resolver;
pub mod stored;
pub mod trust;

use issue::{CertificateError, Leaf};
use resolver::{Resolver, Shown};
use stored::{Data, Need, Stored};
use trust::Trust;

use crate::metrics::{Certificate, Metrics, Reason};

/// The part of the readiness that says whether there is a certificate.
pub const PART: &str = "certificate";

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(60);
/// Between two looks when the first one failed; it doubles from here to [`PERIOD`].
const IMPATIENT: Duration = Duration::from_millis(500);
/// How often another replica may be faster in one look.
const RACES: usize = 8;

/// The wall clock, which certificates are judged by.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Why there is no good certificate.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// None could be made.
    #[error(transparent)]
    Make(#[from] CertificateError),
    /// The Secret could not be read or written.
    #[error("Secret {secret}: {source}; the controller's Role in its namespace has to allow it")]
    Secret {
        /// Its name.
        secret: String,
        /// The client's words.
        source: Box<kube::Error>,
    },
    /// Others wrote all the time.
    #[error("Secret {0} was changed by others {RACES} times in a row; it is tried again")]
    Raced(String),
    /// The webhook configurations could not be read or written.
    #[error(
        "the webhook configurations {name}: {source}; without it API servers may not trust this controller"
    )]
    Trust {
        /// Their name.
        name: String,
        /// The client's words.
        source: Box<kube::Error>,
    },
    /// The authority is no good to rustls.
    #[error("the authority cannot be trusted by anybody: {0}")]
    Roots(#[from] rustls::Error),
}

impl KeepError {
    /// Always: it is looked again.
    pub const fn retryable(&self) -> bool {
        true
    }

    /// Stable word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Make(error) => error.reason(),
            Self::Secret { .. } => "secret_api",
            Self::Raced(_) => "secret_raced",
            Self::Trust { .. } => "trust_api",
            Self::Roots(_) => "certificate_roots",
        }
    }
}

/// Names that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Where the Secret lives.
    pub namespace: String,
    /// The Secret.
    pub secret: String,
    /// The webhook configurations, of both kinds.
    pub configurations: String,
    /// What API servers call this server by.
    pub server: Vec<String>,
}

/// Looks after the certificate.
pub struct Keeper {
    secrets: Api<Secret>,
    trust: Trust,
    names: Names,
    clock: Clock,
    resolver: Resolver,
    readiness: Readiness,
    metrics: Metrics,
    /// Whether API servers are known to trust all anchors that are stored.
    trusted: bool,
    /// What was stored when it was last looked at.
    known: Option<Data>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Shows in `resolver` what is in the Secret, and says so in `readiness`.
    pub fn new(
        client: Client,
        names: Names,
        clock: Clock,
        resolver: Resolver,
        readiness: Readiness,
        metrics: Metrics,
    ) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), &names.namespace),
            trust: Trust::new(client, &names.configurations, metrics.clone()),
            names,
            clock,
            resolver,
            readiness,
            metrics,
            trusted: false,
            known: None,
        }
    }

    /// Looks every minute until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = IMPATIENT;
        loop {
            let Some(result) = stop.run_until_cancelled(self.look()).await else { return };
            match result {
                Ok(()) => pause = PERIOD,
                Err(error) => {
                    let reason = error.reason();
                    tracing::warn!(%error, reason, "the webhooks' certificate needs looking after; it is tried again");
                    self.metrics.certificate_failures.get_or_create(&Reason { reason }).inc();
                    self.say_what_is_shown(&error);
                    pause = if pause >= PERIOD { IMPATIENT } else { (pause * 2).min(PERIOD) };
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// One look: what is needed is made, API servers are told whom to trust, and the certificate is shown.
    ///
    /// # Errors
    /// What could not be done. A certificate that is there is shown all the same.
    pub async fn look(&mut self) -> Result<(), KeepError> {
        let stored = self.settle().await?;
        let leaf = stored.leaf.as_ref().map_err(|_| CertificateError::Missing("the server's certificate"))?;
        let anchors = stored.anchors();
        // First the trust and then the certificate, which those who do not trust it yet would refuse.
        let told = self.trust.establish(&anchors).await;
        self.trusted = told.is_ok();
        self.show(leaf, issue::roots(&anchors)?);
        let authority = stored.authority.as_ref().ok().map(|a| a.anchor.validity.ends);
        self.show_expiry("leaf", Some(leaf.validity.ends));
        self.show_expiry("authority", authority);
        let name = || self.names.configurations.clone();
        told.map_err(|source| KeepError::Trust { name: name(), source: Box::new(source) })
    }

    /// Brings the Secret to where it needs nothing.
    async fn settle(&mut self) -> Result<Stored, KeepError> {
        for _ in 0..RACES {
            let there = self.secrets.get_opt(&self.names.secret).await.map_err(|e| self.secret_error(e))?;
            let now = (self.clock)();
            let stored = match &there {
                Some(secret) => Stored::read(secret.data.as_ref().unwrap_or(&Data::new())),
                // Taken away: what was in it is good still, and the other replicas serve it.
                None => Stored::read(self.known.as_ref().unwrap_or(&Data::new())),
            };
            let need = stored.need(&self.names.server, now, self.trusted);
            if need == Need::Nothing && there.is_some() {
                self.known = Some(stored.data());
                return Ok(stored);
            }
            let reason = if there.is_none() { "secret_missing" } else { need.reason() };
            let next = stored.meet(need, &self.names.server, now)?;
            if self.write(there.as_ref(), next.data()).await.map_err(|e| self.secret_error(e))? {
                tracing::info!(secret = self.names.secret, reason, "certificates written");
                self.metrics.certificate_writes.get_or_create(&Reason { reason }).inc();
                self.trusted = false;
            }
        }
        Err(KeepError::Raced(self.names.secret.clone()))
    }

    /// Writes the Secret if it is still as it was read; `false` when somebody else was faster.
    async fn write(&self, there: Option<&Secret>, data: Data) -> Result<bool, kube::Error> {
        let (name, parameters) = (self.names.secret.as_str(), PostParams::default());
        let result = match there {
            None => {
                let fresh = Secret {
                    metadata: ObjectMeta {
                        name: Some(name.to_owned()),
                        labels: Some(labels()),
                        ..ObjectMeta::default()
                    },
                    data: Some(data),
                    ..Secret::default()
                };
                self.secrets.create(&parameters, &fresh).await.map(drop)
            }
            Some(old) => {
                let changed = Secret { data: Some(data), ..old.clone() };
                self.secrets.replace(name, &parameters, &changed).await.map(drop)
            }
        };
        match (result, there) {
            (Ok(()), _) => Ok(true),
            (Err(kube::Error::Api(status)), _) if status.code == 409 || status.code == 404 => Ok(false),
            // One that nobody can write into, by its type or because it is immutable.
            (Err(kube::Error::Api(status)), Some(old)) if status.code == 422 => {
                tracing::warn!(secret = name, message = status.message, "the Secret is made anew");
                let preconditions = Preconditions {
                    uid: old.metadata.uid.clone(),
                    resource_version: old.metadata.resource_version.clone(),
                };
                let delete = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                match self.secrets.delete(name, &delete).await {
                    Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(false),
                    other => other.map(|_| false),
                }
            }
            (Err(error), _) => Err(error),
        }
    }

    fn secret_error(&self, source: kube::Error) -> KeepError {
        KeepError::Secret { secret: self.names.secret.clone(), source: Box::new(source) }
    }

    fn show(&self, leaf: &Leaf, roots: rustls::RootCertStore) {
        let same = self.resolver.shown().is_some_and(|shown| {
            shown.certified.cert == leaf.certified.cert && shown.roots.roots == roots.roots
        });
        if !same {
            self.resolver.show(Shown { certified: Arc::clone(&leaf.certified), roots: Arc::new(roots) });
        }
        self.readiness.ready(PART);
    }

    /// After a failed look: the certificate that is shown may be good still.
    fn say_what_is_shown(&self, error: &KeepError) {
        let now = (self.clock)();
        let known = self.known.as_ref().map(Stored::read);
        let good = known.and_then(|stored| stored.leaf.ok()).is_some_and(|l| l.validity.check(now).is_ok());
        if !good || self.resolver.shown().is_none() {
            self.readiness.not_ready(PART, error.to_string());
        }
    }

    fn show_expiry(&self, certificate: &'static str, ends: Option<SystemTime>) {
        let seconds = ends.and_then(|ends| ends.duration_since(SystemTime::UNIX_EPOCH).ok());
        let seconds = seconds.and_then(|s| i64::try_from(s.as_secs()).ok()).unwrap_or(0);
        self.metrics.certificate_expiry.get_or_create(&Certificate { certificate }).set(seconds);
    }
}

fn labels() -> std::collections::BTreeMap<String, String> {
    [("app.kubernetes.io/part-of", "vnpu"), ("app.kubernetes.io/component", "controller")]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests;
