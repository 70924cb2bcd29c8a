//! The view as the news that make it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Change, Held, PoolState, View};
use crate::node::{AllocatedClaim, BoundPod, Device, Holding, Pool};
use crate::resources::Resources;

/// Everything that a view knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ViewSnapshot {
    /// How often the view had changed.
    pub version: u64,
    /// News that make the same view, in a fixed order.
    pub changes: Vec<Change>,
}

impl View {
    /// Everything that the view knows; equal views have equal snapshots but for the version.
    pub fn snapshot(&self) -> ViewSnapshot {
        let mut changes: Vec<Change> = self.classes.values().cloned().map(Change::Class).collect();
        let mut nodes: Vec<_> = self.nodes.iter().filter_map(|node| node.object.clone()).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        changes.extend(nodes.into_iter().map(Change::Node));
        let mut pools: Vec<Pool> = self.pools.iter().filter_map(|pool| self.pool(pool)).collect();
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        changes.extend(pools.into_iter().map(Change::Pool));
        changes.extend(self.claims.iter().map(|(uid, claim)| {
            let node = claim.node.and_then(|node| self.node(node)).map(|n| n.name.clone());
            let mut holdings: Vec<Holding> =
                claim.held.iter().flat_map(|(pool, held)| self.holdings(*pool, held)).collect();
            holdings.sort();
            Change::Claim(AllocatedClaim { uid: uid.clone(), node, holdings })
        }));
        changes.extend(self.pods.iter().filter_map(|(uid, pod)| {
            let named = |(id, amount): &(u32, u64)| Some((self.resources.get(*id)?.to_string(), *amount));
            let resources = Resources(pod.resources.iter().filter_map(named).collect());
            Some(Change::Pod(BoundPod {
                uid: uid.to_string(),
                node: self.node(pod.node)?.name.clone(),
                resources,
            }))
        }));
        changes.extend(self.ledger.all().cloned().map(Change::Reserve));
        ViewSnapshot { version: self.version, changes }
    }

    fn text(&self, id: u32) -> String {
        self.catalog.texts.get(id).map(ToString::to_string).unwrap_or_default()
    }

    fn holdings(&self, pool: u32, held: &[Held]) -> Vec<Holding> {
        let Some(pool) = usize::try_from(pool).ok().and_then(|p| self.pools.get(p)) else {
            return Vec::new();
        };
        let holding = |hold: &Held| Holding {
            pool: pool.name.clone(),
            device: self.text(hold.device),
            consumed: hold.consumed.iter().map(|(name, amount)| (self.text(*name), *amount)).collect(),
            admin_access: false,
        };
        held.iter().map(holding).collect()
    }

    fn pool(&self, pool: &PoolState) -> Option<Pool> {
        let layout = pool.layout.as_ref()?;
        let counter = |(set, name, amount): &(u32, u32, u64)| (self.text(*set), self.text(*name), *amount);
        let counters: Vec<_> = layout.blueprint.counters.iter().map(counter).collect();
        let device = |(position, form): (usize, &crate::layout::Form)| {
            let sets = [Some(form.attributes), pool.own.get(position).copied()];
            let pairs = sets.into_iter().flatten().filter_map(|set| self.catalog.attributes.get(set));
            let value = |(name, value): &(u32, u32)| {
                Some((self.text(*name), self.catalog.values.get(*value)?.as_ref().clone()))
            };
            let capacity = self.catalog.capacities.get(form.capacity);
            let pays = form.pays.iter().filter_map(|(counter, amount)| {
                let (set, name, _) = counters.get(usize::from(*counter))?;
                Some((set.clone(), name.clone(), *amount))
            });
            let missing = layout.blueprint.missing.iter().filter(|(at, ..)| usize::from(*at) == position);
            let missing = missing.map(|(_, set, name, amount)| (self.text(*set), self.text(*name), *amount));
            let taints = form.taints.and_then(|set| self.catalog.taints.get(set));
            Device {
                name: self.text(form.name),
                attributes: pairs.flat_map(|set| set.iter().filter_map(value)).collect(),
                capacity: capacity
                    .iter()
                    .flat_map(|set| set.iter())
                    .map(|(n, c)| (self.text(*n), c.clone()))
                    .collect(),
                shareable: form.shareable,
                counters: pays.chain(missing).collect(),
                taints: taints.map(|set| set.to_vec()).unwrap_or_default(),
            }
        };
        let node = pool.node.and_then(|node| self.node(node))?.name.clone();
        let devices = layout.blueprint.devices.iter().enumerate().map(device).collect();
        Some(Pool { name: pool.name.clone(), node, counters, devices })
    }

    /// Counts everything again, as a view does that was just put together.
    pub(crate) fn touch_all(&mut self) {
        self.dirty = (0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).collect();
        self.topology_stale = true;
    }

    /// Claims that hold a device, by pool and device: for tests and reports.
    pub fn holders(&self) -> BTreeMap<(String, String), u32> {
        let mut holders = BTreeMap::new();
        for pool in &self.pools {
            for hold in pool.holders.values().flat_map(|held| held.iter()) {
                *holders.entry((pool.name.to_string(), self.text(hold.device))).or_default() += 1;
            }
        }
        holders
    }
}
