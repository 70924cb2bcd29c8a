//! Looks at the hardware again and again and shares the newest inventory. A look that fails or hangs changes
//! nothing: what was seen last stays true until something else is seen.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vnpu_discovery::{Backend, DiscoveryError};
use vnpu_driver::hardware::{Health, Inventory};
use vnpu_driver::id::NodeName;
use vnpu_telemetry::Readiness;

use crate::hardware::Inventories;
use crate::metrics::{Metrics, Pool};

/// The backend bounds its own calls; this is for a backend that hangs between them.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the loop works with.
#[derive(Clone)]
pub struct Discover {
    /// This node.
    pub node: NodeName,
    /// Who is asked.
    pub backend: Arc<dyn Backend>,
    /// Where the newest inventories go.
    pub seen: watch::Sender<Option<Arc<Inventories>>>,
    /// Counters.
    pub metrics: Metrics,
    /// Told when hardware is known.
    pub readiness: Readiness,
}

/// Looks at every period until `stop`.
pub async fn run(discover: Discover, period: Duration, stop: CancellationToken) {
    let work = async {
        let mut said = String::new();
        loop {
            let trouble = match look(&discover).await {
                Ok(inventory) => take(&discover, inventory),
                Err(error) => error,
            };
            if trouble != said {
                if !trouble.is_empty() {
                    tracing::error!("the hardware cannot be looked at: {trouble}");
                    if discover.seen.borrow().is_none() {
                        discover.readiness.not_ready("discovery", trouble.clone());
                    }
                }
                said = trouble;
            }
            tokio::time::sleep(period).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

async fn look(discover: &Discover) -> Result<Inventory, String> {
    let backend = Arc::clone(&discover.backend);
    let looking = tokio::task::spawn_blocking(move || backend.discover());
    match tokio::time::timeout(DEADLINE, looking).await {
        Ok(Ok(result)) => result.map_err(|e: DiscoveryError| e.to_string()),
        Ok(Err(_)) => Err("discovery ended unexpectedly".to_owned()),
        Err(_) => Err(format!("discovery does not answer for {DEADLINE:?}")),
    }
}

/// Shares an inventory if it is new; returns what is wrong, or nothing.
fn take(discover: &Discover, inventory: Inventory) -> String {
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let label = Pool { vendor: inventory.vendor.to_string() };
    discover.metrics.chips.get_or_create(&label).set(number(inventory.chips.len()));
    discover.metrics.problems.set(number(inventory.problems.len()));
    let inventories = match Inventories::of(&discover.node, inventory) {
        Ok(inventories) => Arc::new(inventories),
        Err(error) => return error.to_string(),
    };
    discover.readiness.ready("discovery");
    discover.seen.send_if_modified(|seen| {
        if seen.as_ref() == Some(&inventories) {
            return false;
        }
        for inventory in inventories.all() {
            tracing::info!(vendor = %inventory.vendor, chips = inventory.chips.len(), driver = %inventory.driver_version, "hardware seen");
            for problem in &inventory.problems {
                tracing::warn!(object = %problem.object, reason = %problem.reason, "hardware problem: {}", problem.message);
            }
            for chip in &inventory.chips {
                match &chip.health {
                    Health::Healthy => {}
                    Health::Unhealthy(what) => tracing::warn!(chip = %chip.name(), "the chip is unhealthy: {what}"),
                    Health::Unknown(why) => tracing::warn!(chip = %chip.name(), "the chip's health is unknown: {why}"),
                }
            }
        }
        *seen = Some(inventories);
        true
    });
    String::new()
}
