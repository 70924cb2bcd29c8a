//! What to publish on a cluster whose API server lacks a feature: less, but never something that the scheduler
//! would give out twice.

use std::collections::BTreeSet;
use std::fmt;

use crate::id::DeviceName;
use crate::slices::{PoolPlan, SliceContent, SliceKey};

/// A feature that the API server lacks: it dropped the fields of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lacking {
    /// `sharedCounters`, `consumesCounters` (DRAPartitionableDevices).
    Counters,
    /// `allowMultipleAllocations`, `requestPolicy` (DRAConsumableCapacity).
    Sharing,
    /// `taints` (DRADeviceTaints).
    Taints,
}

impl fmt::Display for Lacking {
    /// One sentence for the log: what is missing and what follows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counters => {
                "the API server drops counters (feature gate DRAPartitionableDevices): dual-die hardware is \
                 published as modules only"
            }
            Self::Sharing => {
                "the API server drops allowMultipleAllocations or requestPolicy (feature gate \
                 DRAConsumableCapacity): chips are published as exclusive devices"
            }
            Self::Taints => {
                "the API server drops taints (feature gate DRADeviceTaints): sick devices cannot be marked"
            }
        })
    }
}

/// `plan` without what the server lacks. Without counters nothing keeps the scheduler from giving out a module
/// and its chip, so the chips of modules go; without sharing every chip is exclusive.
pub fn degrade(mut plan: PoolPlan, lacking: &BTreeSet<Lacking>) -> PoolPlan {
    if lacking.contains(&Lacking::Counters) {
        plan.slices.retain(|slice| !matches!(slice.key, SliceKey::Counters(_)));
    }
    for slice in &mut plan.slices {
        let SliceContent::Devices(devices) = &mut slice.content else { continue };
        if lacking.contains(&Lacking::Counters) {
            devices.retain(|d| d.consumes_counters.is_empty() || matches!(d.name, DeviceName::Module { .. }));
        }
        for device in devices {
            if lacking.contains(&Lacking::Counters) {
                device.consumes_counters.clear();
            }
            if lacking.contains(&Lacking::Sharing) {
                device.allow_multiple_allocations = false;
                device.capacity.values_mut().for_each(|c| c.policy = None);
            }
            if lacking.contains(&Lacking::Taints) {
                device.taints.clear();
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Around, dual, single};

    fn names(plan: &PoolPlan) -> Vec<String> {
        plan.devices().map(|d| d.name.to_string()).collect()
    }

    #[test]
    fn a_server_that_lacks_nothing_gets_everything() {
        let plan = Around::default().plan(&dual(2));
        assert_eq!(degrade(plan.clone(), &BTreeSet::new()), plan);
    }

    #[test]
    fn without_counters_no_chip_stands_beside_its_module() {
        let plan = degrade(Around::default().plan(&dual(2)), &BTreeSet::from([Lacking::Counters]));
        assert_eq!(names(&plan), ["module-0", "module-1"]);
        assert!(plan.devices().all(|d| d.consumes_counters.is_empty()));
        assert!(plan.slices.iter().all(|s| matches!(s.content, SliceContent::Devices(_))));
        let plan = degrade(Around::default().plan(&single(2)), &BTreeSet::from([Lacking::Counters]));
        assert_eq!(names(&plan), ["chip-0-0", "chip-1-0"]);
    }

    #[test]
    fn without_sharing_every_chip_is_exclusive() {
        let plan = degrade(Around::default().plan(&dual(1)), &BTreeSet::from([Lacking::Sharing]));
        assert_eq!(names(&plan), ["module-0", "chip-0-0", "chip-0-1"]);
        assert!(plan.devices().all(|d| !d.allow_multiple_allocations));
        assert!(plan.devices().flat_map(|d| d.capacity.values()).all(|c| c.policy.is_none()));
    }
}
