//! Keeps the metrics of every device up to date: what it has, how it is, what claims have of it, and, at every period,
//! what its library says that it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vnpu_driver::hardware::{Chip, Health, Inventory, Usage};
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::plan::PreparePlan;
use vnpu_driver::quantity::{Bytes, Percent};

use crate::hardware::Inventories;
use crate::metrics::{DeviceState, OneDevice, Pool, PoolState};
use crate::node::Node;
use crate::vendors::{Source, Vendors};

/// Between two questions to the libraries.
pub const PERIOD: Duration = Duration::from_secs(30);
/// Between two pictures, however often claims come and go.
const APART: Duration = Duration::from_secs(1);

type Answers = BTreeMap<DeviceUuid, Usage>;

/// Shows the node's devices until `stop`. The libraries are asked at every `period`; one that takes longer than a third
/// of it is waited for beside the others (backends bound their own calls).
pub async fn run(node: Arc<Node>, vendors: Vendors, period: Duration, stop: CancellationToken) {
    let (mut seen, mut claims) = (node.seen.clone(), node.changed.subscribe());
    let asking = async {
        let mut asked = BTreeMap::new();
        loop {
            let known = Arc::clone(&node.seen.borrow());
            let usage = ask(&vendors, &known, period / 3, &mut asked).await;
            let known = Arc::clone(&node.seen.borrow());
            show(&node, &known, Some(&usage));
            tokio::time::sleep(period).await;
        }
    };
    let following = async {
        loop {
            let known = Arc::clone(&seen.borrow_and_update());
            claims.borrow_and_update();
            show(&node, &known, None);
            tokio::time::sleep(APART).await;
            tokio::select! {
                // Both end only with the plugin.
                _ = seen.changed() => {}
                _ = claims.changed() => {}
            }
        }
    };
    stop.run_until_cancelled(async { tokio::join!(asking, following) }).await;
}

/// Asks every vendor about its chips. One whose answer is still awaited is not asked again.
async fn ask(
    vendors: &Vendors,
    known: &Inventories,
    patience: Duration,
    asked: &mut BTreeMap<String, JoinHandle<Answers>>,
) -> Answers {
    for source in vendors.iter() {
        let chips = chips(known, source);
        if !chips.is_empty() {
            asked.entry(source.pool.to_string()).or_insert_with(|| {
                let backend = Arc::clone(&source.backend);
                tokio::task::spawn_blocking(move || {
                    chips.iter().map(|chip| (chip.uuid.clone(), backend.usage(chip))).collect()
                })
            });
        }
    }
    let mut usage = Answers::new();
    let until = tokio::time::Instant::now() + patience;
    for (pool, mut answers) in std::mem::take(asked) {
        match tokio::time::timeout_at(until, &mut answers).await {
            // One that panicked has told nothing.
            Ok(answers) => usage.extend(answers.unwrap_or_default()),
            Err(_) => _ = asked.insert(pool, answers),
        }
    }
    usage
}

fn chips(known: &Inventories, source: &Source) -> Vec<Chip> {
    let pools = known.node_pools();
    let pool = pools.iter().find(|pool| *pool.pool == source.pool);
    pool.map(|pool| pool.inventory.chips.clone()).unwrap_or_default()
}

/// What prepared claims have of each chip.
type Held = BTreeMap<DeviceUuid, (Bytes, Percent)>;

fn show(node: &Node, known: &Inventories, usage: Option<&Answers>) {
    let held = node.store.look(|state| held(state.plans()));
    let (mut devices, mut pools) = (Vec::new(), Vec::new());
    for inventory in known.all() {
        pools.push(pool(inventory, &held));
        for chip in &inventory.chips {
            let (allocated, cores) = held.get(&chip.uuid).copied().unwrap_or_default();
            devices.push(DeviceState {
                device: OneDevice {
                    vendor: inventory.vendor.to_string(),
                    device: chip.name().to_string(),
                    uuid: chip.uuid.to_string(),
                    model: chip.model.clone(),
                },
                memory: chip.memory,
                healthy: chip.health == Health::Healthy,
                tainted: known.taint(&chip.uuid).is_some(),
                allocated,
                cores,
                usage: usage.map(|usage| usage.get(&chip.uuid).copied().unwrap_or_default()),
            });
        }
    }
    node.metrics.devices.show(&devices, &pools);
}

fn held<'a>(plans: impl Iterator<Item = &'a PreparePlan>) -> Held {
    let mut held = Held::new();
    let results = plans.flat_map(|plan| &plan.results).filter(|result| !result.admin_access);
    for chip in results.flat_map(|result| &result.chips) {
        let (memory, cores) = held.entry(chip.uuid.clone()).or_default();
        memory.0 = memory.0.saturating_add(chip.memory.0);
        *cores = cores.saturating_add(chip.cores);
    }
    held
}

fn pool(inventory: &Inventory, held: &Held) -> PoolState {
    let mut modules: BTreeMap<u32, BTreeSet<bool>> = BTreeMap::new();
    let (mut memory, mut allocated) = (0_u64, 0_u64);
    for chip in &inventory.chips {
        memory = memory.saturating_add(chip.memory.0);
        allocated = allocated.saturating_add(held.get(&chip.uuid).map_or(0, |(memory, _)| memory.0));
        if let Some(module) = chip.module {
            modules.entry(module).or_default().insert(held.contains_key(&chip.uuid));
        }
    }
    PoolState {
        pool: Pool { vendor: inventory.vendor.to_string() },
        half_used_modules: modules.values().filter(|states| states.len() == 2).count(),
        memory: Bytes(memory),
        allocated: Bytes(allocated),
    }
}
