//! Keeps what API servers trust in the webhook configurations: `caBundle` of every webhook there, and nothing else of
//! them. The configurations themselves are the administrator's.

use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::issue::Anchor;
use crate::metrics::Metrics;

/// How often somebody else may be faster.
const RACES: usize = 5;

/// A webhook configuration of either kind.
trait Configuration: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug {
    /// The name of each webhook and whom it trusts.
    fn webhooks(&self) -> Vec<(&str, Option<&ByteString>)>;
}

impl Configuration for MutatingWebhookConfiguration {
    fn webhooks(&self) -> Vec<(&str, Option<&ByteString>)> {
        let webhooks = self.webhooks.iter().flatten();
        webhooks.map(|w| (w.name.as_str(), w.client_config.ca_bundle.as_ref())).collect()
    }
}

impl Configuration for ValidatingWebhookConfiguration {
    fn webhooks(&self) -> Vec<(&str, Option<&ByteString>)> {
        let webhooks = self.webhooks.iter().flatten();
        webhooks.map(|w| (w.name.as_str(), w.client_config.ca_bundle.as_ref())).collect()
    }
}

/// The two configurations of one name.
#[derive(Clone)]
pub struct Trust {
    client: Client,
    name: String,
    metrics: Metrics,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Trust {
    /// Of the configurations called `name`.
    pub fn new(client: Client, name: &str, metrics: Metrics) -> Self {
        Self { client, name: name.to_owned(), metrics }
    }

    /// Makes every webhook trust exactly `anchors`. A configuration that does not exist needs nothing.
    ///
    /// # Errors
    /// One could not be read or written, or was changed in between; what was written stays.
    pub async fn establish(&self, anchors: &[Anchor]) -> Result<(), kube::Error> {
        let bundle = ByteString(anchors.iter().map(|a| a.pem.as_str()).collect::<String>().into_bytes());
        let mutating = self.of::<MutatingWebhookConfiguration>(&bundle).await;
        self.of::<ValidatingWebhookConfiguration>(&bundle).await.and(mutating)
    }

    async fn of<K: Configuration>(&self, bundle: &ByteString) -> Result<(), kube::Error> {
        let api: Api<K> = Api::all(self.client.clone());
        let mut races = RACES;
        loop {
            let Some(configuration) = api.get_opt(&self.name).await? else {
                tracing::debug!(kind = %K::kind(&()), name = self.name, "there is no such webhook configuration");
                return Ok(());
            };
            let Some(patch) = patch(&configuration, bundle) else { return Ok(()) };
            // Merged by the webhooks' names, and only if nobody changed the object since it was read: the other
            // replica writes the same at the same time.
            match api.patch(&self.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(_) => break,
                Err(kube::Error::Api(status)) if status.code == 409 && races > 0 => races -= 1,
                Err(error) => return Err(error),
            }
        }
        self.metrics.trust_writes.inc();
        tracing::info!(kind = %K::kind(&()), name = self.name, "the webhook configuration trusts this controller");
        Ok(())
    }
}

/// What has to change, if anything.
fn patch<K: Configuration>(configuration: &K, bundle: &ByteString) -> Option<Value> {
    let wrong: Vec<Value> = configuration
        .webhooks()
        .into_iter()
        .filter(|(_, trusted)| *trusted != Some(bundle))
        .map(|(name, _)| json!({"name": name, "clientConfig": {"caBundle": bundle}}))
        .collect();
    let version = configuration.meta().resource_version.as_deref();
    (!wrong.is_empty()).then(|| json!({"metadata": {"resourceVersion": version}, "webhooks": wrong}))
}
