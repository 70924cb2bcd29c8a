//! Keeps the node's ResourceSlices as they should be: compares what is wanted with what is there whenever either
//! may have changed, and writes the difference. What a slice says is the `driver` crate's.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node as NodeObject;
use k8s_openapi::api::resource::v1::{DeviceTaint, ResourceSlice};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vnpu_driver::DRIVER_NAME;
use vnpu_driver::degrade::{Lacking, degrade};
use vnpu_driver::hardware::{Chip, Inventory};
use vnpu_driver::id::{DeviceName, DeviceUuid, PoolName};
use vnpu_driver::order::{PublishedOrder, cards_in_order, published_order};
use vnpu_driver::planner::{NodeLabels, PlanInput, plan_pool};
use vnpu_driver::prepare::NodePool;
use vnpu_driver::slices::{PoolPlan, SliceKey, TaintEffect, UNHEALTHY_TAINT};
use vnpu_kube_types::compare::dropped_fields;
use vnpu_kube_types::slice::{NodeOwner, key_of};
use vnpu_kube_types::sync::{SliceWrite, sync};
use vnpu_telemetry::Readiness;

use crate::hardware::{Inventories, Standing};
use crate::node::Node;

/// Changes are gathered for so long before they are written: hardware that fails does so piece by piece.
const GATHERING: Duration = Duration::from_millis(100);
/// Rounds that write are so far apart: slices are for everybody, and a chip may come and go many times a minute.
const APART: Duration = Duration::from_secs(1);
/// Everything is looked at again after so long, whether or not anything was heard.
const RESYNC: Duration = Duration::from_secs(300);
/// What the API server dropped is offered again after so long.
const LACKING: Duration = Duration::from_secs(3600);
/// Longest pause after failed writes.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why a round did not end.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("cannot {operation}: {source}")]
    Api { operation: &'static str, source: Box<kube::Error> },
    #[error(transparent)]
    Plan(#[from] vnpu_driver::planner::PlanError),
    #[error("the Node object {0} is not usable: {1}")]
    Node(String, &'static str),
}

fn api(operation: &'static str) -> impl FnOnce(kube::Error) -> PublishError {
    move |source| PublishError::Api { operation, source: Box::new(source) }
}

/// Publishes until `stop`.
pub async fn run(node: Arc<Node>, readiness: Readiness, stop: CancellationToken) {
    let work = async {
        let client = node.client.wait().await.clone();
        Publisher::new(node, client).run(readiness).await;
    };
    stop.run_until_cancelled(work).await;
}

struct Publisher {
    node: Arc<Node>,
    slices: Api<ResourceSlice>,
    client: Client,
    selector: String,
    observed: BTreeMap<String, ResourceSlice>,
    listed: bool,
    owner: Option<(NodeOwner, NodeLabels)>,
    /// Highest generation ever seen, by pool.
    highest: BTreeMap<PoolName, i64>,
    order: BTreeMap<PoolName, PublishedOrder>,
    lacking: BTreeSet<Lacking>,
    lacking_since: Instant,
    problems: BTreeSet<String>,
    /// When a slice was written last.
    wrote: Option<Instant>,
    /// Whether the taints that the slices had at the beginning were taken in.
    remembered: bool,
}

/// The part of a Node object that its watch brings.
type PartialNode = PartialObjectMeta<NodeObject>;

/// Where a node stands, by its labels.
fn topology(labels: &BTreeMap<String, String>) -> NodeLabels {
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    NodeLabels { leaf: label("vnpu.dev/leaf"), superpod: label("vnpu.dev/superpod") }
}

impl Publisher {
    fn new(node: Arc<Node>, client: Client) -> Self {
        let selector = format!("spec.driver={DRIVER_NAME},spec.nodeName={}", node.name);
        Self {
            slices: Api::all(client.clone()),
            node,
            client,
            selector,
            observed: BTreeMap::new(),
            listed: false,
            owner: None,
            highest: BTreeMap::new(),
            order: BTreeMap::new(),
            lacking: BTreeSet::new(),
            lacking_since: Instant::now(),
            problems: BTreeSet::new(),
            wrote: None,
            remembered: false,
        }
    }

    /// One round now, then one whenever something may have changed.
    async fn run(mut self, readiness: Readiness) {
        let mut seen = self.node.seen.clone();
        let mut changed = self.node.changed.subscribe();
        let watch =
            watcher(self.slices.clone(), watcher::Config::default().fields(&self.selector)).default_backoff();
        let mut watch = pin!(watch);
        // The node's labels say where it stands; they may be filled in after the plugin's start. Only metadata is sent.
        let own = watcher::Config::default().fields(&format!("metadata.name={}", self.node.name));
        let labels = watcher(Api::<PartialNode>::all(self.client.clone()), own).default_backoff();
        let mut labels = pin!(labels);
        let mut pause = APART;
        let mut resync = Instant::now() + RESYNC;
        loop {
            let failed = match self.round().await {
                Ok(true) => {
                    readiness.ready("slices");
                    pause = APART;
                    false
                }
                // Discovery has not ended yet: nothing can be said of the hardware.
                Ok(false) => false,
                Err(error) => {
                    tracing::warn!(%error, "slices are not published; trying again");
                    readiness.not_ready("slices", error.to_string());
                    self.look_again();
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    true
                }
            };
            if failed {
                tokio::time::sleep(pause).await;
                continue;
            }
            tokio::select! {
                // A point in time: on a busy node something is heard every few seconds.
                () = tokio::time::sleep_until(resync) => {
                    resync = Instant::now() + RESYNC;
                    self.look_again();
                    self.forget_lacking();
                }
                _ = seen.changed() => {}
                _ = changed.changed() => {}
                event = watch.next() => self.heard(event),
                event = labels.next() => self.heard_node(event),
            }
            // Counted from the first change. The first publication is not held up.
            let gathered = Instant::now() + GATHERING;
            let until = self.wrote.map_or(gathered, |wrote| gathered.max(wrote + APART));
            while self.listed && Instant::now() < until {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    event = watch.next() => self.heard(event),
                }
            }
        }
    }

    /// Nothing that was read of the API server holds any more.
    fn look_again(&mut self) {
        self.listed = false;
        self.owner = None;
    }

    /// The API server may have been updated, or its feature gates set: it is offered everything again.
    fn forget_lacking(&mut self) {
        if self.lacking_since.elapsed() >= LACKING && !self.lacking.is_empty() {
            self.lacking.clear();
        }
    }

    /// Takes an event of the watch in. Older versions of what we wrote ourselves are passed over.
    fn heard(&mut self, event: Option<Result<watcher::Event<ResourceSlice>, watcher::Error>>) {
        match event {
            Some(Ok(watcher::Event::Apply(slice))) => self.keep(slice),
            Some(Ok(watcher::Event::Delete(slice))) => {
                let name = slice.name_any();
                if self.observed.get(&name).is_some_and(|ours| version(ours) <= version(&slice)) {
                    self.observed.remove(&name);
                    // What we delete is not remembered. Somebody else did: the garbage collector, for example,
                    // because the Node was made anew and has another UID now.
                    self.owner = None;
                }
            }
            Some(Ok(watcher::Event::Init | watcher::Event::InitApply(_))) => {}
            // Events were missed, and the watch's own list may be older than what we wrote since.
            Some(Ok(watcher::Event::InitDone)) => self.listed = false,
            Some(Err(error)) => tracing::debug!(%error, "the watch on slices was interrupted"),
            None => {}
        }
    }

    /// Another Node of the same name, or other labels of topology: it is read again for the next round.
    fn heard_node(&mut self, event: Option<Result<watcher::Event<PartialNode>, watcher::Error>>) {
        match event {
            Some(Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => {
                let known =
                    self.owner.as_ref().map(|(owner, labels)| (Some(owner.uid.clone()), labels.clone()));
                if known != Some((node.uid(), topology(node.labels()))) {
                    self.owner = None;
                }
            }
            Some(Ok(watcher::Event::Delete(_))) => self.owner = None,
            Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => {}
            Some(Err(error)) => tracing::debug!(%error, "the watch on the node was interrupted"),
            None => {}
        }
    }

    fn keep(&mut self, slice: ResourceSlice) {
        let name = slice.name_any();
        if self.observed.get(&name).is_none_or(|ours| version(ours) <= version(&slice)) {
            self.observed.insert(name, slice);
        }
    }

    /// Brings the slices to what they should be, as far as the hardware is known; `false` when nothing of it is.
    async fn round(&mut self) -> Result<bool, PublishError> {
        let mut seen = Arc::clone(&self.node.seen.borrow());
        if seen.node_pools().is_empty() {
            return Ok(false);
        }
        if self.owner.is_none() {
            self.owner = Some(self.read_node().await?);
        }
        if !self.listed {
            let list = ListParams::default().fields(&self.selector);
            let found = self.slices.list(&list).await.map_err(api("list slices"))?;
            self.observed = found.items.into_iter().map(|s| (s.name_any(), s)).collect();
            self.listed = true;
        }
        if !std::mem::replace(&mut self.remembered, true) {
            // After a restart the slices are the memory of what was tainted.
            self.node.health.remember(&tainted(self.observed.values()));
            seen = Arc::new(self.node.health.judged(&seen));
        }
        // Of a vendor that this node has nothing of, what claims hold stays, as absent, until they give it back.
        let held = seen.absent_pools().into_iter().filter(|absent| self.holds(absent.pool.as_str()));
        let pools: Vec<NodePool<'_>> = seen.node_pools().into_iter().chain(held).collect();
        for NodePool { pool, inventory } in pools {
            let sick = self.sick(&seen, pool, inventory);
            // At most once per kind of field that the server may drop, and once more for the result.
            for _ in 0..4 {
                if !self.publish(pool, inventory, &sick).await? {
                    break;
                }
            }
        }
        self.delete_strays(&seen).await?;
        Ok(true)
    }

    /// Whether claims hold devices of a pool.
    fn holds(&self, pool: &str) -> bool {
        self.node
            .store
            .look(|state| state.plans().any(|plan| plan.devices_in_use().any(|(of, _)| of.as_str() == pool)))
    }

    /// The devices of a pool to taint. Pods may have to be evicted from what is not there any more: this is called again
    /// when the time for that has come.
    fn sick(
        &self,
        seen: &Inventories,
        pool: &PoolName,
        inventory: &Inventory,
    ) -> BTreeMap<DeviceName, TaintEffect> {
        let (_, vanished) = self.node.held(pool, inventory);
        let gone = self.node.health.miss(inventory.vendor, &vanished);
        let mut sick = seen.tainted(pool);
        // Another chip may have the place now.
        let places = |chip: &&Chip| inventory.chips.iter().all(|there| there.name() != chip.name());
        for chip in vanished.iter().filter(places) {
            sick.extend(gone.get(&chip.uuid).map(|effect| (chip.name(), *effect)));
        }
        sick
    }

    /// Deletes this node's slices of pools that it has nothing of and of which claims hold nothing.
    async fn delete_strays(&mut self, seen: &Inventories) -> Result<(), PublishError> {
        let stray = |slice: &ResourceSlice| {
            let pool = slice.spec.pool.name.as_str();
            slice.spec.driver == DRIVER_NAME
                && slice.spec.node_name.as_deref() == Some(self.node.name.as_str())
                && seen.standing(pool) == Standing::Absent
                && !self.holds(pool)
        };
        let deletes: Vec<SliceWrite> = self
            .observed
            .values()
            .filter(|slice| stray(slice))
            .map(|slice| SliceWrite::Delete {
                name: slice.name_any(),
                uid: slice.uid(),
                resource_version: slice.resource_version(),
            })
            .collect();
        for delete in deletes {
            tracing::info!(?delete, "a slice of a pool that is no more");
            self.write(delete).await?;
        }
        Ok(())
    }

    async fn read_node(&self) -> Result<(NodeOwner, NodeLabels), PublishError> {
        let nodes: Api<NodeObject> = Api::all(self.client.clone());
        let node = nodes.get(self.node.name.as_str()).await.map_err(api("read the Node object"))?;
        let uid = node.uid().ok_or(PublishError::Node(self.node.name.to_string(), "it has no UID"))?;
        Ok((NodeOwner { name: self.node.name.clone(), uid }, topology(node.labels())))
    }

    /// Publishes one pool; `true` when the server dropped fields and the plan has to be made again.
    async fn publish(
        &mut self,
        pool: &PoolName,
        inventory: &Inventory,
        sick: &BTreeMap<DeviceName, TaintEffect>,
    ) -> Result<bool, PublishError> {
        let Some((owner, labels)) = self.owner.clone() else { return Ok(false) };
        let plan = self.plan(pool, inventory, sick, &labels)?;
        let observed: Vec<ResourceSlice> = self.observed.values().cloned().collect();
        let highest = self.highest.entry(plan.pool.clone()).or_default();
        let wanted = sync(&plan, &observed, &owner, *highest);
        *highest = wanted.generation.max(*highest);
        if !wanted.writes.is_empty() {
            tracing::info!(pool = %plan.pool, generation = wanted.generation, writes = wanted.writes.len(), "publishing");
        }
        let mut dropped = BTreeSet::new();
        for write in wanted.writes {
            dropped.extend(self.write(write).await?);
        }
        self.order.insert(plan.pool.clone(), published_order(&plan));
        let news: Vec<Lacking> = dropped.difference(&self.lacking).copied().collect();
        for lacking in &news {
            tracing::error!("{lacking}");
        }
        if !news.is_empty() {
            self.lacking_since = Instant::now();
        }
        self.lacking.extend(&news);
        self.node.metrics.slices_complete.set(i64::from(self.lacking.is_empty()));
        Ok(!news.is_empty())
    }

    fn plan(
        &mut self,
        pool: &PoolName,
        inventory: &Inventory,
        sick: &BTreeMap<DeviceName, TaintEffect>,
        labels: &NodeLabels,
    ) -> Result<PoolPlan, PublishError> {
        let (in_use, vanished) = self.node.held(pool, inventory);
        // After a restart the slices are the memory of it.
        let observed = &self.observed;
        let order = self.order.entry(pool.clone()).or_insert_with(|| observed_order(pool, observed));
        let plan = plan_pool(&PlanInput {
            node: &self.node.name,
            inventory,
            labels,
            in_use: &in_use,
            vanished: &vanished,
            sick,
            order,
        })?;
        for problem in &plan.problems {
            if self.problems.insert(format!("{}: {}", problem.object, problem.message)) {
                tracing::warn!(object = %problem.object, reason = %problem.reason, "not published: {}", problem.message);
            }
        }
        Ok(degrade(plan, &self.lacking))
    }

    async fn write(&mut self, write: SliceWrite) -> Result<BTreeSet<Lacking>, PublishError> {
        self.node.metrics.slice_writes.inc();
        self.wrote = Some(Instant::now());
        let parameters = PostParams::default();
        let (sent, returned) = match write {
            SliceWrite::Delete { name, uid, resource_version } => {
                let parameters = DeleteParams {
                    preconditions: Some(Preconditions { uid, resource_version }),
                    ..DeleteParams::default()
                };
                match self.slices.delete(&name, &parameters).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(error) => return Err(api("delete a slice")(error)),
                }
                self.observed.remove(&name);
                return Ok(BTreeSet::new());
            }
            SliceWrite::Update(slice) => {
                let name = slice.name_any();
                let returned =
                    self.slices.replace(&name, &parameters, &slice).await.map_err(api("update a slice"))?;
                (slice, returned)
            }
            SliceWrite::Create(slice) => {
                let returned =
                    self.slices.create(&parameters, &slice).await.map_err(api("create a slice"))?;
                (slice, returned)
            }
        };
        let dropped = dropped_fields(&sent, &returned);
        self.observed.insert(returned.name_any(), returned);
        Ok(dropped)
    }
}

/// Chips that slices say are unhealthy, and how much; without an effect, those that were not there, where pods were
/// evicted from them.
fn tainted<'a>(observed: impl Iterator<Item = &'a ResourceSlice>) -> Vec<(DeviceUuid, Option<TaintEffect>)> {
    let devices = observed.flat_map(|slice| slice.spec.devices.iter().flatten());
    let chips =
        devices.filter(|device| !matches!(device.name.parse(), Ok(DeviceName::Module { .. }) | Err(_)));
    let tainted = chips.filter_map(|device| {
        let ours = |taint: &&DeviceTaint| taint.key == UNHEALTHY_TAINT;
        let taint = device.taints.iter().flatten().find(ours)?;
        let effect = match (taint.value.as_deref(), taint.effect.as_str()) {
            (Some("unhealthy"), "NoExecute") => Some(TaintEffect::NoExecute),
            (Some("unhealthy"), _) => Some(TaintEffect::NoSchedule),
            (_, "NoExecute") => None,
            _ => return None,
        };
        let uuid = device.attributes.as_ref()?.get("uuid")?.string.as_deref()?;
        Some((DeviceUuid::new(uuid).ok()?, effect))
    });
    tainted.collect()
}

/// The order in which the pool's cards stand in slices that were found, the newest of each.
fn observed_order(pool: &PoolName, observed: &BTreeMap<String, ResourceSlice>) -> PublishedOrder {
    let mut slices: Vec<&ResourceSlice> =
        observed.values().filter(|slice| slice.spec.pool.name == pool.as_str()).collect();
    slices.sort_by_key(|slice| slice.spec.pool.generation);
    let mut order = PublishedOrder::new();
    for slice in slices {
        if let Some(key @ SliceKey::Modules(_)) = key_of(slice) {
            let names = slice.spec.devices.iter().flatten().filter_map(|device| device.name.parse().ok());
            order.insert(key, cards_in_order(names));
        }
    }
    order
}

/// Resource versions of one resource can be compared since Kubernetes 1.35 (KEP-5504); one that is no number
/// counts as old.
fn version(slice: &ResourceSlice) -> u64 {
    slice.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}
