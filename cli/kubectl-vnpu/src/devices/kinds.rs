//! The kinds of device of a cluster, each with its sums. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use vnpu_driver::hardware::Vendor;

use super::model::{Chip, Module, Node, Pool};
use super::totals::Totals;
use crate::output::clean;

/// What makes devices one kind. Chips of one model with other sizes of memory are the same kind; parts of chips are one
/// for each profile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kind {
    /// `ascend`, `nvidia`; empty when it is not known.
    pub(crate) vendor: String,
    /// `910C`, `H100`; empty when it is not known.
    pub(crate) model: String,
    /// The profile of parts of chips; `None` for whole chips.
    pub(crate) partition: Option<String>,
}

impl Kind {
    /// The kind of a module, or of a chip that stands alone: that of its first chip.
    fn of(pool: &Pool, module: &Module) -> Self {
        let first = module.chips.first();
        Self {
            vendor: pool.vendor.clone(),
            model: first.map(|chip| chip.model.clone()).unwrap_or_default(),
            partition: first.and_then(|chip| chip.partition.clone()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [self.vendor.as_str(), &self.model, self.partition.as_deref().unwrap_or_default()];
        let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).map(clean).collect();
        if words.is_empty() { f.write_str("-") } else { f.write_str(&words.join(" ")) }
    }
}

/// Whether claims can hold parts of a kind's chips, and whether programs are held to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sharing {
    /// Shares are given out, and programs are held to them.
    Held,
    /// Shares are given out and counted; a program can take all of the chip.
    Counted,
    /// Devices go whole only.
    Whole,
}

impl Sharing {
    /// Its word, as in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Counted => "counted",
            Self::Whole => "whole",
        }
    }
}

/// All devices of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Stock<'a> {
    /// Which kind.
    pub(crate) kind: Kind,
    /// The nodes that have one, by name.
    pub(crate) nodes: BTreeSet<&'a str>,
    /// The claims that hold of it.
    pub(crate) claims: BTreeSet<&'a str>,
    /// The versions of the vendor's driver.
    pub(crate) drivers: BTreeSet<&'a str>,
    /// The sizes of memory of its devices, in bytes.
    pub(crate) sizes: BTreeSet<u64>,
    /// Devices that several claims may hold parts of.
    pub(crate) shareable: u64,
    /// The sums.
    pub(crate) totals: Totals,
}

impl<'a> Stock<'a> {
    fn none(kind: Kind) -> Self {
        Self {
            kind,
            nodes: BTreeSet::new(),
            claims: BTreeSet::new(),
            drivers: BTreeSet::new(),
            sizes: BTreeSet::new(),
            shareable: 0,
            totals: Totals::default(),
        }
    }

    fn add(&mut self, node: &'a Node, pool: &'a Pool, module: &'a Module) {
        self.nodes.insert(&node.name);
        if !pool.driver_version.is_empty() {
            self.drivers.insert(&pool.driver_version);
        }
        let here: Vec<&Chip> = module.chips.iter().filter(|chip| !chip.device.is_empty()).collect();
        self.sizes.extend(here.iter().map(|chip| chip.memory));
        let shareable = here.iter().filter(|chip| chip.shareable).count();
        self.shareable = self.shareable.saturating_add(u64::try_from(shareable).unwrap_or(u64::MAX));
        let held = module.chips.iter().flat_map(|chip| &chip.held);
        self.claims.extend(held.map(|share| share.claim.as_str()));
        self.totals += Totals::of_modules([module]);
    }

    /// Chips and partitions that are published.
    pub(crate) fn devices(&self) -> u64 {
        self.totals.chips.saturating_add(self.totals.partitions)
    }

    /// How its devices are shared, as far as they are.
    pub(crate) fn sharing(&self) -> Sharing {
        let enforced = self.kind.vendor.parse::<Vendor>().is_ok_and(|vendor| vendor.enforces_quotas());
        match (self.shareable, enforced) {
            (0, _) => Sharing::Whole,
            (_, true) => Sharing::Held,
            (_, false) => Sharing::Counted,
        }
    }
}

/// The kinds of some nodes, by vendor, model and profile.
pub(crate) fn kinds(nodes: &[Node]) -> Vec<Stock<'_>> {
    let mut kinds: BTreeMap<Kind, Stock<'_>> = BTreeMap::new();
    for node in nodes {
        for pool in &node.pools {
            for module in &pool.modules {
                let kind = Kind::of(pool, module);
                kinds.entry(kind.clone()).or_insert_with(|| Stock::none(kind)).add(node, pool, module);
            }
        }
    }
    kinds.into_values().collect()
}
