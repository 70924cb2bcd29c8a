//! Looks at one vendor's hardware again and again, and whenever the vendor tells of something, and shares what is known.
//! Each vendor has a loop of its own, so that one that fails or hangs holds up no other. A look that fails or hangs
//! changes nothing: what was seen last stays true until something else is seen.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vnpu_discovery::{DiscoveryError, Heard};
use vnpu_driver::hardware::{Health, Inventory};
use vnpu_telemetry::Readiness;

use crate::hardware::{Inventories, Look};
use crate::health::HealthJudge;
use crate::metrics::{Metrics, Pool};
use crate::vendors::{Source, Vendors};

/// The backend bounds its own calls; this is for a backend that hangs between them.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between the beginnings of two looks, however often the vendor tells of something.
const APART: Duration = Duration::from_millis(250);
/// A library that was there is gone after so long: while a driver is installed anew, it is away for moments.
const GONE: Duration = Duration::from_secs(60);
/// What was seen is not doubted before: one look that fails says little, and as long the kubelet believes what it heard.
const DOUBTED: Duration = Duration::from_secs(30);

/// What the loop of one vendor works with.
#[derive(Clone)]
pub struct Discover {
    /// The vendor.
    pub source: Source,
    /// Where what is known goes.
    pub seen: watch::Sender<Arc<Inventories>>,
    /// What the chips' health amounts to.
    pub health: Arc<HealthJudge>,
    /// Counters.
    pub metrics: Metrics,
    /// Told how it goes.
    pub progress: Progress,
}

/// Why a look brought nothing.
enum Trouble {
    /// The vendor's library is not on this node, nor was it asked for by name.
    Missing(String),
    /// Anything else.
    Failed(String),
}

type Looking = JoinHandle<Result<Inventory, DiscoveryError>>;

/// Looks at every period, and when the vendor tells of something, until `stop`.
pub async fn run(discover: Discover, period: Duration, stop: CancellationToken) {
    let heard = Arc::new(Notify::new());
    let told = Arc::clone(&heard);
    discover.source.backend.listen(Heard::new(move || told.notify_one()));
    let work = async {
        let (mut looking, mut said, mut missing_since) = (None, String::new(), None);
        let mut seen_at = Instant::now();
        loop {
            let began = Instant::now();
            let trouble = match look(&discover.source, &mut looking).await {
                Ok(inventory) => {
                    (missing_since, seen_at) = (None, Instant::now());
                    take(&discover, Look::Seen(inventory));
                    discover.progress.note(&discover.source, First::Seen);
                    String::new()
                }
                Err(Trouble::Failed(trouble)) => {
                    missing_since = None;
                    fail(&discover, &trouble, trouble != said);
                    trouble
                }
                Err(Trouble::Missing(trouble)) => {
                    let since = *missing_since.get_or_insert_with(Instant::now);
                    miss(&discover, &trouble, since.elapsed(), trouble != said);
                    trouble
                }
            };
            if !trouble.is_empty() && (!was_seen(&discover) || seen_at.elapsed() >= DOUBTED) {
                doubt(&discover, &trouble);
            }
            said = trouble;
            // What was told of while the look went on is looked at again: who knows what it still saw.
            if tokio::time::timeout(period, heard.notified()).await.is_ok() {
                discover.metrics.heard.get_or_create(&Pool { vendor: discover.source.vendor() }).inc();
                tokio::time::sleep_until(began + APART).await;
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

/// One look. One that does not end is waited for again the next time: another would hang beside it.
async fn look(source: &Source, looking: &mut Option<Looking>) -> Result<Inventory, Trouble> {
    let running = looking.get_or_insert_with(|| {
        let backend = Arc::clone(&source.backend);
        tokio::task::spawn_blocking(move || backend.discover())
    });
    let Ok(ended) = tokio::time::timeout(DEADLINE, running).await else {
        return Err(Trouble::Failed(format!("discovery does not answer for {DEADLINE:?}")));
    };
    *looking = None;
    match ended {
        Ok(Ok(inventory)) => Ok(inventory),
        Ok(Err(error @ DiscoveryError::LibraryMissing { .. })) if !source.named => {
            Err(Trouble::Missing(error.to_string()))
        }
        Ok(Err(error)) => Err(Trouble::Failed(error.to_string())),
        Err(_) => Err(Trouble::Failed("discovery ended unexpectedly".to_owned())),
    }
}

fn fail(discover: &Discover, trouble: &str, new: bool) {
    if new {
        tracing::error!(vendor = %discover.source.vendor(), "the hardware cannot be looked at: {trouble}");
    }
    if !was_seen(discover) {
        discover.progress.note(&discover.source, First::Failed(trouble.to_owned()));
    }
}

fn miss(discover: &Discover, trouble: &str, since: Duration, new: bool) {
    let vendor = discover.source.vendor();
    if was_seen(discover) && since < GONE {
        if new {
            tracing::error!(%vendor, "the hardware cannot be looked at, it stays as it was seen for {GONE:?}: {trouble}");
        }
        return;
    }
    if was_seen(discover) {
        tracing::error!(%vendor, "this node's devices count as gone: {trouble}");
    } else if new {
        tracing::info!(%vendor, "not on this node: {trouble}");
    }
    take(discover, Look::Missing);
    discover.progress.note(&discover.source, First::Missing(trouble.to_owned()));
}

fn was_seen(discover: &Discover) -> bool {
    matches!(discover.seen.borrow().look(&discover.source.pool), Some(Look::Seen(_)))
}

/// Shares why nothing is seen, if that is new.
fn doubt(discover: &Discover, trouble: &str) {
    discover.seen.send_if_modified(|seen| {
        let now = seen.doubted(&discover.source.pool, trouble);
        let new = **seen != now;
        if new {
            *seen = Arc::new(now);
        }
        new
    });
}

/// Shares a look if it is new.
fn take(discover: &Discover, look: Look) {
    discover.seen.send_if_modified(|seen| {
        let now = discover.health.judged(&seen.with(&discover.source.pool, look));
        if **seen == now {
            return false;
        }
        for inventory in now.all().filter(|inventory| !seen.all().any(|before| before == *inventory)) {
            say(inventory);
        }
        show(&discover.metrics, seen, &now);
        *seen = Arc::new(now);
        true
    });
}

fn say(inventory: &Inventory) {
    tracing::info!(vendor = %inventory.vendor, chips = inventory.chips.len(), driver = %inventory.driver_version, "hardware seen");
    for problem in &inventory.problems {
        tracing::warn!(object = %problem.object, reason = %problem.reason, "hardware problem: {}", problem.message);
    }
    for chip in &inventory.chips {
        match &chip.health {
            Health::Healthy => {}
            Health::Unhealthy(_) => {
                tracing::warn!(chip = %chip.name(), "the chip is unhealthy: {}", chip.health)
            }
            Health::Unknown(why) => {
                tracing::warn!(chip = %chip.name(), "the chip's health is unknown: {why}")
            }
        }
    }
}

/// A look at one vendor may take chips from another, so all are shown.
fn show(metrics: &Metrics, before: &Inventories, now: &Inventories) {
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let label = |inventory: &Inventory| Pool { vendor: inventory.vendor.to_string() };
    for gone in
        before.all().map(label).filter(|label| !now.all().any(|i| label.vendor == i.vendor.to_string()))
    {
        metrics.chips.remove(&gone);
        metrics.problems.remove(&gone);
    }
    for inventory in now.all() {
        metrics.chips.get_or_create(&label(inventory)).set(number(inventory.chips.len()));
        metrics.problems.get_or_create(&label(inventory)).set(number(inventory.problems.len()));
    }
}

/// How the first look at one vendor's hardware went.
#[derive(Debug, Clone, PartialEq, Eq)]
enum First {
    Waiting,
    Seen,
    Missing(String),
    Failed(String),
}

/// How the first looks at all vendors' hardware went: what the readiness says of `discovery`.
#[derive(Debug, Clone)]
pub struct Progress {
    readiness: Readiness,
    vendors: Arc<Mutex<Vec<(String, First)>>>,
}

impl Progress {
    /// Nothing has been looked at yet.
    pub fn new(readiness: Readiness, vendors: &Vendors) -> Self {
        let waiting = vendors.iter().map(|source| (source.vendor(), First::Waiting)).collect();
        let progress = Self { readiness, vendors: Arc::new(Mutex::new(waiting)) };
        progress.tell();
        progress
    }

    fn note(&self, source: &Source, first: First) {
        let vendor = source.vendor();
        let mut vendors = self.vendors.lock().unwrap_or_else(PoisonError::into_inner);
        let place = vendors.iter_mut().find(|(name, _)| *name == vendor);
        let Some((_, place)) = place.filter(|(_, place)| *place != first) else { return };
        *place = first;
        drop(vendors);
        self.tell();
    }

    fn tell(&self) {
        let vendors = self.vendors.lock().unwrap_or_else(PoisonError::into_inner);
        match waits_for(&vendors) {
            None => self.readiness.ready("discovery"),
            Some(reason) => self.readiness.not_ready("discovery", reason),
        }
    }
}

/// What is missing, in one line; `None` when every vendor was seen or is not on this node, and at least one was seen.
fn waits_for(vendors: &[(String, First)]) -> Option<String> {
    let open = vendors.iter().filter_map(|(vendor, first)| match first {
        First::Waiting => Some(format!("{vendor}: the first look at the hardware has not ended")),
        First::Failed(trouble) => Some(format!("{vendor}: {trouble}")),
        First::Seen | First::Missing(_) => None,
    });
    let open: Vec<String> = open.collect();
    if !open.is_empty() {
        return Some(open.join("; "));
    }
    let missing = vendors.iter().map(|(vendor, first)| match first {
        First::Missing(trouble) => Some(format!("{vendor}: {trouble}")),
        _ => None,
    });
    let missing: Option<Vec<String>> = missing.collect();
    missing.map(|all| format!("no vendor's library is on this node: {}", all.join("; ")))
}

#[cfg(test)]
mod tests;
