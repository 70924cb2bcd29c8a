//! The pass finds what the search finds.

use proptest::prelude::*;

use crate::count::{Room, count_by_search, count_rooms};
use crate::demand::{ClaimSpec, Count};
use crate::fixtures::*;
use crate::node::{NodeTaint, Pool};
use crate::prepare::{Bay, Preparation};
use crate::selector::Selectors;
use crate::usage::{Held, Usage};

fn demands() -> Vec<ClaimSpec> {
    let mut three = whole(1);
    three.requests.push(request("one", vec![ask("npu.vnpu.dev", 1)]));
    let mut two_shares = share(8 * GI, 10);
    two_shares.requests[0].alternatives[0].count = Count::Exactly(2);
    let pair_of_shares = ClaimSpec { constraints: vec![same_module()], ..two_shares.clone() };
    let mut any = ask("any", 2);
    let all_devices = spec(vec![request("npu", vec![any.clone()])]);
    any.count = Count::Exactly(1);
    let any_device = spec(vec![request("npu", vec![any])]);
    let mut everything = whole(1);
    everything.requests[0].alternatives[0].count = Count::All;
    vec![
        whole(1),
        whole(2),
        whole(3),
        plain_chips(1),
        plain_chips(2),
        plain_chips(3),
        pair(),
        ClaimSpec { constraints: vec![same_module()], ..plain_chips(3) },
        share(GI, 1),
        share(8 * GI, 10),
        share(40 * GI, 60),
        share(GI, 0),
        even_chips(4),
        even_chips(2),
        three,
        two_shares,
        pair_of_shares,
        all_devices,
        any_device,
        everything,
    ]
}

/// What lies on a node: per device of the pool nothing, all of it, or a share.
fn holds(pool: &Pool, uses: &[u8]) -> Vec<(usize, bool)> {
    let mut holds = Vec::new();
    for (number, device) in pool.devices.iter().enumerate() {
        match uses.get(number).copied().unwrap_or_default() {
            1 => holds.push((number, true)),
            2 if device.shareable => holds.push((number, false)),
            _ => {}
        }
    }
    holds
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn one_pass_counts_what_the_search_counts(
        uses in proptest::collection::vec(prop_oneof![6 => Just(0u8), 2 => Just(1), 2 => Just(2)], 15),
        singles in 0u32..4,
        shuffle in any::<u64>(),
        tainted in 0usize..20,
        limit in prop_oneof![Just(1000u32), 1u32..5],
    ) {
        let node = node("n1", "leaf-1", "pod-1");
        let mut pool = if singles == 0 { modules(&node, &[0, 1, 2, 3, 4]) } else { chips(&node, 4 + singles) };
        let length = pool.devices.len();
        // Another order of the devices, and sick ones.
        pool.devices.rotate_left(usize::try_from(shuffle % length as u64).unwrap());
        if shuffle % 3 == 0 {
            pool.devices.reverse();
        }
        if let Some(device) = pool.devices.get_mut(tainted) {
            device.taints = vec![NodeTaint { key: "sick".into(), value: String::new(), effect: "NoSchedule".into() }];
        }
        let mut classes: std::collections::BTreeMap<_, _> =
            classes().into_iter().map(|c| (c.name.clone(), c)).collect();
        classes.insert("any".into(), crate::node::Class { name: "any".into(), selectors: vec![] });
        let mut catalog = crate::layout::Catalog::default();
        let mut selectors = Selectors::default();
        let (layout, own) = catalog.layout(&pool);
        let held: Vec<Held> = holds(&pool, &uses).into_iter().map(|(number, whole)| {
            let device = &pool.devices[number];
            let amount = |full: u64, part: u64| if whole { full } else { part };
            let consumed: Vec<(u32, u64)> = if device.shareable {
                vec![(catalog.texts.id("memory"), amount(64 * GI, 5 * GI)), (catalog.texts.id("cores"), amount(100, 30))]
            } else {
                vec![]
            };
            Held { device: catalog.texts.id(device.name.as_str()), consumed: consumed.into() }
        }).collect();
        let usages = vec![Usage::of(&layout, held.iter())];
        let bays = vec![Bay { layout: layout.clone(), own }];
        for demand in demands() {
            let mut preparation =
                Preparation { catalog: &mut catalog, selectors: &mut selectors, classes: &classes };
            let prepared = std::sync::Arc::new(preparation.resolve(std::slice::from_ref(&demand), &bays));
            let unit = [prepared];
            let layouts = [layout.clone()];
            let searched = count_by_search(&unit, &layouts, &usages, limit);
            let counted = count_rooms(&unit, &layouts, &usages, limit);
            let halves = |room: &Room| (0..=room.count).map(|pods| room.halves(pods)).collect::<Vec<_>>();
            prop_assert_eq!(counted.count, searched.count, "{:?}", demand);
            prop_assert_eq!(halves(&counted), halves(&searched), "{:?}", demand);
            prop_assert!(!searched.given_up);
        }
    }
}

#[test]
fn the_common_demands_take_the_one_pass() {
    let node = node("n1", "leaf-1", "pod-1");
    let classes = classes().into_iter().map(|c| (c.name.clone(), c)).collect();
    let (mut catalog, mut selectors) = (crate::layout::Catalog::default(), Selectors::default());
    let (layout, own) = catalog.layout(&modules(&node, &[0, 1]));
    let bays = [Bay { layout, own }];
    for (demand, expected) in [
        (whole(1), Some(super::Plain::One)),
        (whole(2), Some(super::Plain::Several(2))),
        (plain_chips(1), Some(super::Plain::One)),
        (pair(), Some(super::Plain::Agreeing(2))),
        (share(GI, 1), Some(super::Plain::One)),
        (even_chips(4), Some(super::Plain::Several(2))),
    ] {
        let mut preparation =
            Preparation { catalog: &mut catalog, selectors: &mut selectors, classes: &classes };
        assert_eq!(preparation.resolve(std::slice::from_ref(&demand), &bays).plain, expected, "{demand:?}");
    }
}
