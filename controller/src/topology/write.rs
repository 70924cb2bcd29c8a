//! Writing a node's two labels: server-side apply under a field manager of their own, never by force.

use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use vnpu_driver::admission::pod::LEAF;

use super::Place;
use super::label::{MANAGER, NodeSeen};
use super::survey::Outcome;
use crate::events::{self, News};
use crate::lease::Leadership;
use crate::planner::patch::SUPERPOD;

/// The API server's reason for a field that somebody else manages (`metav1.CauseTypeFieldManagerConflict`).
const CONFLICT: &str = "FieldManagerConflict";

/// Writes while this process leads.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) identity: String,
    pub(super) leadership: watch::Receiver<Leadership>,
}

impl Writer {
    /// Writes the labels; a label that is not in `place` and was written here before goes.
    pub(super) async fn write(&self, node: &str, uid: &str, place: &Place) -> Outcome {
        if !self.leadership.borrow().may_act(Instant::now()) {
            return Outcome::Failed;
        }
        let api: Api<PartialObjectMeta<Node>> = Api::all(self.client.clone());
        let body = Patch::Apply(body(node, uid, place));
        match api.patch(node, &PatchParams::apply(MANAGER), &body).await {
            Ok(answer) => {
                tracing::info!(node, leaf = place.leaf, superpod = place.superpod, "topology labels written");
                let version = answer.metadata.resource_version.clone().unwrap_or_default();
                Outcome::Written(Box::new(NodeSeen::read(&answer.metadata)), version)
            }
            Err(kube::Error::Api(status)) if is_conflict(&status) => {
                Outcome::Conflict(status.message.clone())
            }
            Err(error) => {
                tracing::warn!(node, %error, "the topology labels could not be written; tried again");
                Outcome::Failed
            }
        }
    }

    /// Tells of a disagreement in an event on the node.
    pub(super) async fn tell(&self, node: &str, uid: &str, message: String) {
        if !self.leadership.borrow().may_act(Instant::now()) {
            return;
        }
        tracing::warn!(node, message, "sources of topology disagree");
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let news = News { about, warning: true, reason: "TopologyDisagreement", message };
        events::tell(&self.client, &self.identity, news).await;
    }
}

/// With the UID, so that a node which is gone is not made anew by its labels.
fn body(node: &str, uid: &str, place: &Place) -> Value {
    let mut labels = Map::new();
    for (label, value) in [(LEAF, &place.leaf), (SUPERPOD, &place.superpod)] {
        if let Some(value) = value {
            labels.insert(label.to_owned(), json!(value));
        }
    }
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "uid": uid, "labels": labels}})
}

fn is_conflict(status: &kube::core::Status) -> bool {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    status.code == 409 && causes.iter().any(|cause| cause.reason == CONFLICT)
}
