//! The definition of straddling: a claim that holds exactly one chip of more than one module. Guard, Prepare
//! and auditor mean this function's answer.

use std::collections::{BTreeMap, BTreeSet};

use crate::claim::{AllocationResult, Claim};
use crate::id::DeviceName;
use crate::quantity::Quantity;
use crate::share_policy::{EffectivePolicy, Pairing};

/// One device that a claim holds, as far as straddling looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held<M> {
    /// The module, in whatever identifies it; `None` on single-die hardware, which cannot straddle.
    pub module: Option<M>,
    /// The dies of the module that the device stands for: one for a chip, both for a module.
    pub dies: Vec<u32>,
    /// Whether the result is excepted: a share under `pairing: independent`, or administrative access.
    pub excepted: bool,
}

/// The modules over which a claim straddles, ascending; empty when it does not.
///
/// All results of one claim together, without the excepted ones: more than one module of which it holds
/// exactly one chip, whole or shared. Whole modules plus one chip is no straddle, and two shares of one chip
/// are one chip.
pub fn straddled_modules<M: Ord + Clone>(held: &[Held<M>]) -> Vec<M> {
    let mut dies: BTreeMap<&M, BTreeSet<u32>> = BTreeMap::new();
    for held in held.iter().filter(|h| !h.excepted) {
        if let Some(module) = &held.module {
            dies.entry(module).or_default().extend(&held.dies);
        }
    }
    let broken: Vec<M> =
        dies.into_iter().filter(|(_, dies)| dies.len() == 1).map(|(m, _)| m.clone()).collect();
    if broken.len() > 1 { broken } else { Vec::new() }
}

/// What is published of a device, as far as straddling looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The attribute `module`; `None` on single-die hardware.
    pub module: Option<u32>,
    /// All of its capacities.
    pub capacity: BTreeMap<String, u64>,
}

/// What a claim holds, told from its allocation and from what is published, without the node. A device that is not
/// published any more is taken by its name for one of a module: that is the careful reading. A configuration that
/// cannot be read excepts nothing.
pub fn held_by(
    claim: &Claim,
    published: impl Fn(&str, &str) -> Option<Published>,
) -> Vec<Held<(String, u32)>> {
    let held = |result: &AllocationResult| {
        let (card, dies) = match result.device.parse().ok()? {
            DeviceName::Chip { card, die } => (Some(card), vec![die]),
            DeviceName::Module { card } => (Some(card), vec![0, 1]),
            // Only single-die hardware is partitioned.
            DeviceName::Partition { .. } => (None, vec![0]),
        };
        let device = published(&result.pool, &result.device);
        let module = device.as_ref().map_or(card, |device| device.module);
        let independent = EffectivePolicy::for_request(&claim.configs, &result.request)
            .is_ok_and(|policy| policy.pairing == Pairing::Independent);
        Some(Held {
            module: module.map(|module| (result.pool.clone(), module)),
            dies,
            excepted: result.admin_access || (independent && is_share(result, device.as_ref())),
        })
    };
    claim.results.iter().filter_map(held).collect()
}

/// Whether a result is less than the whole device in any dimension.
fn is_share(result: &AllocationResult, device: Option<&Published>) -> bool {
    result.consumed_capacity.iter().any(|(name, consumed)| {
        let all = device.and_then(|d| d.capacity.get(name)).copied();
        let consumed = consumed.parse::<Quantity>().map(Quantity::ceil).ok();
        all.zip(consumed).is_some_and(|(all, consumed)| consumed < all)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::claim::{ConfigSource, OpaqueConfig};
    use crate::id::ClaimUid;
    use crate::live::Wishes;

    use super::*;

    fn claim(devices: &[(&str, &str)], pairing: &str) -> Claim {
        let result = |(index, (device, memory)): (usize, &(&str, &str))| AllocationResult {
            index,
            request: "r".parse().unwrap(),
            pool: "node-1/ascend".to_owned(),
            device: (*device).to_owned(),
            share_id: None,
            consumed_capacity: BTreeMap::from([("memory".to_owned(), (*memory).to_owned())]),
            admin_access: false,
        };
        let parameters =
            json!({"apiVersion": "vnpu.dev/v1alpha1", "kind": "SharePolicy", "pairing": pairing});
        Claim {
            namespace: "n".to_owned(),
            name: "c".to_owned(),
            uid: ClaimUid::new("11111111-2222-4333-8444-555555555555").unwrap(),
            deleting: false,
            allocated: true,
            reserved_for: Vec::new(),
            results: devices.iter().enumerate().map(result).collect(),
            configs: vec![OpaqueConfig { source: ConfigSource::Claim, requests: Vec::new(), parameters }],
            wishes: Wishes::default(),
        }
    }

    fn judged(claim: &Claim, module: Option<u32>) -> usize {
        let capacity = BTreeMap::from([("memory".to_owned(), 64 << 30)]);
        let published = |_: &str, device: &str| {
            let card = device.split('-').nth(1)?.parse().ok()?;
            Some(Published { module: module.and(Some(card)), capacity: capacity.clone() })
        };
        straddled_modules(&held_by(claim, published)).len()
    }

    #[test]
    fn an_allocation_is_judged_without_the_node() {
        let two = [("chip-0-0", "64Gi"), ("chip-1-0", "64Gi")];
        assert_eq!(judged(&claim(&two, "module"), Some(0)), 2);
        assert_eq!(judged(&claim(&two, "module"), None), 0, "single-die hardware");
        assert_eq!(judged(&claim(&[("chip-0-0", "64Gi"), ("chip-0-1", "64Gi")], "module"), Some(0)), 0);
        assert_eq!(judged(&claim(&[("module-0", "128Gi"), ("chip-1-0", "64Gi")], "module"), Some(0)), 0);
    }

    #[test]
    fn independent_shares_are_excepted_and_whole_chips_are_not() {
        let shares = [("chip-0-0", "4Gi"), ("chip-1-0", "4Gi")];
        assert_eq!(judged(&claim(&shares, "independent"), Some(0)), 0);
        assert_eq!(judged(&claim(&shares, "module"), Some(0)), 2);
        assert_eq!(judged(&claim(&[("chip-0-0", "64Gi"), ("chip-1-0", "64Gi")], "independent"), Some(0)), 2);
    }

    #[test]
    fn a_device_that_is_not_published_any_more_is_taken_for_one_of_a_module() {
        let two = claim(&[("chip-0-0", "64Gi"), ("chip-1-0", "64Gi")], "module");
        assert_eq!(straddled_modules(&held_by(&two, |_, _| None)).len(), 2);
    }

    #[test]
    fn partitions_are_of_no_module_whether_they_are_published_or_not() {
        let parts = claim(&[("partition-0-1-0", "10Gi"), ("partition-1-1-0", "10Gi")], "module");
        assert_eq!(straddled_modules(&held_by(&parts, |_, _| None)).len(), 0);
        assert_eq!(judged(&parts, None), 0);
        let beside = claim(&[("partition-0-1-0", "10Gi"), ("chip-1-0", "64Gi")], "module");
        assert_eq!(
            straddled_modules(&held_by(&beside, |_, _| None)).len(),
            0,
            "one half module is no straddle"
        );
    }

    fn chip(module: u32, die: u32) -> Held<u32> {
        Held { module: Some(module), dies: vec![die], excepted: false }
    }

    fn module(module: u32) -> Held<u32> {
        Held { module: Some(module), dies: vec![0, 1], excepted: false }
    }

    fn single() -> Held<u32> {
        Held { module: None, dies: vec![0], excepted: false }
    }

    fn excepted(held: Held<u32>) -> Held<u32> {
        Held { excepted: true, ..held }
    }

    #[test]
    fn the_definition_by_table() {
        type Case<'a> = (&'a str, Vec<Held<u32>>, &'a [u32]);
        let table: &[Case<'_>] = &[
            ("nothing", vec![], &[]),
            ("one chip", vec![chip(0, 0)], &[]),
            ("a pair of one module", vec![chip(0, 0), chip(0, 1)], &[]),
            ("one chip of each of two modules", vec![chip(0, 1), chip(1, 0)], &[0, 1]),
            ("whole modules plus one chip", vec![module(0), module(1), chip(2, 0)], &[]),
            ("a module and two odd chips", vec![module(0), chip(1, 0), chip(2, 1)], &[1, 2]),
            ("a pair and one chip", vec![chip(0, 0), chip(0, 1), chip(1, 0)], &[]),
            ("two shares of one chip", vec![chip(0, 0), chip(0, 0)], &[]),
            ("shares of one chip and a chip beyond", vec![chip(0, 0), chip(0, 0), chip(3, 0)], &[0, 3]),
            ("single-die hardware", vec![single(), single(), single()], &[]),
            ("independent shares", vec![excepted(chip(0, 0)), excepted(chip(1, 0))], &[]),
            ("one independent, one not", vec![excepted(chip(0, 0)), chip(1, 0)], &[]),
            (
                "an independent share completes nothing",
                vec![excepted(chip(0, 1)), chip(0, 0), chip(1, 0)],
                &[0, 1],
            ),
        ];
        for (name, held, expected) in table {
            assert_eq!(&straddled_modules(held), expected, "{name}");
        }
    }
}
