//! Events on pods whose claims are refused or whose devices are not well, and on claims whose quotas change or are not kept, so that what happened stands where the
//! user looks. Best effort: an event that cannot be written is logged.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::SetOnce;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use vnpu_driver::DRIVER_NAME;
use vnpu_driver::claim::Claim;
use vnpu_driver::id::NodeName;
use vnpu_driver::live::WishProblem;
use vnpu_driver::plan::PreparePlan;

use crate::error::OperationError;

/// The same refusal of the same claim is not repeated sooner.
const QUIET: Duration = Duration::from_secs(60);
/// The API server's limit on an event's message.
const LONGEST: usize = 1024;

/// Writes events in the background.
#[derive(Clone)]
pub struct Events {
    node: NodeName,
    client: Arc<SetOnce<Client>>,
    tasks: TaskTracker,
    recent: Arc<Mutex<HashMap<(String, String), Instant>>>,
}

/// Whether something is wrong.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Normal,
    Warning,
}

impl Events {
    /// Events of this node's plugin.
    pub fn new(node: NodeName, client: Arc<SetOnce<Client>>, tasks: TaskTracker) -> Self {
        Self { node, client, tasks, recent: Arc::default() }
    }

    /// Tells every pod that holds `claim` why it is not prepared.
    pub fn refused(&self, claim: &Claim, error: &OperationError) {
        let reason = error.reason();
        if !self.first(claim.uid.as_str(), reason) {
            return;
        }
        let text = error.to_string();
        for pod in claim.reserved_for.iter().filter(|c| c.is_pod()) {
            let involved = pod_reference(&claim.namespace, &pod.name, &pod.uid);
            self.send(involved, Kind::Warning, "DeviceRefused", format!("{text} ({reason})"));
        }
    }

    /// Tells a claim that its quota is another one now.
    pub fn quota_changed(&self, claim: &ResourceClaim, text: &str) {
        // Also if it is the same as an hour ago: it was changed again.
        self.send(claim_reference(claim), Kind::Normal, "QuotaChanged", text.to_owned());
    }

    /// Tells a claim which of its annotations is not followed, and why.
    pub fn quota_not_changed(&self, claim: &ResourceClaim, problem: &WishProblem) {
        let text = problem.to_string();
        if self.first(claim.metadata.uid.as_deref().unwrap_or_default(), &text) {
            let text = format!("{text} ({})", problem.reason());
            self.send(claim_reference(claim), Kind::Warning, "QuotaNotChanged", text);
        }
    }

    /// Tells a claim that it is not kept to its quota, or what was done about that.
    pub fn breach(&self, plan: &PreparePlan, reason: &'static str, text: &str) {
        if self.first(plan.claim.as_str(), text) {
            let claim = ObjectReference {
                namespace: Some(plan.namespace.clone()),
                name: Some(plan.name.clone()),
                uid: Some(plan.claim.to_string()),
                ..claim_kind()
            };
            self.send(claim, Kind::Warning, reason, text.to_owned());
        }
    }

    /// Tells the pods of a claim that one of its devices is not well.
    pub fn unhealthy(&self, claim: &ResourceClaim, text: &str) {
        self.to_pods(claim, Kind::Warning, "DeviceUnhealthy", text);
    }

    /// Tells them that it is well again.
    pub fn healthy(&self, claim: &ResourceClaim, text: &str) {
        self.to_pods(claim, Kind::Normal, "DeviceHealthy", text);
    }

    fn to_pods(&self, claim: &ResourceClaim, kind: Kind, reason: &'static str, text: &str) {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let holders =
            claim.status.as_ref().and_then(|status| status.reserved_for.as_ref()).into_iter().flatten();
        for pod in holders.filter(|holder| holder.resource == "pods") {
            self.send(pod_reference(namespace, &pod.name, &pod.uid), kind, reason, text.to_owned());
        }
    }

    fn first(&self, claim: &str, reason: &str) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, at| at.elapsed() < QUIET);
        // One that is held back does not begin the silence anew: a pod that is tried again for hours says so.
        match recent.entry((claim.to_owned(), reason.to_owned())) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(Instant::now());
                true
            }
        }
    }

    fn send(&self, involved: ObjectReference, kind: Kind, reason: &'static str, text: String) {
        let namespace = involved.namespace.clone().unwrap_or_default();
        let now = Time(Timestamp::now());
        let event = Event {
            metadata: ObjectMeta {
                // The API server makes the name; the prefix is cut to leave room for it.
                generate_name: Some(format!(
                    "{}.",
                    involved.name.as_deref().unwrap_or("object").chars().take(200).collect::<String>()
                )),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: involved,
            type_: Some(
                match kind {
                    Kind::Normal => "Normal",
                    Kind::Warning => "Warning",
                }
                .to_owned(),
            ),
            reason: Some(reason.to_owned()),
            message: Some(text.chars().take(LONGEST).collect()),
            source: Some(EventSource {
                component: Some(DRIVER_NAME.to_owned()),
                host: Some(self.node.to_string()),
            }),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Event::default()
        };
        let client = Arc::clone(&self.client);
        self.tasks.spawn(async move {
            let api: Api<Event> = Api::namespaced(client.wait().await.clone(), &namespace);
            if let Err(error) = api.create(&PostParams::default(), &event).await {
                tracing::warn!(%error, namespace, "an event could not be written");
            }
        });
    }
}

fn pod_reference(namespace: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

fn claim_reference(claim: &ResourceClaim) -> ObjectReference {
    ObjectReference {
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        ..claim_kind()
    }
}

fn claim_kind() -> ObjectReference {
    ObjectReference {
        api_version: Some("resource.k8s.io/v1".to_owned()),
        kind: Some("ResourceClaim".to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_goes_on_is_told_again_every_minute() {
        let events = Events::new(NodeName::new("node-1").unwrap(), Arc::default(), TaskTracker::new());
        let mut told = 0;
        for _ in 0..30 {
            told += u32::from(events.first("claim", "reason"));
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        assert_eq!(told, 5);
    }
}
