//! The node's hardware as the plugin keeps it: the newest inventory of every vendor, shared by publishing and
//! preparing. Asking the vendor's library is `discovery`'s.

use std::sync::Arc;

use vnpu_driver::hardware::{Chip, Inventory};
use vnpu_driver::id::{DeviceUuid, InvalidId, NodeName, PoolName};
use vnpu_driver::prepare::{NodePool, PreparePlan};

/// The newest inventories, by pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventories {
    pools: Vec<(PoolName, Inventory)>,
}

impl Inventories {
    /// One vendor's inventory.
    ///
    /// # Errors
    /// A node name that makes no pool name.
    pub fn of(node: &NodeName, inventory: Inventory) -> Result<Self, InvalidId> {
        Ok(Self { pools: vec![(PoolName::of(node, inventory.vendor)?, inventory)] })
    }

    /// As the Prepare decision wants them.
    pub fn node_pools(&self) -> Vec<NodePool<'_>> {
        self.pools.iter().map(|(pool, inventory)| NodePool { pool, inventory }).collect()
    }

    /// All inventories.
    pub fn all(&self) -> impl Iterator<Item = &Inventory> {
        self.pools.iter().map(|(_, inventory)| inventory)
    }

    /// A chip by its identity.
    pub fn chip(&self, uuid: &DeviceUuid) -> Option<&Chip> {
        self.all().flat_map(|i| &i.chips).find(|c| c.uuid == *uuid)
    }

    /// A plan of earlier with the numbers that its chips have now.
    pub fn renumbered(&self, plan: &PreparePlan) -> PreparePlan {
        plan.renumbered(|uuid| self.chip(uuid).map(|chip| chip.phys_id))
    }
}

/// The newest inventories, shared; `None` until the first look ended.
pub type Seen = tokio::sync::watch::Receiver<Option<Arc<Inventories>>>;
