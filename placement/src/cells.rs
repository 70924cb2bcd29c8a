//! Cells: the parts of a node that do not get in each other's way. A module with its chips is one, a single chip is
//! one. What a cell can take of a demand depends on nothing but what is used of it, and over all nodes cells are in few
//! states. So a demand that one pass can count is counted once for each state, and a node's room is the sum over its
//! cells; only demands whose devices are chosen over cells (several requests, shares of several devices) are counted
//! node by node.

use std::ops::Range;

use crate::count::halves_after;
use crate::interner::Interner;
use crate::layout::Form;
use crate::prepare::Prepared;
use crate::sweep;
use crate::view::{NodeState, View};

/// What a cell in some state can take of one demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CellRoom {
    /// How many times it can be taken from: pods, or devices of pods that take several each.
    pub(crate) takes: u32,
    /// How many of those make one pod.
    pub(crate) per_pod: u32,
    /// Half modules after some of them less those before, as [`crate::count::Room`] has them.
    pub(crate) made: Box<[(u16, i16)]>,
}

/// What is known of a cell's room.
#[derive(Debug, Clone, Default)]
pub(crate) enum Known {
    /// Nothing yet.
    #[default]
    Nothing,
    /// It cannot be told without the node's other cells.
    OnlyTogether,
    /// This.
    Room(CellRoom),
}

/// The rooms of one demand, by state.
#[derive(Debug, Clone, Default)]
pub(crate) struct CellRooms(Vec<Known>);

impl CellRooms {
    /// What a cell in this state can take; `count` tells where that is not known yet. `None`: only together.
    pub(crate) fn room(&mut self, state: u32, count: impl FnOnce() -> Option<CellRoom>) -> Option<&CellRoom> {
        let index = state as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, Known::default);
        }
        let known = self.0.get_mut(index)?;
        if matches!(known, Known::Nothing) {
            *known = count().map_or(Known::OnlyTogether, Known::Room);
        }
        match known {
            Known::Room(room) => Some(room),
            Known::Nothing | Known::OnlyTogether => None,
        }
    }

    /// Half modules that `pods` make on a node whose cells are in these states: they fill one cell after the other.
    pub(crate) fn halves(&self, cells: &[u32], pods: u32) -> i32 {
        let rooms = cells.iter().filter_map(|state| match self.0.get(*state as usize) {
            Some(Known::Room(room)) => Some(room),
            _ => None,
        });
        let (mut halves, mut taken) = (0, 0);
        for room in rooms {
            let left = pods.saturating_mul(room.per_pod).saturating_sub(taken);
            if left == 0 {
                break;
            }
            let takes = room.takes.min(left);
            halves += halves_after(&room.made, takes);
            taken += takes;
        }
        halves
    }
}

/// The devices of each cell of a pool, which are neighbours: no device pays a counter that one of another cell pays.
pub(crate) fn cells(devices: &[Form]) -> Box<[Range<u16>]> {
    let mut cells: Vec<Range<u16>> = Vec::new();
    // Up to where each counter is paid.
    let mut ends: Vec<(u16, u16)> = Vec::new();
    for (position, form) in (0u16..).zip(devices) {
        ends.extend(form.pays.iter().map(|(counter, _)| (*counter, position)));
    }
    let last = |form: &Form| {
        let paid = |counter: u16| ends.iter().rev().find(|(c, _)| *c == counter).map(|(_, last)| *last);
        form.pays.iter().filter_map(|(counter, _)| paid(*counter)).max()
    };
    let mut open_until = 0;
    for (position, form) in (0u16..).zip(devices) {
        match cells.last_mut().filter(|_| position <= open_until && position > 0) {
            Some(cell) => cell.end = position + 1,
            None => cells.push(position..position + 1),
        }
        open_until = open_until.max(last(form).unwrap_or(position)).max(position);
    }
    cells.into()
}

/// The states that cells were met in, as numbers.
#[derive(Debug, Default)]
pub(crate) struct CellStates {
    states: Interner<[u64]>,
    /// How many there may be until those that are gone are forgotten.
    bound: usize,
    /// One state as it is being put together.
    draft: Vec<u64>,
}

/// States that are kept in any case.
const KEPT_STATES: usize = 4096;

impl CellStates {
    /// The states of all cells of a node, pool after pool.
    fn of(&mut self, node: &NodeState) -> Box<[u32]> {
        let pools = (0u64..).zip(node.layouts.iter().zip(&node.standing.usages));
        let mut states = Vec::with_capacity(node.layouts.iter().map(|layout| layout.cells.len()).sum());
        for (pool, (layout, usage)) in pools {
            for (number, devices) in (0u64..).zip(&layout.cells) {
                self.draft.clear();
                // Which cell it is, since devices differ; what its counters hold follows from its devices.
                let place = (pool << 17) | (number << 1) | u64::from(usage.overdrawn);
                self.draft.extend([u64::from(node.kit), place]);
                for device in devices.clone().map(usize::from) {
                    let count = |counts: &[u16]| u64::from(counts.get(device).copied().unwrap_or_default());
                    self.draft.push((count(&usage.blocked) << 16) | count(&usage.shares));
                    self.draft.extend(usage.rooms.get(layout.rooms(device)).unwrap_or_default());
                }
                states.push(self.states.id(self.draft.as_slice()));
            }
        }
        states.into()
    }
}

/// What counting looks at of one node, close together: there are thousands of nodes, and each look into far memory is
/// dearer than the counting.
#[derive(Debug, Default)]
pub(crate) struct Sheet {
    /// The states of its cells, in the order in which they are filled.
    pub(crate) cells: Box<[u32]>,
    /// What is left of `allocatable` by number of the name, then `allocatable` itself.
    amounts: Box<[u64]>,
    /// The number of its list of layouts.
    pub(crate) kit: u32,
    /// It is there and keeps nobody away: neither taints nor `unschedulable`.
    pub(crate) open: bool,
    /// A reservation could not be given devices.
    pub(crate) crowded: bool,
    /// When the object or the devices changed.
    pub(crate) hardware: u64,
    /// The version of the node that this is of.
    at: u64,
}

impl Sheet {
    fn of(node: &NodeState, version: u64, states: &mut CellStates) -> Self {
        let free = node.standing.free.iter().take(node.allocatable.len());
        Self {
            cells: states.of(node),
            amounts: free.chain(&node.allocatable).copied().collect(),
            kit: node.kit,
            open: node.object.as_ref().is_some_and(|o| !o.unschedulable && o.taints.is_empty()),
            crowded: node.standing.crowded,
            hardware: node.hardware,
            at: version,
        }
    }

    /// What is left of `allocatable`.
    pub(crate) fn free(&self) -> &[u64] {
        self.amounts.get(..self.amounts.len() / 2).unwrap_or_default()
    }

    /// `allocatable`.
    pub(crate) fn allocatable(&self) -> &[u64] {
        self.amounts.get(self.amounts.len() / 2..).unwrap_or_default()
    }
}

impl View {
    /// Brings the sheets of all nodes up to date.
    pub(crate) fn settle_sheets(&mut self) {
        self.sheets.resize_with(self.nodes.len(), Sheet::default);
        let nodes = self.node_versions.iter().zip(&self.nodes);
        for (sheet, (version, node)) in self.sheets.iter_mut().zip(nodes) {
            if sheet.at < *version {
                *sheet = Sheet::of(node, *version, &mut self.cell_states);
            }
        }
        if self.cell_states.bound == 0 {
            self.cell_states.bound = self.cell_states.states.len().saturating_mul(2).max(KEPT_STATES);
        }
    }

    /// Forgets states that no cell is in any more, when they may be many: the others get new numbers, and what was
    /// counted for the old ones goes too. Not while a batch is planned.
    pub(crate) fn forget_states(&mut self) {
        if self.cell_states.states.len() > self.cell_states.bound {
            self.sheets.clear();
            self.cell_states = CellStates::default();
            self.shapes.forget_counts();
        }
    }

    /// What a cell of a node can take now, told by its place among the node's cells.
    pub(crate) fn count_cell(&self, prepared: &Prepared, node: u32, place: usize) -> Option<CellRoom> {
        let state = self.node(node)?;
        let cells = (0u16..).zip(state.layouts.iter());
        let mut cells = cells.flat_map(|(pool, layout)| layout.cells.iter().map(move |cell| (pool, cell)));
        let (pool, devices) = cells.nth(place)?;
        sweep::count_cell(prepared, &state.layouts, &state.standing.usages, pool, devices)
    }
}

#[cfg(test)]
mod tests;
