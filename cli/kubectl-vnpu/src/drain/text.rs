//! What a drain does, in words: for each device who is on it, and what becomes of them. Pure.

use std::collections::BTreeMap;

use vnpu_driver::quantity::Bytes;
use vnpu_driver::slices::{DRAIN_TAINT, TaintEffect};

use super::plan::Wanted;
use super::rule::Rules;
use super::target::Target;
use crate::devices::{Chip, Node, Tolerance};
use crate::output::{clean, columns};

/// What one claim holds of a target.
#[derive(Debug, Default)]
struct Held {
    pods: Vec<String>,
    memory: u64,
    cores: u64,
    tolerance: Tolerance,
}

/// Devices that go out of service.
pub(super) fn drain(
    node: &Node,
    targets: &[Target],
    rules: &Rules,
    wanted: &Wanted,
    dry_run: bool,
) -> String {
    let mut lines: Vec<String> = Vec::new();
    for target in targets {
        let was = target.places().all(|place| rules.contains_key(&place));
        let is = match (was, dry_run) {
            (true, _) => "was drained already",
            (false, true) => "would be drained",
            (false, false) => "is drained",
        };
        let evicts = target.places().any(|place| wanted.get(&place) == Some(&TaintEffect::NoExecute));
        lines.push(format!("{} {is}{}", named(target), module(target)));
        lines.extend(claims(node, target, evicts));
    }
    if !dry_run {
        let chips: Vec<String> = targets.iter().map(named).collect();
        lines.push(format!("back with: kubectl vnpu undrain {} {}", clean(&node.name), chips.join(" ")));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Devices that come back.
pub(super) fn undrain(
    node: &Node,
    targets: &[Target],
    rules: &Rules,
    wanted: &Wanted,
    dry_run: bool,
) -> String {
    let mut lines: Vec<String> = Vec::new();
    for target in targets {
        let changes = target
            .places()
            .chain(target.module_place())
            .any(|place| rules.get(&place).map(|rule| rule.effect) != wanted.get(&place).copied());
        let is = match (changes, dry_run) {
            (false, _) => "was not drained",
            (true, true) => "would be back in service",
            (true, false) => "is back in service",
        };
        lines.push(format!("{} {is}", named(target)));
        let still = target.module_place().filter(|place| wanted.contains_key(place));
        if let Some((_, module)) = still {
            lines.push(format!("  {} is not given out whole: its other chip is drained", clean(&module)));
        }
        for chip in chips(node, target) {
            let others: Vec<String> = chip
                .taints
                .iter()
                .filter(|taint| taint.key != DRAIN_TAINT)
                .map(|taint| clean(&taint.to_string()))
                .collect();
            if !others.is_empty() {
                lines.push(format!("  {} still has the taint {}", clean(&chip.device), others.join(", ")));
            }
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

fn named(target: &Target) -> String {
    clean(&format!("{}:{}", target.pool, target.device))
}

/// What else is not given out any more.
fn module(target: &Target) -> String {
    match &target.module {
        Some(module) if *module == target.device => format!(", with {}", target.chips.join(" and ")),
        Some(module) => format!("; {module} is not given out whole either"),
        None => String::new(),
    }
}

fn chips<'a>(node: &'a Node, target: &'a Target) -> impl Iterator<Item = &'a Chip> {
    let pools = node.pools.iter().filter(|pool| pool.name == target.pool);
    let chips = pools.flat_map(|pool| &pool.modules).flat_map(|module| &module.chips);
    // A module that goes whole only has chips of its own name.
    chips.filter(|chip| target.chips.contains(&chip.device) || target.device == chip.device)
}

fn claims(node: &Node, target: &Target, evicts: bool) -> Vec<String> {
    let mut claims: BTreeMap<&str, Held> = BTreeMap::new();
    for share in chips(node, target).flat_map(|chip| &chip.held) {
        let none = Held { tolerance: share.tolerance, ..Held::default() };
        let held = claims.entry(&share.claim).or_insert(none);
        let namespace = share.claim.split_once('/').map(|(namespace, _)| namespace).unwrap_or_default();
        held.pods = share.pods.iter().map(|pod| format!("{namespace}/{pod}")).collect();
        held.memory = held.memory.saturating_add(share.memory);
        held.cores = held.cores.saturating_add(share.cores);
        // A pod goes when the first of its devices makes it go.
        held.tolerance = held.tolerance.min(share.tolerance);
    }
    if claims.is_empty() {
        return vec!["  nothing is on it".to_owned()];
    }
    let header = ["CLAIM", "PODS", "HOLDS", "THEN"].map(str::to_owned).to_vec();
    let rows = claims.iter().map(|(claim, held)| {
        let pods = if held.pods.is_empty() { "-".to_owned() } else { held.pods.join(",") };
        let holds = format!("{} {}%", Bytes(held.memory), held.cores);
        vec![clean(claim), clean(&pods), holds, becomes(held, evicts)]
    });
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    columns(&rows).into_iter().map(|line| format!("  {line}")).collect()
}

/// What becomes of a claim's pods.
fn becomes(held: &Held, evicts: bool) -> String {
    let nobody = held.pods.is_empty();
    match (evicts, held.tolerance) {
        (false, _) => "stays".to_owned(),
        (true, _) if nobody => "stays: no pod has it".to_owned(),
        (true, Tolerance::None) => "evicted".to_owned(),
        (true, Tolerance::Seconds(seconds)) => format!("evicted after {seconds} s: it tolerates that"),
        (true, Tolerance::Forever) => "stays: it tolerates that".to_owned(),
    }
}

#[cfg(test)]
mod tests;
