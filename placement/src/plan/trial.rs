//! Placing units one by one on copies of nodes, to see what still fits beside them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::count::count_rooms;
use crate::fit::fits;
use crate::prepare::Prepared;
use crate::search::{Found, place};
use crate::shape::{MOST, ShapeForm};
use crate::usage::Usage;
use crate::view::{Standing, View};

/// Nodes as they would be.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    empty: bool,
    nodes: BTreeMap<u32, Standing>,
}

impl Trial {
    /// Nothing placed yet; `empty`: on nodes of which nothing is used.
    pub(crate) const fn new(empty: bool) -> Self {
        Self { empty, nodes: BTreeMap::new() }
    }

    /// The nodes on which something was placed.
    pub(crate) fn touched(&self) -> impl Iterator<Item = u32> + '_ {
        self.nodes.keys().copied()
    }

    fn standing(&self, view: &View, node: u32) -> Option<Standing> {
        if let Some(standing) = self.nodes.get(&node) {
            return Some(standing.clone());
        }
        let state = view.node(node)?;
        if self.empty {
            let usages = state.layouts.iter().map(|layout| Usage::empty(layout)).collect();
            return Some(Standing { free: state.allocatable.clone(), usages, ..Standing::default() });
        }
        Some(state.standing.clone())
    }

    /// Places one unit on a node; whether it fits.
    pub(crate) fn place(&mut self, view: &mut View, form: &ShapeForm, node: u32) -> bool {
        let placed = self
            .standing(view, node)
            .filter(|_| admits(view, form, node))
            .and_then(|mut standing| place_in(view, form, node, &mut standing).then_some(standing));
        let fits = placed.is_some();
        self.nodes.extend(placed.map(|standing| (node, standing)));
        fits
    }

    /// How many units fit on a node.
    pub(crate) fn room(&self, view: &mut View, form: &ShapeForm, node: u32) -> u32 {
        let Some(standing) = self.standing(view, node).filter(|_| admits(view, form, node)) else { return 0 };
        room_in(view, form, node, &standing)
    }
}

fn admits(view: &View, form: &ShapeForm, node: u32) -> bool {
    let object = view.node(node).and_then(|state| state.object.as_ref());
    object.is_some_and(|object| form.fits.iter().all(|fit| fits(fit, object)))
}

fn place_in(view: &mut View, form: &ShapeForm, node: u32, standing: &mut Standing) -> bool {
    let Some(layouts) = view.node(node).map(|state| Arc::clone(&state.layouts)) else { return false };
    for (id, amount) in &form.resources {
        let Some(free) = standing.free.get_mut(*id as usize) else { return false };
        let Some(left) = free.checked_sub(*amount) else { return false };
        *free = left;
    }
    form.pods.iter().all(|asked| {
        let prepared = view.prepared(*asked, node);
        if prepared.claims.iter().all(|c| c.requests.is_empty()) {
            return true;
        }
        !standing.crowded && place(&prepared, &layouts, &mut standing.usages).0 == Found::Yes
    })
}

fn room_in(view: &mut View, form: &ShapeForm, node: u32, standing: &Standing) -> u32 {
    let prepared: Vec<Arc<Prepared>> = form.pods.iter().map(|asked| view.prepared(*asked, node)).collect();
    let Some(layouts) = view.node(node).map(|state| Arc::clone(&state.layouts)) else { return 0 };
    let asks = prepared.iter().any(|p| p.claims.iter().any(|c| !c.requests.is_empty()));
    if asks && standing.crowded {
        return 0;
    }
    let times = |(id, amount): &(u32, u64)| {
        standing.free.get(*id as usize).copied().unwrap_or_default() / (*amount).max(1)
    };
    let limit = form.resources.iter().map(times).min().unwrap_or(u64::from(MOST)).min(u64::from(MOST));
    let limit = u32::try_from(limit).unwrap_or(MOST);
    count_rooms(&prepared, &layouts, &standing.usages, limit).count
}
