//! The decision of Prepare: may this node hand the claim's devices to its containers, and what does the claim
//! get of each chip. Pure: the shell reads the claim, asks here, and then acts on the plan.

use std::collections::{BTreeMap, BTreeSet};

use crate::claim::{AllocationResult, Claim};
use crate::hardware::{Chip, Inventory, MultiDiePolicy};
use crate::id::{ClaimUid, DeviceName, DeviceUuid, PoolName};
use crate::quantity::{Bytes, Percent, Quantity};
use crate::share::{ChipShare, ClaimShares, ComputeMode, OnFailure, Overhead};
use crate::share_policy::{Breach, EffectivePolicy, Interpose, Pairing};
use crate::slices::published_memory;
use crate::straddle::{Held, straddled_modules};

pub use crate::plan::{PlannedChip, PlannedResult, PreparePlan};
pub use crate::refusal::{Refusal, Shortage};

/// The devices of one pool of this node.
#[derive(Debug, Clone, Copy)]
pub struct NodePool<'a> {
    /// The pool that publishes them.
    pub pool: &'a PoolName,
    /// What discovery sees now.
    pub inventory: &'a Inventory,
}

/// Decides whether and how `claim` is prepared.
///
/// `wanted` is the UID that kubelet named. `prepared` are the plans of all claims that hold devices on this
/// node now (prepared, being prepared, being unprepared); an entry of this very claim is passed over. A claim
/// that is already prepared must be answered from its stored plan and never come here: it is not refused
/// later (see [`crate::record::next_prepare`]). Taints are not looked at.
///
/// # Errors
/// The first [`Refusal`] found.
pub fn plan_prepare<'a>(
    claim: &Claim,
    wanted: &ClaimUid,
    pools: &[NodePool<'_>],
    prepared: impl IntoIterator<Item = &'a PreparePlan>,
) -> Result<PreparePlan, Refusal> {
    check_claim(claim, wanted)?;
    if claim.results.is_empty() {
        return Err(Refusal::NoDevices { claim: claim.display_name() });
    }
    let mut results = Vec::with_capacity(claim.results.len());
    let mut quotas: BTreeMap<DeviceUuid, Quota<'_>> = BTreeMap::new();
    let mut held = Vec::new();
    let mut breach = Breach::Report;
    for result in &claim.results {
        let (planned, chips, policy) = plan_result(claim, result, pools)?;
        breach = breach.max(policy.breach);
        held.push(Held {
            module: chips.first().and_then(|c| c.module.map(|m| (planned.pool.clone(), m))),
            dies: chips.iter().map(|c| c.die).collect(),
            excepted: planned.admin_access || independent(&planned, &policy),
        });
        for (chip, part) in chips.iter().zip(&planned.chips) {
            quotas.entry(chip.uuid.clone()).or_insert_with(|| Quota::new(chip)).add(
                part,
                &policy,
                planned.admin_access,
            );
        }
        results.push(planned);
    }
    let modules = straddled_modules(&held);
    if !modules.is_empty() {
        let modules = modules.into_iter().map(|(_, card)| card).collect();
        return Err(Refusal::Straddles { claim: claim.display_name(), modules });
    }
    let others: Vec<&PreparePlan> = prepared.into_iter().filter(|p| p.claim != claim.uid).collect();
    for quota in quotas.values() {
        quota.check(claim, &others)?;
    }
    for result in &mut results {
        result.interpose = result.chips.iter().any(|c| quotas.get(&c.uuid).is_some_and(|q| q.interpose));
    }
    let chips = quotas.into_values().filter(|q| q.interpose).map(Quota::into_share).collect();
    Ok(PreparePlan {
        claim: claim.uid.clone(),
        namespace: claim.namespace.clone(),
        name: claim.name.clone(),
        results,
        shares: ClaimShares { claim: claim.uid.clone(), chips },
        breach,
    })
}

/// Whether a claim that was unprepared on this node may be prepared again: only when it is still the same
/// claim, allocated, not being deleted, and reserved for a pod (a shared claim's next pod). Anything else is
/// a late retry, which must not bring the claim back.
///
/// # Errors
/// The [`Refusal`] that says which of these fails.
pub fn check_after_tombstone(claim: &Claim, wanted: &ClaimUid) -> Result<(), Refusal> {
    check_claim(claim, wanted)?;
    if claim.reserved_for_a_pod() { Ok(()) } else { Err(Refusal::Released { claim: claim.display_name() }) }
}

fn check_claim(claim: &Claim, wanted: &ClaimUid) -> Result<(), Refusal> {
    let name = claim.display_name();
    if claim.uid != *wanted {
        return Err(Refusal::UidMismatch { claim: name, found: claim.uid.clone(), wanted: wanted.clone() });
    }
    if claim.deleting {
        return Err(Refusal::BeingDeleted { claim: name });
    }
    if !claim.allocated {
        return Err(Refusal::NotAllocated { claim: name });
    }
    Ok(())
}

/// `pairing: independent` is for shares only: whole chips stay under the definition of straddling.
fn independent(planned: &PlannedResult, policy: &EffectivePolicy) -> bool {
    policy.pairing == Pairing::Independent && planned.chips.iter().all(|c| !c.whole)
}

fn plan_result<'a>(
    claim: &Claim,
    result: &AllocationResult,
    pools: &[NodePool<'a>],
) -> Result<(PlannedResult, Vec<&'a Chip>, EffectivePolicy), Refusal> {
    let pool = pools.iter().find(|p| p.pool.as_str() == result.pool).ok_or_else(|| Refusal::UnknownPool {
        claim: claim.display_name(),
        request: result.request.to_string(),
        pool: shortened(&result.pool),
    })?;
    let (device, chips) = find_device(result, pool.inventory).ok_or_else(|| Refusal::DeviceAbsent {
        claim: claim.display_name(),
        request: result.request.to_string(),
        pool: pool.pool.clone(),
        device: shortened(&result.device),
    })?;
    let mut policy = EffectivePolicy::for_request(&claim.configs, &result.request)
        .map_err(|source| Refusal::BadConfig { claim: claim.display_name(), source })?;
    // Regions that nothing reads would only pretend a quota.
    if !pool.inventory.vendor.enforces_quotas() {
        policy.interpose = Interpose::Never;
    }
    let parts = chips
        .iter()
        .map(|chip| plan_chip(claim, result, device, chip))
        .collect::<Result<Vec<PlannedChip>, Refusal>>()?;
    let planned = PlannedResult {
        index: result.index,
        request: result.request.main.clone(),
        pool: pool.pool.clone(),
        device,
        share_id: result.share_id.clone(),
        cdi_device: format!("{}-{}-{}", claim.uid, result.request.main, result.index),
        chips: parts,
        interpose: false,
        admin_access: result.admin_access,
    };
    Ok((planned, chips, policy))
}

/// The device of a result and its chips, die 0 first; `None` when any of it is absent.
fn find_device<'a>(
    result: &AllocationResult,
    inventory: &'a Inventory,
) -> Option<(DeviceName, Vec<&'a Chip>)> {
    let device: DeviceName = result.device.parse().ok()?;
    let mut chips: Vec<&Chip> = inventory
        .chips
        .iter()
        .filter(|c| match device {
            DeviceName::Chip { .. } => {
                let published = c.module.is_none() || inventory.multi_die_policy != MultiDiePolicy::Union;
                c.name() == device && published
            }
            DeviceName::Module { card } => c.module == Some(card),
            DeviceName::Partition { .. } => c.name() == device,
        })
        .collect();
    chips.sort_by_key(|c| c.die);
    let expected = match device {
        DeviceName::Chip { .. } | DeviceName::Partition { .. } => 1,
        DeviceName::Module { .. } => 2,
    };
    (chips.len() == expected).then_some((device, chips))
}

fn plan_chip(
    claim: &Claim,
    result: &AllocationResult,
    device: DeviceName,
    chip: &Chip,
) -> Result<PlannedChip, Refusal> {
    let total = published_memory(chip.memory);
    let (memory, cores) = match device {
        // Given whole, and all the compute of a partition is its holder's.
        DeviceName::Module { .. } | DeviceName::Partition { .. } => (total, Percent::FULL),
        DeviceName::Chip { .. } => {
            let bad = |key: &str, message: String| Refusal::BadCapacity {
                claim: claim.display_name(),
                request: result.request.to_string(),
                device,
                key: shortened(key),
                message,
            };
            let read = |key: &str| match result.consumed_capacity.get(key) {
                None => Ok(None),
                Some(text) => text
                    .parse::<Quantity>()
                    .map_err(|e| bad(key, e.to_string()))?
                    .whole()
                    .map(Some)
                    .ok_or_else(|| bad(key, format!("{text:?} is not a whole number of units"))),
            };
            let memory = read("memory")?.map_or(total, Bytes);
            let cores = match read("cores")? {
                None => Percent::FULL,
                Some(cores) => u32::try_from(cores)
                    .map(Percent)
                    .map_err(|_| bad("cores", "it is more than any chip has".to_owned()))?,
            };
            (memory, cores)
        }
    };
    Ok(PlannedChip {
        uuid: chip.uuid.clone(),
        card: chip.card,
        die: chip.die,
        phys_id: chip.phys_id,
        memory,
        cores,
        whole: memory >= total && cores >= Percent::FULL,
        seen: chip.clone(),
    })
}

/// What one claim takes of one chip, all its results added.
struct Quota<'a> {
    chip: &'a Chip,
    /// Administrative access included.
    memory: Bytes,
    cores: Percent,
    counted_memory: Bytes,
    counted_cores: Percent,
    /// Whether any result of the claim counts.
    counted: bool,
    initial_memory: Option<Bytes>,
    initial_cores: Option<Percent>,
    mode: ComputeMode,
    priority: u8,
    on_failure: OnFailure,
    overhead: Overhead,
    interpose: bool,
    first: bool,
}

impl<'a> Quota<'a> {
    fn new(chip: &'a Chip) -> Self {
        Self {
            chip,
            memory: Bytes(0),
            cores: Percent(0),
            counted_memory: Bytes(0),
            counted_cores: Percent(0),
            counted: false,
            initial_memory: None,
            initial_cores: None,
            mode: ComputeMode::BestEffort,
            priority: 0,
            on_failure: OnFailure::Open,
            overhead: Overhead::Headroom,
            interpose: false,
            first: true,
        }
    }

    /// Adds one result. Where the policies of results on one chip differ, the stricter word holds for all of
    /// them, because the claim has one quota there.
    fn add(&mut self, part: &PlannedChip, policy: &EffectivePolicy, admin_access: bool) {
        self.memory = self.memory.saturating_add(part.memory);
        self.cores = self.cores.saturating_add(part.cores);
        if !admin_access {
            self.counted = true;
            self.counted_memory = self.counted_memory.saturating_add(part.memory);
            self.counted_cores = self.counted_cores.saturating_add(part.cores);
        }
        self.initial_memory = smaller(self.initial_memory, policy.initial_memory);
        self.initial_cores = smaller(self.initial_cores, policy.initial_cores);
        self.mode = stricter_mode(self.mode, policy.mode);
        self.priority = if self.first { policy.priority } else { self.priority.max(policy.priority) };
        if policy.on_failure == OnFailure::Closed {
            self.on_failure = OnFailure::Closed;
        }
        if policy.overhead == Overhead::Charge {
            self.overhead = Overhead::Charge;
        }
        self.interpose |= match policy.interpose {
            Interpose::Auto => !part.whole && !admin_access,
            Interpose::Always => true,
            Interpose::Never => false,
        };
        self.first = false;
    }

    fn check(&self, claim: &Claim, others: &[&PreparePlan]) -> Result<(), Refusal> {
        let mut memory = Bytes(0);
        let mut cores = Percent(0);
        let mut holders = BTreeSet::new();
        for plan in others {
            let parts = plan.results.iter().filter(|r| !r.admin_access).flat_map(|r| &r.chips);
            for part in parts.filter(|c| c.uuid == self.chip.uuid) {
                memory = memory.saturating_add(part.memory);
                cores = cores.saturating_add(part.cores);
                holders.insert(format!("{}/{}", plan.namespace, plan.name));
            }
        }
        let total = published_memory(self.chip.memory);
        let over = |capacity: &'static str, needed: String, free: String, total: String| {
            let holders: Vec<String> = holders.iter().take(8).cloned().collect();
            Err(Refusal::OverCapacity(Box::new(Shortage {
                claim: claim.display_name(),
                device: self.chip.name(),
                capacity,
                needed,
                free,
                total,
                holders: if holders.is_empty() { "none".to_owned() } else { holders.join(", ") },
            })))
        };
        let needs = self.counted_memory > Bytes(0) || self.counted_cores > Percent(0);
        if needs && memory.saturating_add(self.counted_memory) > total {
            let free = total.saturating_sub(memory);
            return over("memory", self.counted_memory.to_string(), free.to_string(), total.to_string());
        }
        if needs && cores.saturating_add(self.counted_cores) > Percent::FULL {
            let free = Percent::FULL.0.saturating_sub(cores.0);
            return over("cores", self.counted_cores.to_string(), free.to_string(), "100".to_owned());
        }
        Ok(())
    }

    fn into_share(self) -> ChipShare {
        let total = published_memory(self.chip.memory);
        // Administrative access beside a share must not lift the share's quota: what was allocated is what counts.
        let (memory, cores) =
            if self.counted { (self.counted_memory, self.counted_cores) } else { (self.memory, self.cores) };
        let (memory, cores) = (memory.min(total), cores.min(Percent::FULL));
        ChipShare {
            uuid: self.chip.uuid.clone(),
            phys_id: self.chip.phys_id,
            memory: self.initial_memory.map_or(memory, |initial| initial.min(memory)),
            cores: self.initial_cores.map_or(cores, |initial| initial.min(cores)),
            mode: self.mode,
            priority: self.priority,
            on_failure: self.on_failure,
            overhead: self.overhead,
        }
    }
}

fn smaller<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn stricter_mode(a: ComputeMode, b: ComputeMode) -> ComputeMode {
    use ComputeMode::{BestEffort, Elastic, Hard};
    match (a, b) {
        (Hard, _) | (_, Hard) => Hard,
        (Elastic, _) | (_, Elastic) => Elastic,
        (BestEffort, BestEffort) => BestEffort,
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
pub(crate) mod tests;
