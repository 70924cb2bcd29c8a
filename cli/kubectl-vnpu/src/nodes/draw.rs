//! Nodes as lines: for each module a cell with a character per chip, and what is free. Pure.

use serde_json::{Value, json};

use crate::devices::{Chip, Module, Node, Pool, State, Stock, Totals, kinds, remarks};
use crate::output::{clean, columns, memory, or_none, ratio};

/// The characters of a drawing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strokes {
    free: char,
    /// Shares, from little to much.
    shared: &'static [char],
    full: char,
    sick: char,
    drained: char,
    absent: char,
}

impl Strokes {
    /// For every terminal.
    pub(super) const ASCII: Self = Self {
        free: '.',
        shared: &['1', '2', '3', '4', '5', '6', '7', '8', '9'],
        full: '#',
        sick: '!',
        drained: '~',
        absent: '-',
    };
    /// For terminals of today.
    pub(super) const UNICODE: Self = Self {
        free: '·',
        shared: &['▁', '▂', '▃', '▄', '▅', '▆', '▇'],
        full: '█',
        sick: '!',
        drained: '~',
        absent: '-',
    };

    fn chip(&self, chip: &Chip) -> char {
        match chip.state() {
            State::Free => self.free,
            State::Shared(percent) => {
                let percent = usize::try_from(percent.min(99)).unwrap_or(99);
                self.shared.get(percent * self.shared.len() / 100).copied().unwrap_or(self.full)
            }
            State::Full => self.full,
            State::Sick => self.sick,
            State::Drained => self.drained,
            State::Absent => self.absent,
        }
    }

    /// The chips of a module, one character each.
    fn module(&self, module: &Module) -> String {
        module.chips.iter().map(|chip| self.chip(chip)).collect()
    }

    fn legend(&self, totals: &Totals) -> String {
        let (first, last) = (self.shared.first(), self.shared.last());
        let shared: String = first.into_iter().chain(['-'].iter()).chain(last).collect();
        let parts = if totals.partitions > 0 { "PARTS, " } else { "" };
        let drained = if totals.drained > 0 { format!("{} drained  ", self.drained) } else { String::new() };
        format!(
            "{} free  {shared} shared, the more the fuller  {} in use  {} sick  {drained}{} not there; two together are a module\n\
             MODULES, CHIPS, {parts}MEMORY: free/all; HALF: modules of which one chip is free",
            self.free, self.full, self.sick, self.absent
        )
    }
}

/// All nodes, a line each, a legend and the sums.
pub(super) fn table(nodes: &[Node], strokes: &Strokes, wide: bool) -> String {
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let all = Totals::of(nodes.iter().flat_map(|node| &node.pools));
    let parts = all.partitions > 0;
    let mut header = words(&["NODE", "LEAF", "SUPERPOD", "MODULES", "HALF", "CHIPS"]);
    header.extend(words(if parts { &["PARTS", "MEMORY"] } else { &["MEMORY"] }));
    if wide {
        header.extend(words(&["SHARES", "CLAIMS", "MODEL", "DRIVER"]));
    }
    header.push("USE".to_owned());
    let mut rows = vec![header];
    rows.extend(nodes.iter().map(|node| row(node, strokes, parts, wide)));
    let mut lines = columns(&rows);
    lines.push(String::new());
    lines.push(strokes.legend(&all));
    lines.extend(sums(nodes));
    lines.extend(nodes.iter().flat_map(remarks));
    lines.push(String::new());
    lines.join("\n")
}

fn row(node: &Node, strokes: &Strokes, parts: bool, wide: bool) -> Vec<String> {
    let totals = Totals::of(&node.pools);
    let mut cells = vec![
        clean(&node.name),
        or_none(&node.leaf),
        or_none(&node.superpod),
        ratio(totals.free_modules, totals.modules),
        half(&totals),
        ratio(totals.free_chips, totals.chips),
    ];
    if parts {
        cells.push(ratio(totals.free_partitions, totals.partitions));
    }
    cells.push(memory(totals.free_memory, totals.memory));
    if wide {
        let list = |word: fn(&Pool) -> &String| {
            let words: Vec<String> = node.pools.iter().map(|pool| or_none(word(pool))).collect();
            words.join(",")
        };
        cells.extend([
            totals.shares.to_string(),
            claims(node).to_string(),
            list(|pool| &pool.model),
            list(|pool| &pool.driver_version),
        ]);
    }
    let modules = node.pools.iter().flat_map(|pool| &pool.modules);
    cells.push(modules.map(|module| strokes.module(module)).collect::<Vec<_>>().join(" "));
    cells
}

/// Modules of which one chip is free; `-` where there are no modules.
fn half(totals: &Totals) -> String {
    if totals.modules == 0 { "-".to_owned() } else { totals.half_modules.to_string() }
}

fn claims(node: &Node) -> usize {
    let chips = node.pools.iter().flat_map(|pool| &pool.modules).flat_map(|module| &module.chips);
    let claims = chips.flat_map(|chip| &chip.held).map(|share| share.claim.as_str());
    claims.collect::<std::collections::BTreeSet<_>>().len()
}

/// One line for each kind, since devices of different kinds are no sum.
fn sums(nodes: &[Node]) -> Vec<String> {
    let sum = |stock: &Stock<'_>| {
        let owners = stock.nodes.len();
        let word = if owners == 1 { "node" } else { "nodes" };
        format!("{}: {owners} {word}, {}", stock.kind, free(&stock.totals))
    };
    kinds(nodes).iter().map(sum).collect()
}

/// What is free, in words.
pub(super) fn free(totals: &Totals) -> String {
    let modules = if totals.modules == 0 {
        String::new()
    } else {
        format!(
            "{} of {} modules free and {} half free; ",
            totals.free_modules, totals.modules, totals.half_modules
        )
    };
    let chips = format!("{} of {} chips free; ", totals.free_chips, totals.chips);
    let parts = format!("{} of {} partitions free; ", totals.free_partitions, totals.partitions);
    // What is all in parts has no chips to speak of.
    let chips = if totals.chips == 0 && totals.partitions > 0 { String::new() } else { chips };
    let parts = if totals.partitions == 0 { String::new() } else { parts };
    let memory = memory(totals.free_memory, totals.memory).replace('/', " of ");
    format!("{modules}{chips}{parts}{memory} memory free")
}

/// Everything, with the sums.
pub(super) fn json(nodes: &[Node]) -> Value {
    let with_totals = |node: &Node| {
        let mut value = serde_json::to_value(node).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            fields.insert("totals".to_owned(), json!(Totals::of(&node.pools)));
        }
        value
    };
    let nodes_json: Vec<Value> = nodes.iter().map(with_totals).collect();
    json!({"nodes": nodes_json, "totals": Totals::of(nodes.iter().flat_map(|node| &node.pools))})
}

#[cfg(test)]
mod tests;
