//! Which devices a person means: a chip's name on a node, or with its pool where several vendors have the name. Pure.

use std::collections::BTreeSet;

use vnpu_driver::id::{DeviceName, InvalidId};

use super::rule::{Place, Rules};
use crate::devices::{Module, Node, Pool};

/// What is taken out of service or brought back together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The pool.
    pub(super) pool: String,
    /// The device that was named.
    pub(super) device: String,
    /// The chips that nobody is to get: that one, or both dies of a module.
    pub(super) chips: Vec<String>,
    /// The module that is not to be given out whole, where there is one.
    pub(super) module: Option<String>,
}

impl Target {
    /// The chips, as places.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.chips.iter().map(|chip| (self.pool.clone(), chip.clone()))
    }

    /// The module, as a place.
    pub(super) fn module_place(&self) -> Option<Place> {
        self.module.clone().map(|module| (self.pool.clone(), module))
    }
}

/// Why it is not clear what is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TargetError {
    /// No name of a device.
    #[error("{0}")]
    Malformed(#[from] InvalidId),
    /// The node has no such pool.
    #[error("{node} has no pool {pool}: it has {pools}")]
    NoPool {
        /// The node.
        node: String,
        /// The pool that was named.
        pool: String,
        /// The pools that it has.
        pools: String,
    },
    /// There is no such device.
    #[error("{node} publishes no {device}; `kubectl vnpu get nodes {node}` shows what it has")]
    Unknown {
        /// The node.
        node: String,
        /// The device.
        device: String,
    },
    /// The chip is in parts, which are devices of their own.
    #[error("{device} of {pool} is in parts: name {parts}")]
    Parts {
        /// The pool.
        pool: String,
        /// The device that was named.
        device: String,
        /// Its parts.
        parts: String,
    },
    /// Several vendors have a device of this name.
    #[error("{device} is in several pools of {node}: write {choices}")]
    Ambiguous {
        /// The node.
        node: String,
        /// The device.
        device: String,
        /// What can be written.
        choices: String,
    },
}

/// What is meant by `text` on a node: `chip-3-1`, `module-3`, or `node-1/nvidia:chip-0-0`. Devices that have rules are
/// known even if nobody publishes them any more.
///
/// # Errors
/// Nothing or more than one thing is meant.
pub(super) fn resolve(text: &str, node: &Node, rules: &Rules) -> Result<Target, TargetError> {
    let (wanted, device) = match text.rsplit_once(':') {
        Some((pool, device)) => (Some(pool), device),
        None => (None, text),
    };
    let name: DeviceName = device.parse()?;
    let of_node = format!("{}/", node.name);
    let with_rules = rules.keys().map(|(pool, _)| pool.as_str()).filter(|pool| pool.starts_with(&of_node));
    let mut pools: BTreeSet<&str> = node.pools.iter().map(|pool| pool.name.as_str()).collect();
    pools.extend(with_rules);
    if let Some(pool) = wanted.filter(|pool| !pools.contains(pool)) {
        let pools: Vec<&str> = pools.into_iter().collect();
        let (node, pool) = (node.name.clone(), pool.to_owned());
        return Err(TargetError::NoPool { node, pool, pools: pools.join(", ") });
    }
    let pools = pools.into_iter().filter(|pool| wanted.is_none_or(|wanted| wanted == *pool));
    let found: Vec<Target> = pools
        .filter_map(|pool| {
            let published = node.pools.iter().find(|published| published.name == pool);
            published.and_then(|pool| in_pool(pool, &name)).or_else(|| in_rules(pool, &name, rules))
        })
        .collect();
    match found.as_slice() {
        [target] => Ok(target.clone()),
        [] => Err(absent(node, wanted, &name)),
        several => {
            let choices: Vec<String> =
                several.iter().map(|target| format!("{}:{}", target.pool, target.device)).collect();
            let (node, device) = (node.name.clone(), name.to_string());
            Err(TargetError::Ambiguous { node, device, choices: choices.join(" or ") })
        }
    }
}

/// A device that a pool publishes, or a module of which it publishes a die.
fn in_pool(pool: &Pool, name: &DeviceName) -> Option<Target> {
    let text = name.to_string();
    let target = |chips: Vec<String>, module: Option<String>| {
        Some(Target { pool: pool.name.clone(), device: text.clone(), chips, module })
    };
    let numbered = |card: u32| pool.modules.iter().find(|module| module.module == Some(i64::from(card)));
    if let DeviceName::Module { card } = *name {
        // Dies that are not published now are drained too: they may come back.
        let dies = 0..u32::try_from(numbered(card)?.chips.len()).unwrap_or_default();
        let chips = dies.map(|die| DeviceName::Chip { card, die }.to_string()).collect();
        return target(chips, Some(text.clone()));
    }
    let has = |module: &&Module| module.chips.iter().any(|chip| chip.device == text);
    let module = pool.modules.iter().find(has)?.module.and_then(|card| u32::try_from(card).ok());
    target(vec![text.clone()], module.map(|card| DeviceName::Module { card }.to_string()))
}

/// A device that has a rule and that nobody publishes.
fn in_rules(pool: &str, name: &DeviceName, rules: &Rules) -> Option<Target> {
    let has = |device: &str| rules.contains_key(&(pool.to_owned(), device.to_owned()));
    let text = name.to_string();
    if !has(&text) {
        return None;
    }
    let module_of = |card: u32| DeviceName::Module { card }.to_string();
    let (chips, module) = match *name {
        DeviceName::Module { card } => {
            let of_card = |device: &&String| is_chip_of(device, card);
            let devices = rules.keys().filter(|(at, _)| at == pool).map(|(_, device)| device);
            (devices.filter(of_card).cloned().collect(), Some(text.clone()))
        }
        DeviceName::Chip { card, .. } => {
            (vec![text.clone()], Some(module_of(card)).filter(|module| has(module)))
        }
        DeviceName::Partition { .. } => (vec![text.clone()], None),
    };
    Some(Target { pool: pool.to_owned(), device: text, chips, module })
}

/// Whether a device is a chip of this card.
pub(super) fn is_chip_of(device: &str, card: u32) -> bool {
    matches!(device.parse(), Ok(DeviceName::Chip { card: of, .. }) if of == card)
}

fn absent(node: &Node, wanted: Option<&str>, name: &DeviceName) -> TargetError {
    let device = name.to_string();
    if let DeviceName::Chip { card, .. } = *name {
        for pool in node.pools.iter().filter(|pool| wanted.is_none_or(|wanted| wanted == pool.name)) {
            let devices = pool.modules.iter().flat_map(|module| &module.chips).map(|chip| &chip.device);
            let parts: Vec<&str> = devices
                .filter(|device| matches!(device.parse(), Ok(DeviceName::Partition { card: of, .. }) if of == card))
                .map(String::as_str)
                .collect();
            if !parts.is_empty() {
                return TargetError::Parts { pool: pool.name.clone(), device, parts: parts.join(", ") };
            }
        }
    }
    TargetError::Unknown { node: node.name.clone(), device }
}

#[cfg(test)]
mod tests;
