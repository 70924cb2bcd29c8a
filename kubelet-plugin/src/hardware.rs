//! The node's hardware as the plugin keeps it: what is known of every vendor's devices, shared by publishing and
//! preparing. Asking the vendors' libraries is `discovery`'s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use vnpu_driver::hardware::{Chip, Inventory, MultiDiePolicy, Problem, Vendor};
use vnpu_driver::health::Judge;
use vnpu_driver::id::{DeviceName, DeviceUuid, PoolName};
use vnpu_driver::prepare::{NodePool, PreparePlan};
use vnpu_driver::slices::TaintEffect;

use crate::vendors::Vendors;

/// How the looks at one vendor's devices went so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// None has ended that says anything.
    Pending,
    /// The vendor's library is not on this node.
    Missing,
    /// The newest inventory.
    Seen(Inventory),
}

/// What is known of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing<'a> {
    /// Nothing yet: what is published and prepared of it stays as it is.
    Pending,
    /// This node has no such devices.
    Absent,
    /// These.
    Known(&'a Inventory),
}

/// One vendor's part.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    pool: PoolName,
    look: Look,
    /// What was seen, without what an earlier vendor has; of a vendor that was not seen nothing.
    served: Inventory,
    /// Chips of it that get no new claims, or more than that.
    taints: BTreeMap<DeviceUuid, TaintEffect>,
    /// Why nothing was seen, or nothing for so long that what was seen is in doubt.
    doubt: Option<String>,
}

/// What is known of every vendor's devices, by pool and in the vendors' order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventories {
    parts: Vec<Part>,
}

impl Inventories {
    /// Nothing is known yet of these vendors.
    pub fn pending(vendors: &Vendors) -> Self {
        let parts = vendors.iter().map(|source| Part {
            pool: source.pool.clone(),
            look: Look::Pending,
            served: nothing(source.backend.vendor()),
            taints: BTreeMap::new(),
            doubt: None,
        });
        Self { parts: parts.collect() }
    }

    /// With another look at one pool's devices. Two vendors never serve one device: the first in order keeps it. Health
    /// is what the looks said, and nothing is tainted, until it is [`judged`](Self::judged).
    #[must_use]
    pub fn with(&self, pool: &PoolName, look: Look) -> Self {
        let mut parts = self.parts.clone();
        if let Some(part) = parts.iter_mut().find(|part| part.pool == *pool) {
            if matches!(look, Look::Seen(_)) {
                part.doubt = None;
            }
            part.look = look;
        }
        serve(&mut parts);
        Self { parts }
    }

    /// With the health that counts at a time, and the taints of what is not well.
    #[must_use]
    pub fn judged(&self, judge: &mut Judge, now: Duration) -> Self {
        let mut parts = self.parts.clone();
        serve(&mut parts);
        for part in &mut parts {
            part.taints = match part.look {
                Look::Seen(_) => judge.judge(now, &mut part.served),
                Look::Pending | Look::Missing => judge.blind(now, part.served.vendor),
            };
        }
        Self { parts }
    }

    /// The taint of a chip.
    pub fn taint(&self, uuid: &DeviceUuid) -> Option<TaintEffect> {
        self.parts.iter().find_map(|part| part.taints.get(uuid).copied())
    }

    /// The chips of a pool that have a taint.
    pub fn tainted(&self, pool: &PoolName) -> BTreeMap<DeviceName, TaintEffect> {
        let parts = self.parts.iter().filter(|part| part.pool == *pool);
        let chips = parts.flat_map(|part| part.served.chips.iter().map(move |chip| (part, chip)));
        chips.filter_map(|(part, chip)| Some((chip.name(), *part.taints.get(&chip.uuid)?))).collect()
    }

    /// With the reason why nothing is seen of one pool's devices. What was seen of them before stays; whether it is
    /// still so is in doubt, until the next look that says something.
    #[must_use]
    pub fn doubted(&self, pool: &PoolName, why: &str) -> Self {
        let mut parts = self.parts.clone();
        if let Some(part) = parts.iter_mut().find(|part| part.pool == *pool) {
            part.doubt = Some(why.to_owned());
        }
        Self { parts }
    }

    /// Why what is known of a pool is in doubt, or why it is nothing; `None` where there is no doubt.
    pub fn doubt(&self, pool: &str) -> Option<&str> {
        let Some(part) = self.parts.iter().find(|part| part.pool.as_str() == pool) else {
            return Some("this node does not look for devices of this vendor");
        };
        part.doubt.as_deref().or(match (&part.look, self.standing(pool)) {
            (Look::Pending, _) => Some("the first look at the hardware has not ended"),
            (_, Standing::Pending) => Some("no vendor's library is on this node"),
            (_, Standing::Absent | Standing::Known(_)) => None,
        })
    }

    /// Whether every vendor was looked at, or has said why it was not.
    pub fn settled(&self) -> bool {
        self.parts.iter().all(|part| part.look != Look::Pending || part.doubt.is_some())
    }

    /// How the looks at a pool's devices went so far.
    pub fn look(&self, pool: &PoolName) -> Option<&Look> {
        self.parts.iter().find(|part| part.pool == *pool).map(|part| &part.look)
    }

    /// What is known of a pool, by its name; one of a vendor that nobody looks for is absent.
    ///
    /// Where no vendor's library is found, none is absent: a driver that is not installed yet, or a wrong
    /// `--driver-root`, looks the same.
    pub fn standing(&self, pool: &str) -> Standing<'_> {
        let Some(part) = self.parts.iter().find(|part| part.pool.as_str() == pool) else {
            return Standing::Absent;
        };
        let any = || self.parts.iter().any(|part| matches!(part.look, Look::Seen(_)));
        match part.look {
            Look::Seen(_) => Standing::Known(&part.served),
            Look::Missing if any() => Standing::Absent,
            Look::Missing | Look::Pending => Standing::Pending,
        }
    }

    /// Whether all that these pools have is known.
    pub fn know<'p>(&self, mut pools: impl Iterator<Item = &'p str>) -> bool {
        !pools.any(|pool| self.standing(pool) == Standing::Pending)
    }

    /// As the Prepare decision wants them: of the pools that are known.
    pub fn node_pools(&self) -> Vec<NodePool<'_>> {
        let seen = self.parts.iter().filter(|part| matches!(part.look, Look::Seen(_)));
        seen.map(|part| NodePool { pool: &part.pool, inventory: &part.served }).collect()
    }

    /// Pools of vendors that this node has nothing of, each with an empty inventory.
    pub fn absent_pools(&self) -> Vec<NodePool<'_>> {
        let absent = self.parts.iter().filter(|part| self.standing(part.pool.as_str()) == Standing::Absent);
        absent.map(|part| NodePool { pool: &part.pool, inventory: &part.served }).collect()
    }

    /// The inventories that are known.
    pub fn all(&self) -> impl Iterator<Item = &Inventory> {
        self.node_pools().into_iter().map(|known| known.inventory)
    }

    /// A chip by its identity, and the pool that it is published in.
    pub fn find(&self, uuid: &DeviceUuid) -> Option<(&PoolName, &Chip)> {
        let mut chips =
            self.parts.iter().flat_map(|p| p.served.chips.iter().map(move |chip| (&p.pool, chip)));
        chips.find(|(_, chip)| chip.uuid == *uuid)
    }

    /// A chip by its identity.
    pub fn chip(&self, uuid: &DeviceUuid) -> Option<&Chip> {
        self.find(uuid).map(|(_, chip)| chip)
    }

    /// A plan of earlier with the numbers that its chips have now.
    pub fn renumbered(&self, plan: &PreparePlan) -> PreparePlan {
        plan.renumbered(|uuid| self.chip(uuid).map(|chip| chip.phys_id))
    }
}

/// What each part serves by its look.
fn serve(parts: &mut [Part]) {
    let mut taken: Vec<(String, Chip)> = Vec::new();
    for part in parts {
        part.taints.clear();
        match &part.look {
            Look::Seen(inventory) => part.served = without(inventory, &taken),
            Look::Pending | Look::Missing => {
                part.served.chips.clear();
                part.served.problems.clear();
            }
        }
        let vendor = part.served.vendor.to_string();
        taken.extend(part.served.chips.iter().map(|chip| (vendor.clone(), chip.clone())));
    }
}

fn nothing(vendor: Vendor) -> Inventory {
    Inventory {
        vendor,
        chips: Vec::new(),
        multi_die_policy: MultiDiePolicy::Independent,
        driver_version: String::new(),
        cuda_version: String::new(),
        superpod: None,
        problems: Vec::new(),
    }
}

/// The inventory without the chips that others have already; each of those is a problem.
fn without(inventory: &Inventory, taken: &[(String, Chip)]) -> Inventory {
    let mut served = inventory.clone();
    served.chips.retain(|chip| {
        // Partitions of one GPU have one address; those are all of one vendor.
        let twin = taken.iter().find_map(|(vendor, other)| {
            if other.uuid == chip.uuid {
                Some((vendor, other, format!("the identity {}", chip.uuid), "duplicate_uuid"))
            } else {
                let address = chip.pci.filter(|_| other.pci == chip.pci)?;
                Some((vendor, other, format!("the PCI address {address}"), "pci_claimed_twice"))
            }
        });
        let Some((vendor, other, what, reason)) = twin else { return true };
        served.problems.push(Problem {
            object: format!("{} {}", inventory.vendor, chip.name()),
            message: format!(
                "{what} is claimed by {vendor} {} too, which keeps it: this one is not served; name in the \
                 NodeConfig's `vendors` only those that this node has",
                other.name()
            ),
            reason: reason.to_owned(),
        });
        false
    });
    served
}

/// What is known now, shared.
pub type Seen = tokio::sync::watch::Receiver<Arc<Inventories>>;

#[cfg(test)]
mod tests;
