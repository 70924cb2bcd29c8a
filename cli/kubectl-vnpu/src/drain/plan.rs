//! Which rules change so that devices go out of service or come back. Pure.

use std::collections::BTreeMap;

use vnpu_driver::id::DeviceName;
use vnpu_driver::slices::TaintEffect;

use super::rule::{self, Place, Rules};
use super::target::{Target, is_chip_of};

/// What each device with a rule is to have.
pub(super) type Wanted = BTreeMap<Place, TaintEffect>;

/// A change of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// There is no rule yet.
    Create(Place, TaintEffect),
    /// The rule of this name gets another effect.
    Change(String, TaintEffect),
    /// The rule of this name goes.
    Delete(String),
}

/// What is to be when the targets are out of service. What was drained with eviction before stays so.
pub(super) fn drained(rules: &Rules, targets: &[Target], effect: TaintEffect) -> Wanted {
    let mut wanted = now(rules);
    for target in targets {
        // Whoever has the module uses its chips, so it gets what they get.
        for place in target.places().chain(target.module_place()) {
            let strongest = stronger(effect, wanted.get(&place).copied());
            wanted.insert(place, strongest);
        }
    }
    wanted
}

/// What is to be when the targets are back in service. A module stays out of service for as long as one of its chips is.
pub(super) fn returned(rules: &Rules, targets: &[Target]) -> Wanted {
    let mut wanted = now(rules);
    for target in targets {
        for place in target.places() {
            wanted.remove(&place);
        }
        let Some(module) = target.module_place() else { continue };
        let rest = chips_of(&wanted, &module).fold(None, |most, effect| Some(stronger(effect, most)));
        match rest {
            Some(effect) => wanted.insert(module, effect),
            None => wanted.remove(&module),
        };
    }
    wanted
}

/// The effects on chips of a module.
fn chips_of<'a>(wanted: &'a Wanted, (pool, module): &'a Place) -> impl Iterator<Item = TaintEffect> {
    let card = match module.parse() {
        Ok(DeviceName::Module { card }) => Some(card),
        _ => None,
    };
    let is_chip = move |device: &str| card.is_some_and(|card| is_chip_of(device, card));
    wanted.iter().filter(move |((at, device), _)| at == pool && is_chip(device)).map(|(_, effect)| *effect)
}

fn now(rules: &Rules) -> Wanted {
    rules.iter().map(|(place, rule)| (place.clone(), rule.effect)).collect()
}

fn stronger(one: TaintEffect, other: Option<TaintEffect>) -> TaintEffect {
    if other == Some(TaintEffect::NoExecute) { TaintEffect::NoExecute } else { one }
}

/// The way there. Modules go out of service before their chips and come back after them, so that nobody gets one whose
/// chip is on its way.
pub(super) fn steps(rules: &Rules, wanted: &Wanted) -> Vec<Step> {
    let is_module = |(_, device): &Place| matches!(device.parse(), Ok(DeviceName::Module { .. }));
    let mut put: Vec<(&Place, Step)> = Vec::new();
    for (place, effect) in wanted {
        match rules.get(place) {
            None => put.push((place, Step::Create(place.clone(), *effect))),
            Some(rule) if rule.effect != *effect => {
                put.push((place, Step::Change(rule.name.clone(), *effect)))
            }
            Some(_) => {}
        }
    }
    put.sort_by_key(|(place, _)| !is_module(place));
    let mut gone: Vec<(&Place, Step)> = rules
        .iter()
        .filter(|(place, _)| !wanted.contains_key(*place))
        .map(|(place, rule)| (place, Step::Delete(rule.name.clone())))
        .collect();
    gone.sort_by_key(|(place, _)| is_module(place));
    put.into_iter().chain(gone).map(|(_, step)| step).collect()
}

impl Step {
    /// For people, when it fails.
    pub(super) fn what(&self) -> String {
        match self {
            Self::Create(place, _) => format!("create the devicetaintrule {}", rule::name(place)),
            Self::Change(name, _) => format!("change the devicetaintrule {name}"),
            Self::Delete(name) => format!("delete the devicetaintrule {name}"),
        }
    }
}

#[cfg(test)]
mod tests;
