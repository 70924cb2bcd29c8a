//! Demands met so far, and how many more of each every node can take. Only nodes that changed are counted again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::cells::{CellRooms, Sheet};
use crate::count::{Room, count_rooms, halves_after};
use crate::demand::{ClaimSpec, NodeFit};
use crate::fit::fits;
use crate::interner::Interner;
use crate::prepare::Prepared;
use crate::usage::Usage;
use crate::view::{Amounts, View};

/// What makes two units of placement equal: one pod, or the pods that share a claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ShapeForm {
    /// What they take together.
    pub(crate) resources: Amounts,
    /// Where each of them may go.
    pub(crate) fits: Box<[Arc<NodeFit>]>,
    /// What each of them asks of devices, in the order in which they are let go.
    pub(crate) pods: Box<[u32]>,
}

/// Where a demand resolves to the same devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Site {
    /// On all nodes with these layouts.
    Kit(u32),
    /// On this node, as long as it does not change.
    Node(u32, u64),
}

/// Everything that is kept of demands.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    specs: Interner<ClaimSpec>,
    asked: Interner<[u32]>,
    prepared: HashMap<(u32, Site), Arc<Prepared>>,
    own: HashMap<u32, bool>,
    /// The classes for which the two above hold.
    classes_at: u64,
    ids: HashMap<ShapeForm, u32>,
    shapes: Vec<Option<Shape>>,
    clock: u64,
}

/// Resolved demands that are kept, and shapes with their counts.
const KEPT_PREPARED: usize = 16_384;
const KEPT_SHAPES: usize = 96;
/// Pods of one demand on one node that are counted at most.
pub(crate) const MOST: u32 = 4096;

/// The counts of one demand, by node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    /// How many more fit.
    pub(crate) counts: Vec<u32>,
    /// The sum of that.
    pub(crate) total: u64,
    /// Some node's pods make or fill half modules.
    pub(crate) makes_halves: bool,
    /// How many would fit if nothing were used.
    pub(crate) empty: Vec<u32>,
    /// Selectors that could not be judged.
    pub(crate) unmodelled: BTreeSet<String>,
    /// A search was given up.
    pub(crate) given_up: bool,
    /// What each cell can take, on nodes that are counted by cells.
    cells: CellRooms,
    /// Half modules that pods make on nodes that are counted whole, where they make any.
    made: HashMap<u32, Box<[(u16, i16)]>>,
    seen: u64,
    hardware: Vec<u64>,
    eligible: Vec<bool>,
    kits: HashMap<Site, Room>,
    classes_at: u64,
    used: u64,
}

/// Half modules of a shape, by node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Halving<'a> {
    /// The shape.
    pub(crate) shape: &'a Shape,
    /// Of all nodes what counting looks at.
    pub(crate) sheets: &'a [Sheet],
}

impl Halving<'_> {
    /// How many more there are when so many pods have come to a node.
    pub(crate) fn halves(self, node: u32, pods: u32) -> i32 {
        if let Some(made) = self.shape.made.get(&node) {
            return halves_after(made, pods);
        }
        let cells = self.sheets.get(node as usize).map(|sheet| &*sheet.cells).unwrap_or_default();
        self.shape.cells.halves(cells, pods)
    }
}

impl Shapes {
    /// The number of what a claim asks for.
    pub(crate) fn spec(&mut self, spec: &ClaimSpec) -> u32 {
        match self.specs.find(spec) {
            Some(id) => id,
            None => self.specs.adopt(Arc::new(spec.clone())),
        }
    }

    /// What a claim asks for, kept once.
    pub(crate) fn kept_spec(&mut self, spec: &ClaimSpec) -> Arc<ClaimSpec> {
        let id = self.spec(spec);
        self.specs.get(id).map_or_else(|| Arc::new(spec.clone()), Arc::clone)
    }

    /// The number of a pod's list of claims, each told by its number.
    pub(crate) fn asked(&mut self, specs: &[u32]) -> u32 {
        self.asked.id(specs)
    }

    /// The claims behind the number.
    pub(crate) fn specs(&self, asked: u32) -> Vec<ClaimSpec> {
        let specs = self.asked.get(asked).into_iter().flat_map(|specs| specs.iter());
        specs.filter_map(|spec| self.specs.get(*spec)).map(|spec| (**spec).clone()).collect()
    }

    /// The number of a shape.
    pub(crate) fn id(&mut self, form: &ShapeForm) -> u32 {
        if let Some(id) = self.ids.get(form) {
            return *id;
        }
        let id = u32::try_from(self.shapes.len()).unwrap_or(u32::MAX);
        self.ids.insert(form.clone(), id);
        self.shapes.push(None);
        id
    }

    /// The counts of a shape as they were made last.
    pub(crate) fn get(&self, id: u32) -> Option<&Shape> {
        self.shapes.get(id as usize)?.as_ref()
    }

    /// Forgets all counts.
    pub(crate) fn forget_counts(&mut self) {
        self.shapes.fill_with(|| None);
    }

    /// Forgets the counts that were not asked for longest: one shape, for it is as much work as making them.
    fn thin(&mut self) {
        let kept = self.shapes.iter().flatten().count();
        let oldest =
            self.shapes.iter_mut().filter(|s| s.is_some()).min_by_key(|s| s.as_ref().map(|s| s.used));
        if let Some(oldest) = oldest.filter(|_| kept > KEPT_SHAPES) {
            *oldest = None;
        }
    }
}

impl View {
    /// A pod's claims, resolved for a node.
    pub(crate) fn prepared(&mut self, asked: u32, node: u32) -> Arc<Prepared> {
        let Some(site) = self.site(asked, node) else { return Arc::default() };
        if let Some(known) = self.shapes.prepared.get(&(asked, site)) {
            return Arc::clone(known);
        }
        let specs = self.shapes.specs(asked);
        let bays = self.node(node).map(|n| n.bays.clone()).unwrap_or_default();
        let prepared = Arc::new(self.preparation().resolve(&specs, &bays));
        if self.shapes.prepared.len() >= KEPT_PREPARED {
            self.shapes.prepared.clear();
        }
        self.shapes.prepared.insert((asked, site), Arc::clone(&prepared));
        prepared
    }

    fn site(&mut self, asked: u32, node: u32) -> Option<Site> {
        if self.shapes.classes_at != self.classes_at {
            self.shapes.classes_at = self.classes_at;
            self.shapes.prepared.clear();
            self.shapes.own.clear();
        }
        let own = match self.shapes.own.get(&asked) {
            Some(own) => *own,
            None => {
                let specs = self.shapes.specs(asked);
                let own = self.preparation().reads_own(&specs);
                self.shapes.own.insert(asked, own);
                own
            }
        };
        let state = self.node(node)?;
        Some(if own { Site::Node(node, state.hardware) } else { Site::Kit(state.kit) })
    }

    /// Brings the counts of a shape up to date.
    pub(crate) fn refresh(&mut self, form: &ShapeForm) -> u32 {
        self.settle_sheets();
        let id = self.shapes.id(form);
        self.shapes.clock += 1;
        let clock = self.shapes.clock;
        let kept = self.shapes.shapes.get_mut(id as usize).and_then(Option::take);
        let mut shape = kept.filter(|s| s.classes_at == self.classes_at).unwrap_or_default();
        shape.classes_at = self.classes_at;
        shape.used = clock;
        shape.counts.resize(self.nodes.len(), 0);
        shape.empty.resize(self.nodes.len(), 0);
        shape.hardware.resize(self.nodes.len(), 0);
        shape.eligible.resize(self.nodes.len(), false);
        let changed = |(_, version): &(u32, &u64)| **version > shape.seen;
        let changed: Vec<u32> =
            (0u32..).zip(&self.node_versions).filter(changed).map(|(node, _)| node).collect();
        let mut recent = None;
        for node in changed {
            self.recount(form, &mut shape, node, &mut recent);
        }
        shape.seen = self.version;
        if let Some(place) = self.shapes.shapes.get_mut(id as usize) {
            *place = Some(shape);
        }
        self.shapes.thin();
        id
    }

    fn recount(&mut self, form: &ShapeForm, shape: &mut Shape, node: u32, recent: &mut Option<Recent>) {
        let index = node as usize;
        let kit = self.sheets.get(index).map(|sheet| sheet.kit);
        // Most nodes are like the one before.
        let known = recent.take().filter(|known| known.kit.is_some() && known.kit == kit);
        let known = known.unwrap_or_else(|| self.resolve(form, shape, node));
        let Some(sheet) = self.sheets.get(index) else { return };
        if shape.hardware.get(index) != Some(&sheet.hardware) {
            put(&mut shape.hardware, index, sheet.hardware);
            put(&mut shape.eligible, index, self.eligible(form, sheet, node));
        }
        let eligible = shape.eligible.get(index).copied().unwrap_or_default();
        let most = if eligible { known.idle.count } else { 0 };
        put(&mut shape.empty, index, affordable(&form.resources, sheet.allocatable(), most));
        let room = self.room_now(form, shape, &known, node, eligible);
        if let Some(count) = shape.counts.get_mut(index) {
            shape.total = (shape.total + u64::from(room.count)).saturating_sub(u64::from(*count));
            *count = room.count;
        }
        shape.given_up |= room.given_up;
        shape.makes_halves |= !room.made.is_empty();
        if !room.made.is_empty() {
            shape.made.insert(node, room.made);
        } else if !shape.made.is_empty() {
            shape.made.remove(&node);
        }
        *recent = Some(known);
    }

    /// Whether all pods of a unit may go to a node, devices and resources apart.
    fn eligible(&self, form: &ShapeForm, sheet: &Sheet, node: u32) -> bool {
        let anywhere = |fit: &Arc<NodeFit>| fit.labels.is_empty() && fit.terms.is_empty();
        if sheet.open && form.fits.iter().all(anywhere) {
            return true;
        }
        let object = self.node(node).and_then(|state| state.object.as_ref());
        object.is_some_and(|object| form.fits.iter().all(|fit| fits(fit, object)))
    }

    /// What a node can take now. Of one that is counted by cells the half modules stay with the cells.
    fn room_now(
        &self,
        form: &ShapeForm,
        shape: &mut Shape,
        known: &Recent,
        node: u32,
        eligible: bool,
    ) -> Room {
        let Some(sheet) = self.sheets.get(node as usize).filter(|_| eligible) else { return Room::default() };
        if known.devices && sheet.crowded {
            return Room::default();
        }
        if known.by_cells
            && let Some(room) = self.room_by_cells(shape, known, sheet, node)
        {
            return Room { count: affordable(&form.resources, sheet.free(), room), ..Room::default() };
        }
        let limit = affordable(&form.resources, sheet.free(), MOST);
        let Some(state) = self.node(node).filter(|_| limit > 0) else { return Room::default() };
        if state.standing.is_idle() {
            return Room { count: known.idle.count.min(limit), ..known.idle.clone() };
        }
        count_rooms(&known.prepared, &state.layouts, &state.standing.usages, limit)
    }

    /// The sum over a node's cells; `None` where they have to be looked at together.
    fn room_by_cells(&self, shape: &mut Shape, known: &Recent, sheet: &Sheet, node: u32) -> Option<u32> {
        let prepared = known.prepared.first()?;
        let (mut takes, mut per_pod) = (0u32, 1);
        for (place, cell) in sheet.cells.iter().enumerate() {
            let room = shape.cells.room(*cell, || self.count_cell(prepared, node, place))?;
            takes = takes.saturating_add(room.takes);
            per_pod = room.per_pod;
            shape.makes_halves |= !room.made.is_empty();
        }
        Some((takes / per_pod.max(1)).min(MOST))
    }

    /// What a shape comes to on a node, and on others like it.
    fn resolve(&mut self, form: &ShapeForm, shape: &mut Shape, node: u32) -> Recent {
        let prepared: Vec<Arc<Prepared>> =
            form.pods.iter().map(|asked| self.prepared(*asked, node)).collect();
        shape.unmodelled.extend(prepared.iter().flat_map(|p| p.unmodelled.iter().cloned()));
        let Some(state) = self.node(node) else {
            return Recent { kit: None, prepared, idle: Room::default(), devices: true, by_cells: false };
        };
        let reads_own = form.pods.iter().any(|asked| self.shapes.own.get(asked).copied().unwrap_or_default());
        let site = if reads_own { Site::Node(node, state.hardware) } else { Site::Kit(state.kit) };
        if shape.kits.len() > KEPT_PREPARED {
            shape.kits.clear();
        }
        let idle = shape.kits.entry(site).or_insert_with(|| {
            let usages: Vec<Usage> = state.layouts.iter().map(|layout| Usage::empty(layout)).collect();
            count_rooms(&prepared, &state.layouts, &usages, MOST)
        });
        let devices = prepared.iter().any(|p| p.claims.iter().any(|c| !c.requests.is_empty()));
        let by_cells = !reads_own && matches!(prepared.as_slice(), [one] if one.by_cells);
        Recent { kit: (!reads_own).then_some(state.kit), idle: idle.clone(), prepared, devices, by_cells }
    }
}

/// What a shape came to on the last node.
struct Recent {
    /// The nodes that are like it; `None` for none.
    kit: Option<u32>,
    prepared: Vec<Arc<Prepared>>,
    /// The room of a node without use.
    idle: Room,
    /// It asks for devices at all.
    devices: bool,
    /// Nodes are counted by cells.
    by_cells: bool,
}

/// How many times the amounts are there, up to `most`.
fn affordable(amounts: &[(u32, u64)], free: &[u64], most: u32) -> u32 {
    amounts.iter().fold(most, |most, (id, amount)| {
        let free = free.get(*id as usize).copied().unwrap_or_default();
        // As a rule all of it is there, and nothing has to be divided.
        if amount.checked_mul(u64::from(most)).is_some_and(|all| all <= free) {
            return most;
        }
        u32::try_from(free / (*amount).max(1)).unwrap_or(u32::MAX).min(most)
    })
}

fn put<T>(list: &mut [T], index: usize, value: T) {
    if let Some(place) = list.get_mut(index) {
        *place = value;
    }
}
