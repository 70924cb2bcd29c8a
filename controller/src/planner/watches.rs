//! Everything that the planner watches, each kind with what it becomes.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::resource::v1::{
    DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice,
};
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use vnpu_driver::id::NodeName;
use vnpu_kube_types::taint_rule::TaintRule;

use super::desk::Change;
use super::store::Named;
use crate::observe::slice::Slice;
use crate::observe::watch::{Reader, Told, watch};
use crate::observe::{claim, node, owner, pod, slice};

/// What a watch brings: slices and rules are put together to pools first, all else is a change as it comes.
#[derive(Debug)]
pub enum Observed {
    /// A slice is there.
    Slice(Slice),
    /// A slice of this name is gone.
    SliceGone(String),
    /// A rule taints devices.
    Rule(TaintRule),
    /// The rule of this name does not any more.
    RuleGone(String),
    /// A change.
    Change(Change),
}

impl From<Change> for Observed {
    fn from(change: Change) -> Self {
        Self::Change(change)
    }
}

/// Before a server that did not answer is asked again which kinds it has.
const PAUSE: Duration = Duration::from_secs(5);
/// Before one that does not have a kind is asked again: an administrator may turn it on.
const TURNED_ON: Duration = Duration::from_secs(60);

/// Objects of a page: a slice or a Node has tens of kilobytes.
const LARGE: u32 = 25;
const USUAL: u32 = 100;

/// The kind of rules that taint devices.
const TAINT_RULES: &str = "devicetaintrules";

/// The kinds of which a [`Told::Synced`] comes before everything is known.
pub const KINDS: [&str; 10] = [
    "nodes",
    "resourceslices",
    "deviceclasses",
    "resourceclaims",
    "resourceclaimtemplates",
    "jobs",
    "replicasets",
    "statefulsets",
    "pods",
    TAINT_RULES,
];

/// Where the watches run, and whom they tell.
struct Watches<'a> {
    client: &'a Client,
    sender: &'a Sender<Told<Observed>>,
    tasks: &'a mut JoinSet<()>,
}

/// Starts all watches.
pub fn start(client: &Client, sender: &Sender<Told<Observed>>, tasks: &mut JoinSet<()>) {
    tasks.spawn(pod_groups(client.clone(), sender.clone()));
    tasks.spawn(taint_rules(client.clone(), sender.clone()));
    let mut watches = Watches { client, sender, tasks };
    watches.begin(Reader {
        kind: "nodes",
        page: LARGE,
        identity: |o: &Node| NodeName::new(o.name_any()).ok(),
        there: |o| node::read(o).map(Change::Node),
        gone: Change::NodeGone,
    });
    watches.begin(Reader {
        kind: "resourceslices",
        page: LARGE,
        identity: |o: &ResourceSlice| Some(o.name_any()),
        there: |o| slice::read(o).map(Observed::Slice),
        gone: Observed::SliceGone,
    });
    watches.begin(Reader {
        kind: "deviceclasses",
        page: USUAL,
        identity: |o: &DeviceClass| Some(o.name_any()),
        there: |o| claim::class(o).map(Change::Class),
        gone: Change::ClassGone,
    });
    watches.begin(Reader {
        kind: "resourceclaims",
        page: USUAL,
        identity: |o: &ResourceClaim| Some(named(o)),
        there: |o| claim::read(o).map(|claim| Change::Claim(named(o), claim)),
        gone: Change::ClaimGone,
    });
    watches.begin(Reader {
        kind: "resourceclaimtemplates",
        page: USUAL,
        identity: |o: &ResourceClaimTemplate| Some(named(o)),
        there: |o| {
            let spec = o.spec.as_ref().and_then(|template| template.spec.as_ref()).map(claim::spec);
            Some(Change::Template(named(o), Arc::new(spec.unwrap_or_default())))
        },
        gone: Change::TemplateGone,
    });
    watches.begin(Reader {
        kind: "jobs",
        page: USUAL,
        identity: |o: &Job| o.uid(),
        there: |o| Some(Change::Owner(o.uid()?, owner::job(o))),
        gone: Change::OwnerGone,
    });
    watches.begin(Reader {
        kind: "replicasets",
        page: USUAL,
        identity: |o: &ReplicaSet| o.uid(),
        there: |o| Some(Change::Owner(o.uid()?, owner::replica_set(o))),
        gone: Change::OwnerGone,
    });
    watches.begin(Reader {
        kind: "statefulsets",
        page: USUAL,
        identity: |o: &StatefulSet| o.uid(),
        there: |o| Some(Change::Owner(o.uid()?, owner::stateful_set(o))),
        gone: Change::OwnerGone,
    });
    watches.begin(Reader {
        kind: "pods",
        page: USUAL,
        identity: |o: &Pod| o.uid(),
        there: |o| pod::read(o).map(|pod| Change::Pod(Arc::new(pod))),
        gone: Change::PodGone,
    });
}

impl Watches<'_> {
    fn begin<K, I, C>(&mut self, reader: Reader<K, I, C>)
    where
        C: Into<Observed> + Send + 'static,
        K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
        I: Ord + Clone + Send + 'static,
    {
        self.tasks.spawn(watch(Api::<K>::all(self.client.clone()), reader, self.sender.clone()));
    }
}

fn named(object: &impl kube::ResourceExt) -> Named {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Whether the server has a kind and lets us list it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Served {
    /// It does.
    Yes,
    /// It does not, for now.
    No,
    /// It did not answer.
    Unknown,
}

impl Served {
    /// Asks the server.
    async fn ask<K>(api: &Api<K>) -> Self
    where
        K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        match api.list_metadata(&ListParams::default().limit(1)).await {
            Ok(_) => Self::Yes,
            // 403 where the role is older than the server.
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => Self::No,
            Err(_) => Self::Unknown,
        }
    }

    /// How long to wait before it is asked again.
    const fn pause(self) -> Duration {
        match self {
            Self::No => TURNED_ON,
            Self::Yes | Self::Unknown => PAUSE,
        }
    }
}

/// Watches PodGroups as soon as the server has them; before, nobody can be in one.
async fn pod_groups(client: Client, sender: Sender<Told<Observed>>) {
    let api: Api<PodGroup> = Api::all(client);
    loop {
        match Served::ask(&api).await {
            Served::Yes => break,
            other => tokio::time::sleep(other.pause()).await,
        }
    }
    let reader = Reader {
        kind: "podgroups",
        page: USUAL,
        identity: |o: &PodGroup| Some(named(o)),
        there: |o| Some(Change::PodGroup(named(o), owner::pod_group(o))),
        gone: Change::PodGroupGone,
    };
    watch(api, reader, sender).await;
}

/// Watches DeviceTaintRules as soon as the server has them (Kubernetes 1.37); before, there are none, and nothing waits
/// for them.
async fn taint_rules(client: Client, sender: Sender<Told<Observed>>) {
    let api: Api<DeviceTaintRule> = Api::all(client);
    let mut said = false;
    loop {
        let served = Served::ask(&api).await;
        match served {
            Served::Yes => break,
            Served::No if !said => {
                tracing::info!(
                    kind = TAINT_RULES,
                    "not served, or not to be listed: devices are planned without them until they are"
                );
                if sender.send(Told::Synced(TAINT_RULES)).await.is_err() {
                    return;
                }
                said = true;
            }
            Served::No | Served::Unknown => {}
        }
        tokio::time::sleep(served.pause()).await;
    }
    let reader = Reader {
        kind: TAINT_RULES,
        page: USUAL,
        identity: |o: &DeviceTaintRule| Some(o.name_any()),
        there: |o| TaintRule::read(o).map(Observed::Rule),
        gone: Observed::RuleGone,
    };
    watch(api, reader, sender).await;
}

#[cfg(test)]
mod tests;
