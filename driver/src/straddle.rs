//! The definition of straddling: a claim that holds exactly one chip of more than one module. Guard, Prepare
//! and auditor mean this function's answer.

use std::collections::{BTreeMap, BTreeSet};

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

#[cfg(test)]
mod tests {
    use super::*;

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
