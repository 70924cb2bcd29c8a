//! Carrying actions out. What fails is told in the pods, which stay as they are, and the desk looks at them again.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::time::Instant;
use vnpu_placement::batch::BatchKey;

use super::action::{Action, Placement};
use super::desk::Change;
use super::patch::{self, Tether};
use super::watches::Observed;
use crate::events::{self, News};
use crate::lease::Leadership;
use crate::observe::pod::{self, PodSeen};
use crate::observe::watch::Told;

/// Calls to the API server at the same time, for one plan.
const AT_ONCE: usize = 32;
/// How often a call that may succeed later is tried, and the first pause, which doubles.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// The pod after a patch; `None` when this process does not lead any more, and has not asked.
type Answer = Result<Option<Pod>, kube::Error>;

/// Carries actions out.
#[derive(Clone)]
pub struct Actor {
    client: Client,
    sender: Sender<Told<Observed>>,
    /// The name under which events are written.
    identity: String,
    leadership: watch::Receiver<Leadership>,
}

impl Actor {
    /// Acts with this client while this process leads, and tells what the API server answers through `sender`.
    pub fn new(
        client: Client,
        sender: Sender<Told<Observed>>,
        identity: String,
        leadership: watch::Receiver<Leadership>,
    ) -> Self {
        Self { client, sender, identity, leadership }
    }

    /// Carries one action out.
    pub async fn act(self, action: Action) {
        match action {
            Action::Place { batch, pods } => self.place(batch, pods).await,
            Action::LetGo { pod, reason } => {
                tracing::info!(pod = pod.display_name(), reason, "let go without a plan");
                self.release(&pod, None, &Tether::default()).await;
            }
            Action::ClearNomination { pod } => {
                self.nominate(&pod, None).await;
            }
            Action::Delete { pod } => self.delete(&pod).await,
            // Kept by whoever runs the desk.
            Action::Record { .. } => {}
            Action::Tell { pod, warning, reason, message } => self.tell(&pod, warning, reason, message).await,
        }
    }

    /// All nominations first: the scheduler counts those of gated pods too, so none of the batch takes another's place.
    async fn place(&self, batch: BatchKey, pods: Vec<Placement>) {
        let nominations = pods.into_iter().map(|placement| self.clone().nominate_of(placement));
        let nominated: Vec<(Placement, Option<Pod>)> =
            stream::iter(nominations).buffered(AT_ONCE).collect().await;
        // In the order of ranks, as far as several connections keep it.
        let releases = nominated.into_iter().filter_map(|(placement, nominated)| {
            let version = nominated?.metadata.resource_version;
            placement.pod.gates.ours.then(|| self.clone().release_of(placement, version))
        });
        stream::iter(releases).buffered(AT_ONCE).collect::<Vec<()>>().await;
        self.say(Change::Placed(batch)).await;
    }

    async fn nominate_of(self, placement: Placement) -> (Placement, Option<Pod>) {
        let nominated = self.nominate(&placement.pod, Some(&placement.node)).await;
        (placement, nominated)
    }

    async fn release_of(self, placement: Placement, resource_version: Option<String>) {
        self.release(&placement.pod, resource_version.as_deref(), &placement.tether).await;
    }

    async fn nominate(&self, pod: &PodSeen, node: Option<&str>) -> Option<Pod> {
        let body = patch::nominate(&pod.uid, node);
        let answer = self.patch(pod, &body, true).await;
        self.echo(answer).await
    }

    async fn release(&self, pod: &PodSeen, resource_version: Option<&str>, tether: &Tether) -> Option<Pod> {
        let version = resource_version.unwrap_or(&pod.resource_version);
        let answer = match self.patch(pod, &patch::release(pod, version, tether), false).await {
            Err(kube::Error::Api(status)) if status.code == 409 => self.release_again(pod, tether).await,
            other => other,
        };
        self.echo(answer).await
    }

    /// Somebody changed the pod meanwhile (its status, most often): once more upon what it is now, if it still waits.
    async fn release_again(&self, pod: &PodSeen, tether: &Tether) -> Answer {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let current = api.get(&pod.name).await?;
        let Some(now) = pod::read(&current).filter(|now| now.uid == pod.uid && now.waits_for_us()) else {
            return Ok(Some(current));
        };
        self.patch(&now, &patch::release(&now, &now.resource_version, tether), false).await
    }

    async fn patch(&self, pod: &PodSeen, body: &Value, status: bool) -> Answer {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let parameters = PatchParams::default();
        let patch = Patch::Strategic(body);
        let mut pause = PAUSE;
        let mut tries = 1;
        loop {
            // Asked each time: a call may have waited long.
            if !self.leadership.borrow().may_act(Instant::now()) {
                return Ok(None);
            }
            let answer = if status {
                api.patch_status(&pod.name, &parameters, &patch).await
            } else {
                api.patch(&pod.name, &parameters, &patch).await
            };
            match answer {
                Err(error) if tries < TRIES && may_succeed_later(&error) => {
                    tracing::warn!(pod = pod.display_name(), %error, "patch failed, tried again in {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    tries += 1;
                }
                other => return other.map(Some),
            }
        }
    }

    /// What the API server answered is news of the pod; the watch brings it only later.
    async fn echo(&self, answer: Answer) -> Option<Pod> {
        let answer = answer.transpose()?;
        match answer {
            Ok(pod) => {
                if let Some(seen) = pod::read(&pod) {
                    self.say(Change::Echo(Arc::new(seen))).await;
                }
                Some(pod)
            }
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => {
                tracing::warn!(%error, "a pod could not be patched; it is looked at again");
                None
            }
        }
    }

    async fn say(&self, change: Change) {
        // Without a receiver the process is ending.
        let _ = self.sender.send(Told::Change(change.into())).await;
    }

    async fn delete(&self, pod: &PodSeen) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let only = Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        if !self.leadership.borrow().may_act(Instant::now()) {
            return;
        }
        match api.delete(&pod.name, &parameters).await {
            Ok(_) => tracing::info!(pod = pod.display_name(), "deleted, for its owner to make again"),
            // It is gone, or another one has its name now.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                tracing::error!(pod = pod.display_name(), %error, "could not delete the pod; it is planned again");
                // For a user: what the API server says in words, without the rest of its answer.
                let why = match error {
                    kube::Error::Api(status) => status.message,
                    other => other.to_string(),
                };
                self.say(Change::NotDeleted(pod.uid.clone(), why)).await;
            }
        }
    }

    async fn tell(&self, pod: &PodSeen, warning: bool, reason: &'static str, message: String) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        };
        events::tell(&self.client, &self.identity, News { about, warning, reason, message }).await;
    }
}

/// Whether the same call may succeed later: not when the API server said what is wrong with it.
fn may_succeed_later(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        _ => true,
    }
}
