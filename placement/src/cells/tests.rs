//! Counting by cells finds what counting whole nodes finds.

use std::sync::Arc;

use proptest::prelude::*;

use super::CellRooms;
use crate::count::count_rooms;
use crate::demand::{ClaimSpec, Constraint};
use crate::fixtures::*;
use crate::node::{Holding, Node, Pool};
use crate::shape::{Halving, MOST, ShapeForm};
use crate::view::{Change, View};

/// Modules one after the other; the same with chips and modules apart, which makes one cell of all; single chips.
fn pools(node: &Node) -> Vec<Pool> {
    let plain = modules(node, &[0, 1, 2, 3]);
    let mut apart = plain.clone();
    apart.devices.sort_by(|a, b| a.name.cmp(&b.name));
    let mut backwards = plain.clone();
    backwards.devices.reverse();
    vec![plain, apart, backwards, chips(node, 6)]
}

fn demands() -> Vec<ClaimSpec> {
    let same = |attribute: &str| Constraint { attribute: attribute.into(), ..same_module() };
    vec![
        whole(1),
        whole(2),
        plain_chips(1),
        plain_chips(3),
        pair(),
        // Devices of all cells agree in this.
        ClaimSpec { constraints: vec![same("vnpu.dev/model")], ..plain_chips(2) },
        share(8 * GI, 10),
        share(40 * GI, 60),
        even_chips(4),
    ]
}

#[test]
fn a_module_and_its_chips_are_a_cell() {
    let mut view = View::default();
    let node = node("n1", "leaf-1", "pod-1");
    for (pool, cells) in pools(&node).into_iter().zip([4, 1, 4, 6]) {
        let (layout, _) = view.catalog.layout(&pool);
        assert_eq!(layout.cells.len(), cells, "{:?}", layout.cells);
        let devices: Vec<u16> = layout.cells.iter().flat_map(Clone::clone).collect();
        assert!(devices.iter().copied().eq(0..u16::try_from(pool.devices.len()).unwrap()));
    }
}

#[test]
fn a_state_is_counted_once() {
    let mut rooms = CellRooms::default();
    let room = super::CellRoom { takes: 3, per_pod: 1, made: Box::default() };
    assert_eq!(rooms.room(5, || Some(room.clone())), Some(&room));
    assert_eq!(rooms.room(5, || panic!("counted again")), Some(&room));
    assert_eq!(rooms.room(2, || None), None);
    assert_eq!(rooms.room(2, || panic!("counted again")), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_sum_over_cells_is_the_room_of_the_node(
        uses in proptest::collection::vec((0usize..4, 0usize..12, 0u64..4), 0..16),
        processors in prop_oneof![Just(192_000u64), 0u64..8000],
    ) {
        let mut view = View::default();
        classes().into_iter().for_each(|class| view.apply(Change::Class(class)));
        let node = |number: usize| {
            let mut node = node(&format!("node-{number}"), "leaf-1", "pod-1");
            node.allocatable = resources(&[("cpu", processors), ("pods", 110)]);
            node
        };
        let pools: Vec<Pool> = (0..4).map(|number| pools(&node(number)).swap_remove(number)).collect();
        for (number, pool) in pools.iter().enumerate() {
            view.apply(Change::Node(node(number)));
            view.apply(Change::Pool(pool.clone()));
        }
        for (claim, (number, device, part)) in (0u64..).zip(uses) {
            let Some(device) = pools[number].devices.get(device) else { continue };
            let mut claim = allocated(claim, &format!("node-{number}"), &[]);
            let consumed = [("memory".to_owned(), part * 20 * GI), ("cores".to_owned(), part * 30)];
            claim.holdings.push(Holding {
                pool: pools[number].name.clone(),
                device: device.name.clone(),
                consumed: if device.shareable { consumed.into() } else { Default::default() },
                admin_access: false,
            });
            view.apply(Change::Claim(claim));
        }
        let cpu = view.amounts(&resources(&[("cpu", 1000)]));
        for demand in demands() {
            view.settle();
            let spec = view.shapes.spec(&demand);
            let asked = view.shapes.asked(&[spec]);
            let form = ShapeForm { resources: cpu.clone(), fits: Box::default(), pods: Box::new([asked]) };
            let id = view.refresh(&form);
            for node in 0..4u32 {
                let prepared = view.prepared(asked, node);
                let state = view.node(node).unwrap();
                let limit = u32::try_from(processors / 1000).unwrap().min(MOST);
                let expected = count_rooms(&[Arc::clone(&prepared)], &state.layouts, &state.standing.usages, limit);
                let shape = view.shapes.get(id).unwrap();
                prop_assert_eq!(shape.counts[node as usize], expected.count, "node {} {:?}", node, demand);
                let halving = Halving { shape, sheets: &view.sheets };
                for pods in 0..=expected.count {
                    prop_assert_eq!(
                        halving.halves(node, pods), expected.halves(pods), "node {} {} of {:?}", node, pods, demand
                    );
                }
            }
        }
    }
}

#[test]
fn states_that_are_gone_are_forgotten() {
    let mut view = View::default();
    changes(2, 2, 1, 8).into_iter().for_each(|change| view.apply(change));
    let spec = view.shapes.spec(&share(GI, 1));
    let asked = view.shapes.asked(&[spec]);
    let form = ShapeForm { resources: Box::default(), fits: Box::default(), pods: Box::new([asked]) };
    let mut most = 0;
    for round in 0..20_000u64 {
        let mut claim = allocated(1, "node-0", &["chip-0-0"]);
        claim.holdings[0].consumed.insert("memory".into(), round * 1000);
        view.apply(Change::Claim(claim));
        view.settle();
        let id = view.refresh(&form);
        let free = 64 - (round * 1000).div_ceil(GI);
        let cell = view.shapes.get(id).unwrap().counts[0];
        assert!(u64::from(cell) >= 64 * 15 && u64::from(cell) <= 64 * 15 + free, "{cell}");
        most = most.max(view.cell_states.states.len());
    }
    assert!((1000..=2 * super::KEPT_STATES).contains(&most), "{most} states");
}
