//! Nodes as lines: for each module a cell with a character per chip, and what is free. Pure.

use serde_json::{Value, json};
use vnpu_driver::quantity::Bytes;

use super::model::{Chip, Module, Node, Pool, State, Totals};
use crate::output::{clean, columns};

/// The characters of a drawing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strokes {
    free: char,
    /// Shares, from little to much.
    shared: &'static [char],
    full: char,
    sick: char,
    absent: char,
}

impl Strokes {
    /// For every terminal.
    pub(super) const ASCII: Self = Self {
        free: '.',
        shared: &['1', '2', '3', '4', '5', '6', '7', '8', '9'],
        full: '#',
        sick: '!',
        absent: '-',
    };
    /// For terminals of today.
    pub(super) const UNICODE: Self =
        Self {
            free: '·', shared: &['▁', '▂', '▃', '▄', '▅', '▆', '▇'], full: '█', sick: '!', absent: '-'
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
            State::Absent => self.absent,
        }
    }

    /// The chips of a module, one character each.
    fn module(&self, module: &Module) -> String {
        module.chips.iter().map(|chip| self.chip(chip)).collect()
    }

    fn legend(&self) -> String {
        let (first, last) = (self.shared.first(), self.shared.last());
        let shared: String = first.into_iter().chain(['-'].iter()).chain(last).collect();
        format!(
            "{} free  {shared} shared, the more the fuller  {} in use  {} sick  {} not there; two together are a module\n\
             MODULES, CHIPS, MEMORY: free/all; HALF: modules of which one chip is free",
            self.free, self.full, self.sick, self.absent
        )
    }
}

/// All nodes, a line each, a legend and the sums.
pub(super) fn table(nodes: &[Node], strokes: &Strokes, wide: bool) -> String {
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let mut header = words(&["NODE", "LEAF", "SUPERPOD", "MODULES", "HALF", "CHIPS", "MEMORY"]);
    if wide {
        header.extend(words(&["SHARES", "CLAIMS", "MODEL", "DRIVER"]));
    }
    header.push("USE".to_owned());
    let mut rows = vec![header];
    rows.extend(nodes.iter().map(|node| row(node, strokes, wide)));
    let mut lines = columns(&rows);
    lines.push(String::new());
    lines.push(strokes.legend());
    lines.extend(sums(nodes));
    lines.extend(nodes.iter().flat_map(remarks));
    lines.push(String::new());
    lines.join("\n")
}

fn row(node: &Node, strokes: &Strokes, wide: bool) -> Vec<String> {
    let totals = Totals::of(&node.pools);
    let mut cells = vec![
        clean(&node.name),
        or_none(&node.leaf),
        or_none(&node.superpod),
        if totals.modules == 0 {
            "-".to_owned()
        } else {
            format!("{}/{}", totals.free_modules, totals.modules)
        },
        if totals.modules == 0 { "-".to_owned() } else { totals.half_modules.to_string() },
        format!("{}/{}", totals.free_chips, totals.chips),
        memory(totals.free_memory, totals.memory),
    ];
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

fn claims(node: &Node) -> usize {
    let chips = node.pools.iter().flat_map(|pool| &pool.modules).flat_map(|module| &module.chips);
    let claims = chips.flat_map(|chip| &chip.held).map(|share| share.claim.as_str());
    claims.collect::<std::collections::BTreeSet<_>>().len()
}

/// One line for each model, since chips of different models are no sum.
fn sums(nodes: &[Node]) -> Vec<String> {
    let mut models: Vec<(&str, &str)> =
        nodes.iter().flat_map(|n| &n.pools).map(|p| (p.vendor.as_str(), p.model.as_str())).collect();
    models.sort_unstable();
    models.dedup();
    let sum = |(vendor, model): (&str, &str)| {
        let has = |pool: &&Pool| (pool.vendor.as_str(), pool.model.as_str()) == (vendor, model);
        let owners = nodes.iter().filter(|node| node.pools.iter().any(|pool| has(&pool))).count();
        let totals = Totals::of(nodes.iter().flat_map(|node| &node.pools).filter(has));
        let name = [vendor, model].into_iter().filter(|word| !word.is_empty()).map(clean);
        let name = or_none(&name.collect::<Vec<_>>().join(" "));
        format!("{name}: {} {}, {}", owners, if owners == 1 { "node" } else { "nodes" }, free(&totals))
    };
    models.into_iter().map(sum).collect()
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
    let memory = memory(totals.free_memory, totals.memory).replace('/', " of ");
    format!("{modules}{} of {} chips free; {memory} memory free", totals.free_chips, totals.chips)
}

/// What is wrong with a node's slices.
pub(super) fn remarks(node: &Node) -> Vec<String> {
    let of_pool = |pool: &Pool| {
        let rewritten = pool.incomplete.then(|| {
            format!(
                "{}: slices are missing; it is being rewritten, or its node plugin is not well",
                pool.name
            )
        });
        let unpublished = pool.unpublished.iter().map(|held| {
            format!("{}: {} is held by {} and not published any more", pool.name, held.device, held.claim)
        });
        rewritten.into_iter().chain(unpublished).map(|text| clean(&text)).collect::<Vec<_>>()
    };
    node.pools.iter().flat_map(of_pool).collect()
}

pub(super) fn or_none(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { clean(text) }
}

/// `24/64Gi`: both in the larger one's unit where it divides both.
pub(super) fn memory(part: u64, whole: u64) -> String {
    const GIB: u64 = Bytes::GIB.0;
    if part.is_multiple_of(GIB) && whole.is_multiple_of(GIB) {
        return format!("{}/{}Gi", part / GIB, whole / GIB);
    }
    format!("{}/{}", Bytes(part), Bytes(whole))
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
