//! Events on pods whose claims are refused, so that the reason stands where the user looks. Best effort: an
//! event that cannot be written is logged, and the kubelet's own event carries the same text.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
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
    recent: Arc<Mutex<HashMap<(String, &'static str), Instant>>>,
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
        let text: String = error.to_string().chars().take(LONGEST).collect();
        for pod in claim.reserved_for.iter().filter(|c| c.is_pod()) {
            let involved = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(claim.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectReference::default()
            };
            self.send(claim.namespace.clone(), involved, reason, text.clone());
        }
    }

    fn first(&self, claim: &str, reason: &'static str) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, at| at.elapsed() < QUIET);
        // One that is held back does not begin the silence anew: a pod that is tried again for hours says so.
        match recent.entry((claim.to_owned(), reason)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(Instant::now());
                true
            }
        }
    }

    fn send(&self, namespace: String, involved: ObjectReference, reason: &'static str, text: String) {
        let now = Time(Timestamp::now());
        let event = Event {
            metadata: ObjectMeta {
                // The API server makes the name; the prefix is cut to leave room for it.
                generate_name: Some(format!(
                    "{}.",
                    involved.name.as_deref().unwrap_or("pod").chars().take(200).collect::<String>()
                )),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: involved,
            type_: Some("Warning".to_owned()),
            reason: Some("DeviceRefused".to_owned()),
            message: Some(format!("{text} ({reason})")),
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
