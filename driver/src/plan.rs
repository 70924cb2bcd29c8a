//! What preparing one claim means on a node: devices, chips, quotas. It is kept in the checkpoint, so its
//! fields are a format: they may be added to, with defaults, and never change their meaning.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::hardware::{Chip, Inventory};
use crate::id::{ClaimUid, DeviceName, DeviceUuid, PoolName, RequestName};
use crate::quantity::{Bytes, Percent};
use crate::share::ClaimShares;
use crate::share_policy::Breach;

/// What one result gets of one chip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedChip {
    /// The hardware's identity: by this the chip is found again after a renumbering.
    pub uuid: DeviceUuid,
    /// DCMI card id at the time of Prepare.
    pub card: u32,
    /// DCMI device id inside the card at the time of Prepare.
    pub die: u32,
    /// The number in the device node's name at the time of Prepare.
    pub phys_id: u32,
    /// Memory that the scheduler counted against the chip.
    pub memory: Bytes,
    /// Compute that the scheduler counted against the chip.
    pub cores: Percent,
    /// Whether the result holds the chip alone (nothing below the chip's capacity in any dimension).
    pub whole: bool,
    /// The chip as discovery saw it at the time of Prepare: if it vanishes, it stays published as this while
    /// the claim holds it.
    pub seen: Chip,
}

/// What one allocation result becomes on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedResult {
    /// Position in the allocation.
    pub index: usize,
    /// The main request's name, as kubelet and containers know it.
    pub request: RequestName,
    /// The pool.
    pub pool: PoolName,
    /// The device.
    pub device: DeviceName,
    /// The share's identity, where the device is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_id: Option<String>,
    /// Name of the CDI device: `<claim uid>-<main request>-<index>`. The kind is the shell's to add.
    pub cdi_device: String,
    /// The chips: one, or both of a module.
    pub chips: Vec<PlannedChip>,
    /// Whether containers with this result get the interposer.
    pub interpose: bool,
    /// Whether the result is administrative access, not counted as use.
    #[serde(default)]
    pub admin_access: bool,
}

/// Everything that preparing one claim means on this node. It is kept in the checkpoint: CDI file and regions
/// can be made again from it alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparePlan {
    /// The claim's UID.
    pub claim: ClaimUid,
    /// The claim's namespace.
    pub namespace: String,
    /// The claim's name.
    pub name: String,
    /// One entry per result of this driver, in the allocation's order.
    pub results: Vec<PlannedResult>,
    /// Quotas of the interposed chips; no chips when nothing is interposed.
    pub shares: ClaimShares,
    /// What happens on a breach.
    #[serde(default)]
    pub breach: Breach,
}

impl PreparePlan {
    /// Whether any container of the claim gets the interposer.
    pub fn interposed(&self) -> bool {
        !self.shares.chips.is_empty()
    }

    /// The chips that the claim holds, each once, by identity.
    pub fn chip_uuids(&self) -> BTreeSet<&DeviceUuid> {
        self.results.iter().flat_map(|r| &r.chips).map(|c| &c.uuid).collect()
    }

    /// The pools that the claim has devices of, once for each result.
    pub fn pools(&self) -> impl Iterator<Item = &PoolName> {
        self.results.iter().map(|r| &r.pool)
    }

    /// The devices that the claim holds and that count as use, with their pools.
    pub fn devices_in_use(&self) -> impl Iterator<Item = (&PoolName, DeviceName)> {
        self.results.iter().filter(|r| !r.admin_access).map(|r| (&r.pool, r.device))
    }

    /// The plan with the numbers of device nodes that `now` knows for its chips, by identity; those it does not
    /// know stay. Numbers change with the driver's order of finding chips, so what is made from a plan that was
    /// kept is made from this.
    #[must_use]
    pub fn renumbered(&self, now: impl Fn(&DeviceUuid) -> Option<u32>) -> Self {
        let mut plan = self.clone();
        for chip in plan.results.iter_mut().flat_map(|r| &mut r.chips) {
            chip.phys_id = now(&chip.uuid).unwrap_or(chip.phys_id);
        }
        for chip in &mut plan.shares.chips {
            chip.phys_id = now(&chip.uuid).unwrap_or(chip.phys_id);
        }
        plan
    }
}

impl PreparePlan {
    /// The chips of the claim in `pool` that `inventory` does not have any more, as they were last seen.
    pub fn vanished_chips<'a>(
        &'a self,
        pool: &'a PoolName,
        inventory: &'a Inventory,
    ) -> impl Iterator<Item = &'a Chip> {
        self.results
            .iter()
            .filter(move |r| r.pool == *pool)
            .flat_map(|r| &r.chips)
            .map(|c| &c.seen)
            .filter(|seen| !inventory.chips.iter().any(|c| c.uuid == seen.uuid))
    }
}

impl PlannedResult {
    /// The chips of the result as `inventory` sees them now, found by identity.
    ///
    /// # Errors
    /// The identity of the first chip that is not there.
    pub fn chips_in<'a>(&self, inventory: &'a Inventory) -> Result<Vec<&'a Chip>, DeviceUuid> {
        self.chips
            .iter()
            .map(|p| inventory.chips.iter().find(|c| c.uuid == p.uuid).ok_or_else(|| p.uuid.clone()))
            .collect()
    }
}
