//! What all operations on claims share: checkpoint, materials, API client, hardware, locks and limits. The
//! operations themselves are `prepare` and `unprepare`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Client;
use tokio::sync::{Semaphore, SetOnce, watch};
use tokio_util::task::TaskTracker;
use vnpu_driver::hardware::{Chip, Inventory};
use vnpu_driver::id::{ClaimUid, DeviceName, NodeName, PoolName};
use vnpu_driver::plan::PreparePlan;
use vnpu_driver::time::WallTime;

use crate::audit::Audits;
use crate::checkpoint::{Session, Store, StoreError};
use crate::events::Events;
use crate::hardware::{Inventories, Seen};
use crate::health::HealthJudge;
use crate::keyed::KeyedLocks;
use crate::live::Live;
use crate::materials::Materials;
use crate::metrics::Metrics;

/// How long one claim may take: the kubelet gives a call 45 s.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Everything that an operation needs.
pub struct Node {
    /// This node.
    pub name: NodeName,
    /// The checkpoint.
    pub store: Store,
    /// CDI files and regions.
    pub materials: Arc<Materials>,
    /// The API client, set once it is made.
    pub client: Arc<SetOnce<Client>>,
    /// What is known of the hardware, with the health that counts.
    pub seen: Seen,
    /// What the chips' health amounts to.
    pub health: Arc<HealthJudge>,
    /// Counters.
    pub metrics: Metrics,
    /// Events on pods.
    pub events: Events,
    /// What the comparisons with the vendor's numbers found.
    pub audits: Audits,
    /// Claims whose annotations are followed at once.
    pub live: Live,
    /// One operation per claim.
    pub locks: KeyedLocks<ClaimUid>,
    /// So many claims are prepared at once.
    pub limit: Semaphore,
    /// So many are given back at once.
    pub unprepare_limit: Semaphore,
    /// Operations go on when the kubelet gives up waiting; here they are waited for at the end.
    pub tasks: TaskTracker,
    /// Told whenever the devices in use change.
    pub changed: Arc<watch::Sender<()>>,
}

impl Node {
    /// The time of day.
    pub fn now() -> WallTime {
        WallTime::from(SystemTime::now())
    }

    /// Begins work on claims; takes in what another instance did meanwhile.
    ///
    /// # Errors
    /// The checkpoint cannot be used.
    pub async fn session(&self) -> Result<Session, StoreError> {
        let session = self.store.enter().await?;
        if session.reloaded() {
            self.materials.forget_regions();
        }
        Ok(session)
    }

    /// What is known of the hardware, waiting until that is all of these pools. What is known of other vendors' is not
    /// waited for.
    pub async fn inventories(&self, pools: &BTreeSet<&str>) -> Option<Arc<Inventories>> {
        let mut seen = self.seen.clone();
        let known = |seen: &Arc<Inventories>| seen.know(pools.iter().copied());
        seen.wait_for(known).await.ok().map(|seen| Arc::clone(&seen))
    }

    /// Says that claims came or went.
    pub fn note_change(&self) {
        let prepared = self.store.look(|state| state.plans().count());
        self.metrics.prepared.set(i64::try_from(prepared).unwrap_or(i64::MAX));
        self.changed.send_replace(());
    }

    /// The devices that claims hold, by their pools.
    pub fn in_use(&self) -> BTreeMap<PoolName, BTreeSet<DeviceName>> {
        self.store.look(|state| {
            let mut in_use: BTreeMap<PoolName, BTreeSet<DeviceName>> = BTreeMap::new();
            for (pool, device) in state.plans().flat_map(PreparePlan::devices_in_use) {
                in_use.entry(pool.clone()).or_default().insert(device);
            }
            in_use
        })
    }

    /// Devices of a pool that claims hold, and the chips among them that are not in `inventory`, as they were seen last.
    pub fn held(&self, pool: &PoolName, inventory: &Inventory) -> (BTreeSet<DeviceName>, Vec<Chip>) {
        self.store.look(|state| {
            let mut in_use = BTreeSet::new();
            let mut vanished = BTreeMap::new();
            for plan in state.plans() {
                in_use.extend(plan.devices_in_use().filter(|(p, _)| *p == pool).map(|(_, device)| device));
                let gone = plan.vanished_chips(pool, inventory);
                vanished.extend(gone.map(|chip| (chip.uuid.clone(), chip.clone())));
            }
            (in_use, vanished.into_values().collect())
        })
    }
}

/// Runs blocking work on a blocking thread. A panic there is an error here.
///
/// # Errors
/// What `work` says; `Err(None)` when it panicked or the runtime is ending.
pub async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Option<E>> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Some),
        Err(_) => Err(None),
    }
}
