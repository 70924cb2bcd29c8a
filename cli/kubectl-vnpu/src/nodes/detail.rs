//! Single nodes, a line for each chip: how it is and who holds it. Pure.

use vnpu_driver::quantity::Bytes;

use super::draw::free;
use crate::devices::{Chip, Module, Node, Pool, Share, State, Taint, Totals, remarks};
use crate::output::{clean, columns, memory, or_none};

/// The nodes, one after the other.
pub(super) fn nodes(nodes: &[Node]) -> String {
    let blocks: Vec<String> = nodes.iter().map(node).collect();
    blocks.join("\n")
}

fn node(node: &Node) -> String {
    let place = |word: &str, name: &str| {
        if name.is_empty() { format!("no {word}") } else { format!("{word} {}", clean(name)) }
    };
    let mut lines = vec![format!(
        "{}: {}, {}",
        clean(&node.name),
        place("leaf", &node.leaf),
        place("super-pod", &node.superpod)
    )];
    for pool in &node.pools {
        lines.push(format!(
            "{}: {}, driver {}; {}",
            clean(&pool.name),
            or_none(&pool.model),
            or_none(&pool.driver_version),
            free(&Totals::of([pool]))
        ));
        lines.extend(table(pool).into_iter().map(|line| format!("  {line}")));
        lines.extend(taints(pool));
    }
    lines.extend(remarks(node));
    lines.push(String::new());
    lines.join("\n")
}

fn table(pool: &Pool) -> Vec<String> {
    let header = ["MODULE", "CHIP", "STATE", "MEMORY", "CORES", "CLAIMS"];
    let mut rows = vec![header.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()];
    for module in &pool.modules {
        rows.extend(module.chips.iter().enumerate().map(|(die, chip)| row(module, die, chip)));
    }
    columns(&rows)
}

/// What makes chips sick, and modules.
fn taints(pool: &Pool) -> Vec<String> {
    let said = |device: &str, taints: &[Taint]| {
        let words: Vec<String> = taints.iter().map(Taint::to_string).collect();
        (!words.is_empty()).then(|| clean(&format!("{device} has the taint {}", words.join(", "))))
    };
    let of_module = |module: &Module| {
        let mut lines: Vec<String> =
            module.chips.iter().filter_map(|chip| said(&chip.device, &chip.taints)).collect();
        // A module with a sick chip is sick for that; what it has for itself keeps whole modules away.
        if lines.is_empty() {
            lines.extend(said(&module.device, &module.taints));
        }
        lines
    };
    pool.modules.iter().flat_map(of_module).collect()
}

fn row(module: &Module, die: usize, chip: &Chip) -> Vec<String> {
    let number = module.module.filter(|_| die == 0).map(|number| number.to_string());
    let name = if chip.device.is_empty() { format!("(die {die})") } else { clean(&chip.device) };
    let held: Vec<String> = chip.held.iter().map(held).collect();
    let absent = chip.state() == State::Absent;
    let shown = |text: String| if absent { "-".to_owned() } else { text };
    vec![
        number.unwrap_or_default(),
        name,
        state(chip),
        shown(memory(chip.memory_held(), chip.memory)),
        shown(format!("{}/{}%", chip.cores_held(), chip.cores)),
        held.join(", "),
    ]
}

fn state(chip: &Chip) -> String {
    let shares = chip.held.iter().filter(|share| !share.whole).count();
    let shares = match shares {
        0 => None,
        1 => Some("1 share".to_owned()),
        many => Some(format!("{many} shares")),
    };
    let use_of_it = if chip.held.is_empty() { "" } else { ", in use" };
    match chip.state() {
        State::Free => "free".to_owned(),
        State::Shared(_) => shares.unwrap_or_default(),
        State::Full => shares.map_or_else(|| "whole".to_owned(), |shares| format!("{shares}, full")),
        State::Sick => format!("sick{use_of_it}"),
        State::Drained => format!("drained{use_of_it}"),
        State::Absent => "not published".to_owned(),
    }
}

/// A claim, its part of a chip that is shared, and the pods that use it.
fn held(share: &Share) -> String {
    let part = if share.whole { String::new() } else { format!(" {} {}%", Bytes(share.memory), share.cores) };
    let pods = match share.pods.as_slice() {
        [] => " (no pod)".to_owned(),
        [pod] => format!(" (pod {pod})"),
        [pod, rest @ ..] => format!(" (pod {pod} and {} more)", rest.len()),
    };
    clean(&format!("{}{part}{pods}", share.claim))
}
