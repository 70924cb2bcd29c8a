//! Tables of what the allocator does, as it was seen to do it in Kubernetes 1.36.3 and 1.37.

use std::collections::BTreeMap;

use super::*;
use crate::demand::{ClaimSpec, Constraint, Count};
use crate::fixtures::*;
use crate::node::{Class, NodeTaint, Pool};
use crate::prepare::{Bay, Preparation};
use crate::selector::Selectors;
use crate::usage::Held;

/// The devices that one pod with these claims gets, with some devices of the pool held in full.
fn devices(pool: &Pool, held: &[&str], claims: &[ClaimSpec]) -> Option<Vec<String>> {
    let mut classes: BTreeMap<String, Class> = classes().into_iter().map(|c| (c.name.clone(), c)).collect();
    classes.insert("any".into(), Class { name: "any".into(), selectors: vec![] });
    let (mut catalog, mut selectors) = (crate::layout::Catalog::default(), Selectors::default());
    let (layout, own) = catalog.layout(pool);
    let amounts = |device: &&str| {
        let full =
            [(catalog.texts.find("memory").unwrap(), 64 * GI), (catalog.texts.find("cores").unwrap(), 100)];
        let consumed = if device.starts_with("chip") { full.to_vec() } else { vec![] };
        Held { device: catalog.texts.find(device).unwrap(), consumed: consumed.into() }
    };
    let held: Vec<Held> = held.iter().map(amounts).collect();
    let bays = [Bay { layout: layout.clone(), own }];
    let prepared = Preparation { catalog: &mut catalog, selectors: &mut selectors, classes: &classes }
        .resolve(claims, &bays);
    let mut usages = vec![Usage::of(&layout, held.iter())];
    let before = usages.clone();
    match place(&prepared, &[layout], &mut usages) {
        (Found::Yes, picks) => {
            let name = |pick: &Pick| pool.devices[usize::from(pick.device)].name.clone();
            Some(picks.iter().map(name).collect())
        }
        (found, _) => {
            assert_eq!(found, Found::No);
            assert_eq!(usages, before, "a failed search leaves nothing behind");
            None
        }
    }
}

fn pool(cards: &[u32]) -> Pool {
    modules(&node("n1", "", ""), cards)
}

#[test]
fn modules_and_chips_get_what_the_scheduler_gives() {
    let mut three = whole(1);
    three.requests.push(request("one", vec![ask("npu.vnpu.dev", 1)]));
    let (m0, m1) = ("module-0", "module-1");
    for (held, claim, expected) in [
        (&[][..], whole(1), Some(&[m0][..])),
        (&[m0], whole(1), Some(&[m1])),
        (&["chip-0-1"], whole(1), Some(&[m1])),
        (&["chip-0-1", m1], whole(1), None),
        (&[m0], plain_chips(1), Some(&["chip-1-0"])),
        (&["chip-0-0"], plain_chips(2), Some(&["chip-0-1", "chip-1-0"])),
        (&["chip-0-0"], pair(), Some(&["chip-1-0", "chip-1-1"])),
        (&["chip-0-0", "chip-1-1"], pair(), None),
        (&[], three.clone(), Some(&[m0, "chip-1-0"])),
        (&["chip-0-0"], three.clone(), Some(&[m1, "chip-0-1"])),
        (&["chip-0-0", "chip-1-0"], three, None),
        (&[], even_chips(4), Some(&[m0, m1])),
        (&["chip-0-0"], even_chips(4), None),
        (&["chip-0-0"], share(GI, 1), Some(&["chip-0-1"])),
    ] {
        let got = devices(&pool(&[0, 1]), held, std::slice::from_ref(&claim));
        let expected: Option<Vec<String>> =
            expected.map(|names| names.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(got, expected, "{held:?} {claim:?}");
    }
}

#[test]
fn single_die_hardware_takes_the_second_alternative_and_pairs_freely() {
    let pool = chips(&node("n1", "", ""), 3);
    let named = |names: &[&str]| Some(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
    assert_eq!(devices(&pool, &[], &[even_chips(2)]), named(&["chip-0-0", "chip-1-0"]));
    assert_eq!(devices(&pool, &["chip-1-0"], &[pair()]), named(&["chip-0-0", "chip-2-0"]));
    assert_eq!(devices(&pool, &[], &[even_chips(4)]), None);
    assert_eq!(devices(&pool, &[], &[whole(1)]), None);
}

#[test]
fn claims_of_one_pod_share_chips_but_not_whole_ones() {
    let one = pool(&[0]);
    let both = devices(&one, &[], &[share(8 * GI, 10), share(8 * GI, 10)]).unwrap();
    assert_eq!(both, ["chip-0-0", "chip-0-0"], "two shares go to one chip");
    assert_eq!(devices(&one, &[], &[plain_chips(1), share(GI, 1)]).unwrap(), ["chip-0-0", "chip-0-1"]);
    assert_eq!(devices(&one, &[], &[whole(1), share(GI, 1)]), None);
    assert_eq!(devices(&one, &[], &[share(GI, 1), whole(1)]), None);
    let mut shares = share(8 * GI, 10);
    shares.requests[0].alternatives[0].count = Count::Exactly(2);
    assert_eq!(
        devices(&one, &[], &[shares]).unwrap(),
        ["chip-0-0", "chip-0-1"],
        "one request never gets one twice"
    );
}

#[test]
fn constraints_hold_over_requests() {
    let two = |distinct: bool| ClaimSpec {
        requests: vec![
            request("a", vec![ask("npu.vnpu.dev", 1)]),
            request("b", vec![ask("npu.vnpu.dev", 1)]),
        ],
        constraints: vec![Constraint { distinct, ..same_module() }],
    };
    let got = devices(&pool(&[0, 1]), &["chip-0-0"], &[two(false)]).unwrap();
    assert_eq!(got, ["chip-1-0", "chip-1-1"], "the first choice is taken back");
    assert_eq!(devices(&pool(&[0, 1]), &[], &[two(true)]).unwrap(), ["chip-0-0", "chip-1-0"]);
    assert_eq!(devices(&pool(&[0]), &[], &[two(true)]), None);
    let absent = ClaimSpec {
        constraints: vec![Constraint { attribute: "vnpu.dev/absent".into(), ..same_module() }],
        ..plain_chips(1)
    };
    assert_eq!(devices(&pool(&[0]), &[], &[absent]), None, "an absent attribute never matches");
    let unqualified = ClaimSpec {
        constraints: vec![Constraint { attribute: "module".into(), ..same_module() }],
        ..plain_chips(2)
    };
    assert!(devices(&pool(&[0]), &[], &[unqualified]).is_some());
    // One value per request is kept: over several devices of one request the constraint is as the scheduler's, weak.
    let weak =
        ClaimSpec { constraints: vec![Constraint { distinct: true, ..same_module() }], ..plain_chips(3) };
    let mut shuffled = pool(&[0, 1]);
    shuffled.devices.swap(2, 4);
    assert_eq!(devices(&shuffled, &[], &[weak]).unwrap(), ["chip-0-0", "chip-1-0", "chip-0-1"]);
}

#[test]
fn all_admin_capacities_and_taints() {
    let mut all = whole(1);
    all.requests[0].alternatives[0].count = Count::All;
    assert_eq!(devices(&pool(&[0, 1]), &[], &[all.clone()]).unwrap(), ["module-0", "module-1"]);
    assert_eq!(devices(&pool(&[0, 1]), &["module-0"], &[all]), None, "all means the ones in use too");
    let mut chips = plain_chips(1);
    chips.requests[0].alternatives[0].count = Count::All;
    let got = devices(&pool(&[0, 1]), &["chip-0-0"], &[chips]).unwrap();
    assert_eq!(got, ["chip-0-1", "chip-1-0", "chip-1-1"], "full shared devices are left out");

    let mut admin = plain_chips(1);
    admin.requests[0].alternatives[0].admin_access = true;
    let got = devices(&pool(&[0]), &[], &[admin.clone(), plain_chips(2)]).unwrap();
    assert_eq!(got, ["chip-0-0", "chip-0-0", "chip-0-1"], "administrative access uses nothing up");
    assert_eq!(
        devices(&pool(&[0]), &["chip-0-0", "chip-0-1"], &[admin]),
        None,
        "nor does it pass by capacities"
    );

    for (key, fits) in [("memory", true), ("vnpu.dev/memory", false), ("absent", false)] {
        let mut keyed = share(GI, 1);
        keyed.requests[0].alternatives[0].capacity = BTreeMap::from([(key.to_owned(), GI)]);
        assert_eq!(devices(&pool(&[0]), &[], &[keyed]).is_some(), fits, "capacity {key}");
    }
    let mut tainted = pool(&[0]);
    let taint = NodeTaint { key: "sick".into(), value: String::new(), effect: "NoSchedule".into() };
    tainted.devices[1].taints = vec![taint];
    assert_eq!(devices(&tainted, &[], &[plain_chips(1)]).unwrap(), ["chip-0-1"]);
    let mut tolerant = plain_chips(1);
    tolerant.requests[0].alternatives[0].tolerations =
        vec![crate::demand::Toleration { key: "sick".into(), value: None, effect: String::new() }];
    assert_eq!(devices(&tainted, &[], &[tolerant]).unwrap(), ["chip-0-0"]);
}

#[test]
fn pools_that_the_allocator_does_not_trust() {
    let mut unknown_counter = pool(&[0]);
    unknown_counter.counters.pop();
    assert_eq!(devices(&unknown_counter, &[], &[plain_chips(1)]), None);
    let mut twice = pool(&[0]);
    let again = twice.devices[1].clone();
    twice.devices.push(again);
    assert_eq!(devices(&twice, &[], &[plain_chips(1)]), None);
    let mut overdrawn = pool(&[0, 1]);
    overdrawn.counters[0].2 = 0;
    assert_eq!(
        devices(&overdrawn, &["chip-0-0"], &[plain_chips(1)]),
        None,
        "one counter below zero blocks them all"
    );
    assert_eq!(devices(&pool(&[0]), &[], &[spec(vec![request("a", vec![ask("nobody", 1)])])]), None);
}

#[test]
fn firstavailable_comes_back_to_its_second_alternative() {
    // The first way serves this request, but not the one after it.
    let ways = request("npu", vec![ask("npu-module.vnpu.dev", 1), ask("npu.vnpu.dev", 1)]);
    let claim = spec(vec![ways, request("more", vec![ask("npu.vnpu.dev", 1)])]);
    assert_eq!(devices(&pool(&[0]), &[], &[claim]).unwrap(), ["chip-0-0", "chip-0-1"]);
    let both_ways_out_of_devices = spec(vec![request("npu", vec![ask("any", 9), ask("any", 8)])]);
    assert_eq!(devices(&pool(&[0, 1]), &[], &[both_ways_out_of_devices]), None);
}

#[test]
fn a_search_without_end_is_given_up() {
    let sixteen: Vec<u32> = (0..8).collect();
    let mut claim = spec((0..8).map(|i| request(&format!("r{i}"), vec![ask("npu.vnpu.dev", 2)])).collect());
    claim.constraints =
        (0..8).map(|i| Constraint { requests: vec![format!("r{i}")], ..same_module() }).collect();
    let (mut catalog, mut selectors) = (crate::layout::Catalog::default(), Selectors::default());
    let classes = classes().into_iter().map(|c| (c.name.clone(), c)).collect();
    let (layout, own) = catalog.layout(&pool(&sixteen));
    let bays = [Bay { layout: layout.clone(), own }];
    let prepared = Preparation { catalog: &mut catalog, selectors: &mut selectors, classes: &classes }
        .resolve(&[claim], &bays);
    let used = Held { device: catalog.texts.find("module-0").unwrap(), consumed: Box::default() };
    let mut usages = vec![Usage::of(&layout, std::iter::once(&used))];
    assert_eq!(place(&prepared, &[layout], &mut usages).0, Found::GivenUp);
}
