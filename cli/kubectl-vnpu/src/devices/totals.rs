//! What there is and what of it is free, in sums. Pure.

use std::ops::AddAssign;

use serde::Serialize;

use super::model::{Chip, Module, Pool, State};

/// Sums over modules and chips.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Totals {
    /// Modules of two chips.
    pub(crate) modules: u64,
    /// Those that a claim could get whole.
    pub(crate) free_modules: u64,
    /// Those of which one chip is free: the other one is held, sick, drained or not there.
    pub(crate) half_modules: u64,
    /// Whole chips that are published.
    pub(crate) chips: u64,
    /// Those of which nothing is held.
    pub(crate) free_chips: u64,
    /// Parts of chips that the hardware keeps apart, such as instances of a GPU under MIG.
    pub(crate) partitions: u64,
    /// Those that nobody holds.
    pub(crate) free_partitions: u64,
    /// Chips and partitions with a taint that is no drain's.
    pub(crate) sick: u64,
    /// Chips and partitions that an administrator took out of service.
    pub(crate) drained: u64,
    /// Dies of modules that are not published.
    pub(crate) gone: u64,
    /// Shares of chips.
    pub(crate) shares: u64,
    /// Bytes.
    pub(crate) memory: u64,
    /// Bytes that claims could still get.
    pub(crate) free_memory: u64,
    /// Percent of one chip's compute: 100 for each chip.
    pub(crate) cores: u64,
    /// Percent that claims could still get.
    pub(crate) free_cores: u64,
}

impl Totals {
    /// The sums of some pools.
    pub(crate) fn of<'a>(pools: impl IntoIterator<Item = &'a Pool>) -> Self {
        Self::of_modules(pools.into_iter().flat_map(|pool| &pool.modules))
    }

    /// The sums of some modules and chips that stand alone.
    pub(crate) fn of_modules<'a>(modules: impl IntoIterator<Item = &'a Module>) -> Self {
        let mut totals = Self::default();
        for module in modules {
            totals += Self {
                modules: u64::from(module.module.is_some()),
                free_modules: u64::from(module.is_free()),
                half_modules: u64::from(module.is_half_free()),
                ..Self::default()
            };
            for chip in &module.chips {
                totals += Self::of_chip(chip);
            }
        }
        totals
    }

    fn of_chip(chip: &Chip) -> Self {
        let state = chip.state();
        let is_here = state != State::Absent;
        let is_part = chip.partition.is_some();
        let (free_memory, free_cores) = chip.left();
        let shares = chip.held.iter().filter(|share| !share.whole).count();
        Self {
            chips: u64::from(is_here && !is_part),
            free_chips: u64::from(state == State::Free && !is_part),
            partitions: u64::from(is_here && is_part),
            free_partitions: u64::from(state == State::Free && is_part),
            sick: u64::from(state == State::Sick),
            drained: u64::from(state == State::Drained),
            gone: u64::from(!is_here),
            shares: u64::try_from(shares).unwrap_or(u64::MAX),
            memory: chip.memory,
            free_memory,
            cores: chip.cores,
            free_cores,
            ..Self::default()
        }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.modules, other.modules),
            (&mut self.free_modules, other.free_modules),
            (&mut self.half_modules, other.half_modules),
            (&mut self.chips, other.chips),
            (&mut self.free_chips, other.free_chips),
            (&mut self.partitions, other.partitions),
            (&mut self.free_partitions, other.free_partitions),
            (&mut self.sick, other.sick),
            (&mut self.drained, other.drained),
            (&mut self.gone, other.gone),
            (&mut self.shares, other.shares),
            (&mut self.memory, other.memory),
            (&mut self.free_memory, other.free_memory),
            (&mut self.cores, other.cores),
            (&mut self.free_cores, other.free_cores),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}
