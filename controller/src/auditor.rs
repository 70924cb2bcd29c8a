//! The auditor: looks at what was allocated, whoever allocated it, and says what must not be, or need not be. It knows
//! nothing of plans, and deletes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vnpu_driver::claim::Claim;
use vnpu_driver::id::{DeviceName, PoolName};
use vnpu_driver::straddle::{Published, held_by, straddled_modules};
use vnpu_placement::node::{Attribute, Pool};

use crate::observe::slice::PoolChange;
use crate::planner::desk::Change;
use crate::planner::store::Named;

/// The classes that the guard knows by itself.
const SHIPPED: [&str; 5] =
    ["npu.vnpu.dev", "npu-module.vnpu.dev", "gpu.vnpu.dev", "gpu-partition.vnpu.dev", "accelerator.vnpu.dev"];

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Claims that straddle, as `namespace/name`, each with the cards of its modules.
    pub straddling: BTreeMap<String, Vec<u32>>,
    /// Modules of which one chip is in use and one is free.
    pub half_modules: usize,
    /// Gated pods that are nominated.
    pub stale_nominations: usize,
    /// Claims that are allocated and that no pod holds.
    pub idle_reservations: usize,
    /// Classes of ours that nobody told the guard of.
    pub unguarded_classes: BTreeSet<String>,
}

/// What is published of a pool's devices, by name.
type Devices = BTreeMap<String, Published>;

/// A module, by its pool and card.
type Module = (String, u32);

/// The auditor.
#[derive(Debug, Default)]
pub struct Auditor {
    pools: BTreeMap<PoolName, Arc<Devices>>,
    /// Nodes of one kind publish the same, but for what the auditor does not look at: it is kept once.
    kinds: Vec<Arc<Devices>>,
    claims: BTreeMap<Named, Box<Claim>>,
    /// By module and die, how many claims hold it.
    used: BTreeMap<Module, BTreeMap<u32, usize>>,
    straddling: BTreeMap<Named, Vec<u32>>,
    classes: BTreeSet<String>,
    known_classes: BTreeSet<String>,
    nominated: BTreeSet<String>,
    idle: BTreeSet<Named>,
    broken: u64,
}

impl Auditor {
    /// Classes that the administrator told the guard of.
    pub fn know_classes(&mut self, names: impl IntoIterator<Item = String>) {
        self.known_classes = names.into_iter().collect();
    }

    /// Takes in what was observed.
    pub fn learn(&mut self, change: &Change) {
        match change {
            Change::Pool(change) => self.pool(change),
            Change::Claim(name, seen) => {
                let held = self.claims.get(name).map(|claim| claim.results.clone());
                self.forget(name);
                if let Some(claim) = &seen.audit {
                    // Only what is given anew can break anything.
                    let given = held.as_ref() != Some(&claim.results);
                    self.claim(name.clone(), claim.clone(), given);
                }
            }
            Change::ClaimGone(name) => self.forget(name),
            Change::Class(seen) if seen.ours => _ = self.classes.insert(seen.class.name.clone()),
            Change::Class(seen) => _ = self.classes.remove(&seen.class.name),
            Change::ClassGone(name) => _ = self.classes.remove(name),
            Change::Pod(pod) if pod.gates.ours && pod.nominated.is_some() => {
                self.nominated.insert(pod.uid.clone());
            }
            Change::Pod(pod) => _ = self.nominated.remove(&pod.uid),
            Change::PodGone(uid) => _ = self.nominated.remove(uid),
            _ => {}
        }
    }

    /// What is the matter now.
    pub fn findings(&self) -> Findings {
        let name = |(namespace, name): &Named| format!("{namespace}/{name}");
        let known =
            |class: &&String| SHIPPED.contains(&class.as_str()) || self.known_classes.contains(*class);
        Findings {
            straddling: self.straddling.iter().map(|(claim, cards)| (name(claim), cards.clone())).collect(),
            half_modules: self.used.values().filter(|dies| dies.len() == 1).count(),
            stale_nominations: self.nominated.len(),
            idle_reservations: self.idle.len(),
            unguarded_classes: self.classes.iter().filter(|class| !known(class)).cloned().collect(),
        }
    }

    /// Modules broken without need since this was last asked.
    pub fn take_broken(&mut self) -> u64 {
        std::mem::take(&mut self.broken)
    }

    fn pool(&mut self, change: &PoolChange) {
        match change {
            PoolChange::Known(pool) => {
                let devices = published(pool);
                self.kinds.retain(|kind| Arc::strong_count(kind) > 1);
                let known = self.kinds.iter().find(|kind| ***kind == devices).cloned();
                let devices = known.unwrap_or_else(|| {
                    let devices = Arc::new(devices);
                    self.kinds.push(devices.clone());
                    devices
                });
                self.pools.insert(pool.name.clone(), devices);
            }
            // What is allocated of it stays judged by its names.
            PoolChange::Gone(name) => _ = self.pools.remove(name),
            PoolChange::Incomplete => {}
        }
    }

    fn claim(&mut self, name: Named, claim: Box<Claim>, given: bool) {
        if claim.reserved_for.is_empty() && !claim.deleting {
            self.idle.insert(name.clone());
        }
        let held = held_by(&claim, |pool, device| {
            let pool = PoolName::new(pool).ok()?;
            self.pools.get(&pool)?.get(device).cloned()
        });
        let cards: Vec<u32> = straddled_modules(&held).into_iter().map(|(_, card)| card).collect();
        if !cards.is_empty() {
            self.straddling.insert(name.clone(), cards);
        }
        for (module, die) in dies(&claim) {
            if given && self.breaks_needlessly(&claim, &module) {
                self.broken += 1;
            }
            *self.used.entry(module).or_default().entry(die).or_default() += 1;
        }
        self.claims.insert(name, claim);
    }

    /// Whether a claim of one chip takes it from a whole module although a half one of the node is free.
    fn breaks_needlessly(&self, claim: &Claim, module: &Module) -> bool {
        let one = claim.results.len() == 1 && dies(claim).count() == 1;
        let (pool, card) = module;
        let dual = |card: u32| {
            let pool = PoolName::new(pool.clone()).ok();
            let devices = pool.and_then(|pool| self.pools.get(&pool));
            devices.is_some_and(|devices| devices.contains_key(&format!("module-{card}")))
        };
        let half = |((other, other_card), used): (&Module, &BTreeMap<u32, usize>)| {
            other == pool && other_card != card && used.len() == 1 && dual(*other_card)
        };
        one && dual(*card) && !self.used.contains_key(module) && self.used.iter().any(half)
    }

    fn forget(&mut self, name: &Named) {
        self.straddling.remove(name);
        self.idle.remove(name);
        let Some(claim) = self.claims.remove(name) else { return };
        for (module, die) in dies(&claim) {
            let Some(used) = self.used.get_mut(&module) else { continue };
            if let Some(count) = used.get_mut(&die) {
                *count -= 1;
                if *count == 0 {
                    used.remove(&die);
                }
            }
            if used.is_empty() {
                self.used.remove(&module);
            }
        }
    }
}

/// The dies that a claim holds, administrative access aside.
fn dies(claim: &Claim) -> impl Iterator<Item = (Module, u32)> {
    let counted = claim.results.iter().filter(|result| !result.admin_access);
    counted.flat_map(|result| {
        let (card, dies) = match result.device.parse() {
            Ok(DeviceName::Chip { card, die }) => (card, vec![die]),
            Ok(DeviceName::Module { card }) => (card, vec![0, 1]),
            // No half of a module.
            Ok(DeviceName::Partition { .. }) | Err(_) => (0, Vec::new()),
        };
        dies.into_iter().map(move |die| ((result.pool.clone(), card), die))
    })
}

fn published(pool: &Pool) -> Devices {
    let read = |device: &vnpu_placement::node::Device| {
        let module = match device.attributes.get("vnpu.dev/module") {
            Some(Attribute::Int(module)) => u32::try_from(*module).ok(),
            _ => None,
        };
        let capacity =
            device.capacity.iter().map(|(name, capacity)| (name.clone(), capacity.value)).collect();
        (device.name.clone(), Published { module, capacity })
    };
    pool.devices.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::observe::slice::Slices;
    use crate::observe::{claim, pod, slice};

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    /// An auditor that knows a node of three dual-die modules.
    fn auditor() -> Auditor {
        let devices: Vec<Value> = (0..3)
            .flat_map(|card| {
                let device = |name: String| json!({"name": name, "attributes": {"module": {"int": card}}});
                [format!("module-{card}"), format!("chip-{card}-0"), format!("chip-{card}-1")].map(device)
            })
            .collect();
        let pool = json!({"name": "node-1/ascend", "generation": 1, "resourceSliceCount": 1});
        let spec = json!({"driver": "vnpu.dev", "nodeName": "node-1", "pool": pool, "devices": devices});
        let mut auditor = Auditor::default();
        let slice = slice::read(&object(json!({"metadata": {"name": "s"}, "spec": spec}))).unwrap();
        auditor.learn(&Change::Pool(Slices::default().put(slice)));
        auditor
    }

    fn claim(name: &str, devices: &[&str], reserved: bool) -> Change {
        let results: Vec<Value> = devices
            .iter()
            .map(|d| json!({"request": "r", "driver": "vnpu.dev", "pool": "node-1/ascend", "device": d}))
            .collect();
        let pods = json!([{"resource": "pods", "name": "p", "uid": "u"}]);
        let claim = json!({
            "metadata": {"name": name, "namespace": "n", "uid": format!("11111111-2222-4333-8444-{:012}", name.len())},
            "spec": {},
            "status": {"allocation": {"devices": {"results": results}}, "reservedFor": if reserved { pods } else { json!([]) }},
        });
        Change::Claim(("n".to_owned(), name.to_owned()), claim::read(&object(claim)).unwrap())
    }

    fn gone(name: &str) -> Change {
        Change::ClaimGone(("n".to_owned(), name.to_owned()))
    }

    #[test]
    fn a_claim_that_straddles_is_named_until_it_is_gone() {
        let mut auditor = auditor();
        auditor.learn(&claim("good", &["chip-0-0", "chip-0-1"], true));
        assert!(auditor.findings().straddling.is_empty());
        auditor.learn(&claim("bad", &["chip-1-0", "chip-2-1"], true));
        let named = auditor.findings().straddling;
        assert_eq!(named, BTreeMap::from([("n/bad".to_owned(), vec![1, 2])]));
        auditor.learn(&gone("bad"));
        assert!(auditor.findings().straddling.is_empty());
    }

    #[test]
    fn half_modules_and_modules_broken_without_need() {
        let mut auditor = auditor();
        auditor.learn(&claim("first", &["chip-0-0"], true));
        assert_eq!((auditor.findings().half_modules, auditor.take_broken()), (1, 0), "none was half");
        auditor.learn(&claim("mate", &["chip-0-1"], true));
        assert_eq!((auditor.findings().half_modules, auditor.take_broken()), (0, 0));
        auditor.learn(&gone("mate"));
        auditor.learn(&claim("breaker", &["chip-1-0"], true));
        assert_eq!((auditor.findings().half_modules, auditor.take_broken()), (2, 1));
        // The same claim once more is no news.
        auditor.learn(&claim("breaker", &["chip-1-0"], true));
        assert_eq!(auditor.findings().half_modules, 2);
    }

    #[test]
    fn a_claim_seen_again_breaks_nothing_again() {
        let mut auditor = auditor();
        auditor.learn(&claim("first", &["chip-0-0"], true));
        auditor.learn(&claim("breaker", &["chip-1-0"], true));
        assert_eq!(auditor.take_broken(), 1);
        auditor.learn(&claim("breaker", &["chip-1-0"], true));
        assert_eq!(auditor.take_broken(), 0);
    }

    #[test]
    fn claims_that_nobody_holds_are_counted() {
        let mut auditor = auditor();
        auditor.learn(&claim("idle", &["module-0"], false));
        assert_eq!(auditor.findings().idle_reservations, 1);
        auditor.learn(&claim("idle", &["module-0"], true));
        assert_eq!(auditor.findings().idle_reservations, 0);
    }

    #[test]
    fn classes_of_ours_that_the_guard_does_not_know_are_named() {
        let mut auditor = auditor();
        let class = |name: &str| {
            let cel = json!({"expression": "device.driver == \"vnpu.dev\""});
            let class = json!({"metadata": {"name": name}, "spec": {"selectors": [{"cel": cel}]}});
            Change::Class(claim::class(&object(class)).unwrap())
        };
        auditor.learn(&class("npu.vnpu.dev"));
        assert!(auditor.findings().unguarded_classes.is_empty());
        auditor.learn(&class("my-npu"));
        assert_eq!(auditor.findings().unguarded_classes, BTreeSet::from(["my-npu".to_owned()]));
        auditor.know_classes(["my-npu".to_owned()]);
        assert!(auditor.findings().unguarded_classes.is_empty());
    }

    #[test]
    fn nominations_of_gated_pods_are_counted() {
        let mut auditor = auditor();
        let pod = |gates: Value| {
            let pod = json!({
                "metadata": {"name": "p", "namespace": "n", "uid": "u"},
                "spec": {"containers": [{"name": "a"}], "schedulingGates": gates},
                "status": {"nominatedNodeName": "node-1"},
            });
            Change::Pod(Arc::new(pod::read(&object(pod)).unwrap()))
        };
        auditor.learn(&pod(json!([{"name": "vnpu.dev/placement"}])));
        assert_eq!(auditor.findings().stale_nominations, 1);
        auditor.learn(&pod(json!([])));
        assert_eq!(auditor.findings().stale_nominations, 0);
    }
}
