//! The chips' health as it counts: what discovery says, by the configured table, with time to recover. And who is told
//! of it: claims, and the pods that have them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vnpu_driver::hardware::{Chip, Vendor};
use vnpu_driver::health::{HealthPolicy, Judge};
use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::prepare::PreparePlan;
use vnpu_driver::record::ClaimState;
use vnpu_driver::slices::TaintEffect;

use crate::hardware::Inventories;
use crate::node::Node;
use crate::status;

/// Looks again after so long when nothing is known to change.
const IDLE: Duration = Duration::from_secs(3600);
/// A status that could not be written is tried again after so long.
const AGAIN: Duration = Duration::from_secs(10);

/// Judges the chips of this node.
#[derive(Debug)]
pub struct HealthJudge {
    judge: Mutex<Judge>,
    began: Instant,
    changed: Notify,
}

impl HealthJudge {
    /// No chip was judged yet.
    pub fn new(policy: HealthPolicy) -> Self {
        Self { judge: Mutex::new(Judge::new(policy)), began: Instant::now(), changed: Notify::new() }
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the hardware, with the health that counts now in place of what the looks said.
    #[must_use]
    pub fn judged(&self, seen: &Inventories) -> Inventories {
        let judged = seen.judged(&mut self.judge(), self.began.elapsed());
        self.changed.notify_one();
        judged
    }

    /// Chips that were tainted when this process began: they have to be well for a while first. Without an effect, one that
    /// was gone, and pods evicted from it.
    pub fn remember(&self, tainted: &[(DeviceUuid, Option<TaintEffect>)]) {
        let now = self.began.elapsed();
        let mut judge = self.judge();
        for (uuid, effect) in tainted {
            let Some(effect) = effect else {
                judge.remember_gone(uuid);
                continue;
            };
            tracing::info!(%uuid, "the chip was tainted before: it has to be well for a while first");
            judge.remember(now, uuid, *effect);
        }
        drop(judge);
        self.changed.notify_one();
    }

    /// Claims hold these chips of a vendor, and they are not there any more; their taints.
    pub fn miss(&self, vendor: Vendor, chips: &[Chip]) -> BTreeMap<DeviceUuid, TaintEffect> {
        let mut judge = self.judge();
        let news = judge.miss(self.began.elapsed(), vendor, chips.iter().map(|chip| &chip.uuid));
        let taints = judge.missed(vendor).collect();
        drop(judge);
        if news {
            self.changed.notify_one();
        }
        taints
    }

    fn next(&self) -> Instant {
        let next = self.judge().next();
        next.map_or_else(|| Instant::now() + IDLE, |next| self.began + next)
    }
}

/// Judges again whenever time alone changes a verdict, until `stop`.
pub async fn run(health: Arc<HealthJudge>, seen: watch::Sender<Arc<Inventories>>, stop: CancellationToken) {
    let work = async {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(health.next()) => {}
                () = health.changed.notified() => {}
            }
            seen.send_if_modified(|seen| {
                let now = seen.judged(&mut health.judge(), health.began.elapsed());
                let new = **seen != now;
                if new {
                    *seen = Arc::new(now);
                }
                new
            });
        }
    };
    stop.run_until_cancelled(work).await;
}

/// The chips of each prepared claim that are not well, with the words for it.
type Told = BTreeMap<ClaimUid, BTreeSet<String>>;

/// Keeps the `Ready` conditions of prepared claims up to date, until `stop`; the pods that have them are told by events.
pub async fn tell(node: Arc<Node>, stop: CancellationToken) {
    let work = async {
        let mut seen = node.seen.clone();
        let mut told = Told::new();
        loop {
            let now = Arc::clone(&seen.borrow_and_update());
            let complete = tell_once(&node, &now, &mut told).await;
            let again = if complete { IDLE } else { AGAIN };
            // Closed only when the plugin ends.
            let _ = tokio::time::timeout(again, seen.changed()).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Whether all that is to be told was.
async fn tell_once(node: &Arc<Node>, seen: &Inventories, told: &mut Told) -> bool {
    let plans: Vec<PreparePlan> = node.store.look(|state| {
        let done = state.states().filter_map(|(_, state)| match state {
            ClaimState::PrepareCompleted(plan) => Some(plan.clone()),
            _ => None,
        });
        done.collect()
    });
    told.retain(|claim, _| plans.iter().any(|plan| plan.claim == *claim));
    let mut complete = true;
    for plan in plans {
        let pools = || plan.results.iter().map(|result| result.pool.as_str());
        if !seen.know(pools()) {
            // It comes again with the first look.
            continue;
        }
        let sick = sick(seen, &plan);
        // What stands in a claim that was not looked at yet may be of an earlier plugin.
        if told.get(&plan.claim) == Some(&sick) {
            continue;
        }
        match status::read_and_write(node, &plan).await {
            Ok(()) => {
                told.insert(plan.claim.clone(), sick);
            }
            Err(error) => {
                tracing::warn!(claim = %plan.claim, %error, "its chips' health is not told yet; it is tried again");
                complete = false;
            }
        }
    }
    complete
}

fn sick(seen: &Inventories, plan: &PreparePlan) -> BTreeSet<String> {
    let chips = plan.results.iter().flat_map(|result| &result.chips);
    let sick = chips.filter_map(|chip| match seen.chip(&chip.uuid) {
        Some(found) if seen.taint(&chip.uuid).is_some() => Some(format!("{} {}", chip.uuid, found.health)),
        Some(_) => None,
        None => Some(format!("{} is not there", chip.uuid)),
    });
    sick.collect()
}
