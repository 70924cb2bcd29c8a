//! The scheduler of compute on virtual time: what each claim gets of a chip, under every mix of kernels and in both
//! disciplines. The code under test is the one that runs in the interposer; the chip and the host are models.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may
#![allow(unreachable_pub)] // modules of this test only
#![cfg(not(loom))]

#[path = "compute/host.rs"]
mod host;

use std::sync::atomic::{AtomicI64, Ordering};

use host::Kernels::{self, Decode, Fixed, Graphs, Mix};
use host::{Tenant, World};
use proptest::prelude::*;
use standin_executor::Discipline;
use vnpu_quota_abi::bucket;
use vnpu_quota_abi::gate::{Answer, Gate, Tuning};
use vnpu_quota_abi::lease;
use vnpu_quota_abi::line::Mode;

const SECOND: u64 = 1_000_000_000;

/// What a run of ten seconds gave, in percent of the chip.
#[derive(Debug)]
struct Outcome {
    got: Vec<f64>,
    /// Largest distance from the share in any one second, per process.
    worst: Vec<f64>,
    busy: f64,
}

fn percent(busy: u64, span: u64) -> f64 {
    busy as f64 / span as f64 * 100.0
}

fn run(discipline: Discipline, tenants: &[Tenant], seed: u64) -> Outcome {
    let mut world = World::new(discipline, tenants, Tuning::DEFAULT, seed);
    let all = |world: &World| (0..tenants.len()).map(|p| world.busy(p)).collect::<Vec<_>>();
    // The first two seconds have the start in them: everybody's saved-up burst.
    let mut history = Vec::new();
    for tenth in 0..=100 {
        world.run_to(2 * SECOND + tenth * SECOND / 10);
        history.push(all(&world));
    }
    let share = |p: usize| f64::from(tenants[p].share_milli) / 10.0;
    let off = |p: usize, w: &[Vec<u64>]| (percent(w[10][p] - w[0][p], SECOND) - share(p)).abs();
    let got: Vec<f64> =
        (0..tenants.len()).map(|p| percent(history[100][p] - history[0][p], 10 * SECOND)).collect();
    let worst =
        (0..tenants.len()).map(|p| history.windows(11).map(|w| off(p, w)).fold(0.0, f64::max)).collect();
    Outcome { busy: got.iter().sum(), got, worst }
}

/// The figures that the product promises for tenants that are always busy.
fn promised(discipline: Discipline, tenants: &[Tenant], seed: u64) -> Result<(), String> {
    let outcome = run(discipline, tenants, seed);
    let shares: Vec<f64> = tenants.iter().map(|t| f64::from(t.share_milli) / 10.0).collect();
    let longest = tenants.iter().map(|t| percent(t.kernels.longest(), SECOND)).fold(0.0, f64::max);
    let wanted = shares.iter().sum::<f64>().min(100.0);
    let close = outcome.got.iter().zip(&shares).all(|(got, share)| (got - share).abs() <= 1.0);
    let steady = outcome.worst.iter().all(|worst| *worst <= longest.max(3.0));
    let busy = outcome.busy >= wanted * 0.97;
    let show = |v: &[f64]| v.iter().map(|x| format!("{x:.1}")).collect::<Vec<_>>().join("/");
    let load: Vec<_> = tenants.iter().map(|t| (t.share_milli, t.kernels)).collect();
    let told = format!(
        "{discipline:?} {load:?}: got {} worst {} busy {:.1}",
        show(&outcome.got),
        show(&outcome.worst),
        outcome.busy
    );
    if close && steady && busy { Ok(()) } else { Err(told) }
}

fn hard(load: &[(u32, Kernels)]) -> Vec<Tenant> {
    (0..).zip(load).map(|(i, (percent, kernels))| Tenant::hard(i, *percent, *kernels)).collect()
}

const DISCIPLINES: [Discipline; 2] = [Discipline::Kernels, Discipline::Slices];

#[test]
fn busy_tenants_get_their_shares_whatever_their_kernels() {
    let kinds = [Fixed(100), Fixed(2000), Decode, Mix];
    let mut loads = vec![
        vec![(10, Mix), (90, Fixed(20_000))],
        vec![(30, Fixed(20_000)), (70, Decode)],
        vec![(20, Mix), (60, Mix)],
        vec![(10, Decode), (30, Mix)],
        vec![(10, Mix), (20, Mix), (30, Mix), (40, Mix)],
        vec![(10, Decode), (20, Mix), (30, Fixed(100)), (40, Fixed(2000))],
        vec![(30, Graphs(20_000)), (70, Decode)],
        vec![(10, Graphs(5_000)), (90, Graphs(20_000))],
        vec![(50, Graphs(1_000)), (50, Mix)],
    ];
    for (small, large) in [(30, 70), (10, 90), (1, 99)] {
        for first in kinds {
            loads.extend(kinds.map(|second| vec![(small, first), (large, second)]));
        }
    }
    let mut failed = Vec::new();
    for load in &loads {
        for discipline in DISCIPLINES {
            failed.extend(promised(discipline, &hard(load), 1).err());
        }
    }
    assert!(failed.is_empty(), "{} of {}: {failed:#?}", failed.len(), loads.len() * 2);
}

/// Between two marks there is never more than one graph, whatever kernels make room for.
#[test]
fn a_graph_is_decided_on_by_itself() {
    let tenants = hard(&[(20, Graphs(50_000))]);
    let mut world = World::new(Discipline::Kernels, &tenants, Tuning::DEFAULT, 16);
    let (mut before, mut longest) = (0, 0);
    for step in 1..20_000 {
        world.run_to(step * SECOND / 2000);
        // What is charged at once is at most what is between two marks.
        let charged = world.chip.entry(0).unwrap().busy_ns.load(Ordering::Relaxed);
        longest = longest.max(charged - before);
        before = charged;
    }
    assert!((50_000_000..51_500_000).contains(&longest), "{longest}");
}

#[test]
fn alone_a_claim_gets_its_cap() {
    for percent in (5..=95).step_by(10) {
        for kernels in [Decode, Mix, Fixed(2000)] {
            let outcome = run(Discipline::Kernels, &hard(&[(percent, kernels)]), 2);
            let off = (outcome.got[0] - f64::from(percent)).abs();
            assert!(off <= 1.0, "{percent} % of {kernels:?}: {outcome:?}");
        }
    }
    let outcome = run(Discipline::Kernels, &hard(&[(1, Fixed(2000))]), 2);
    assert!((outcome.got[0] - 1.0).abs() <= 0.2, "{outcome:?}");
    let outcome = run(Discipline::Kernels, &hard(&[(100, Mix)]), 2);
    assert!(outcome.got[0] >= 99.5, "{outcome:?}");
}

fn kernels() -> impl Strategy<Value = Kernels> {
    prop_oneof![Just(Decode), Just(Mix), (50..3000_u64).prop_map(Fixed)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_busy_tenants_get_their_shares(
        weights in proptest::collection::vec((1..100_u32, kernels()), 2..5),
        sum in 40..=100_u32,
        slices in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let total: u32 = weights.iter().map(|w| w.0).sum();
        let load: Vec<_> = weights.iter().map(|(w, k)| ((w * sum / total).max(1), *k)).collect();
        let discipline = if slices { Discipline::Slices } else { Discipline::Kernels };
        let outcome = promised(discipline, &hard(&load), seed);
        prop_assert!(outcome.is_ok(), "{outcome:?}");
    }
}

/// What each process had between two times, in percent of the chip.
fn between(world: &mut World, count: usize, from: u64, to: u64) -> Vec<f64> {
    world.run_to(from);
    let before: Vec<u64> = (0..count).map(|p| world.busy(p)).collect();
    world.run_to(to);
    (0..count).map(|p| percent(world.busy(p) - before[p], to - from)).collect()
}

#[test]
fn the_chip_goes_on_when_its_owner_is_killed() {
    let tenants = hard(&[(50, Mix), (50, Mix)]);
    let mut world = World::new(Discipline::Kernels, &tenants, Tuning::DEFAULT, 3);
    world.run_to(SECOND);
    while !world.gate(0).holds() {
        let now = world.now();
        world.run_to(now + 100_000);
    }
    world.kill(0);
    let killed = world.now();
    // Three leases of grace, then the credit that the waiting saved up.
    let at_once = between(&mut world, 2, killed + SECOND / 50, killed + SECOND / 25);
    assert!(at_once[1] > 50.0, "{at_once:?}");
    let got = between(&mut world, 2, killed + SECOND / 4, killed + SECOND);
    assert!((got[1] - 50.0).abs() <= 1.0, "{got:?}");
}

#[test]
fn a_stopped_owner_does_not_compute_for_free_and_holds_nobody_up() {
    let tenants = hard(&[(30, Fixed(2000)), (70, Mix)]);
    let mut world = World::new(Discipline::Slices, &tenants, Tuning::DEFAULT, 4);
    for round in 1..=20 {
        world.run_to(round * SECOND / 4);
        while !world.gate(0).holds() {
            let now = world.now();
            world.run_to(now + 50_000);
        }
        world.stop(0, SECOND / 10);
    }
    let got = between(&mut world, 2, 5 * SECOND + SECOND / 2, 10 * SECOND);
    assert!(got[0] <= 31.0 && got[1] >= 68.0, "{got:?}");
    let all = percent(world.busy(0), 10 * SECOND);
    assert!(all <= 31.0, "{all}");
}

#[test]
fn a_changed_share_holds_within_a_lease() {
    for (before, after) in
        [((30, 70), (70, 30)), ((70, 30), (30, 70)), ((10, 90), (60, 40)), ((90, 10), (5, 95))]
    {
        for (kinds, discipline) in
            [([Mix, Decode], DISCIPLINES[0]), ([Fixed(100), Fixed(2000)], DISCIPLINES[1])]
        {
            let tenants = hard(&[(before.0, kinds[0]), (before.1, kinds[1])]);
            let mut world = World::new(discipline, &tenants, Tuning::DEFAULT, 5);
            world.run_to(2 * SECOND);
            world.set_share(0, after.0 * 10);
            world.set_share(1, after.1 * 10);
            let told = format!("{before:?} to {after:?} {kinds:?}");
            let wanted = [f64::from(after.0), f64::from(after.1)];
            // From the change on: what is within a lease or two is seen here as a point.
            let got = between(&mut world, 2, 2 * SECOND, 3 * SECOND);
            let off = |got: &[f64]| got.iter().zip(wanted).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
            assert!(off(&got) <= 3.0, "first second, {told}: {got:?}");
            let got = between(&mut world, 2, 3 * SECOND, 13 * SECOND);
            assert!(off(&got) <= 1.0, "then, {told}: {got:?}");
        }
    }
}

#[test]
fn debt_from_before_a_change_costs_what_it_cost() {
    for (before, after) in [(10, 900), (900, 10), (300, 700), (700, 300), (300, 0), (0, 300)] {
        let tenants = hard(&[(1, Mix)]);
        let world = World::new(Discipline::Kernels, &tenants, Tuning::DEFAULT, 1);
        let tat = &world.chip.entry(0).unwrap().tat;
        let now = 7_000 * SECOND as i64;
        tat.store(bucket::word(now, before), Ordering::Relaxed);
        bucket::charge(tat, now, 20_000_000, before.max(1));
        bucket::reprice(tat, now, after.max(1));
        let wall = -bucket::credit(tat, now);
        let wanted = bucket::wall(20_000_000, after.max(1));
        assert!((wall - wanted).abs() <= 128_000, "{before} to {after}: {wall} of {wanted}");
    }
}

#[test]
fn whoever_was_in_debt_waits_no_longer_than_the_new_share_asks() {
    // One kernel of 100 ms at one percent is ten seconds of debt; at fifty percent it is 200 ms.
    let tenants = hard(&[(1, Fixed(100_000))]);
    let mut world = World::new(Discipline::Kernels, &tenants, Tuning::DEFAULT, 1);
    world.run_to(SECOND);
    assert!(bucket::credit(&world.chip.entry(0).unwrap().tat, world.clock()) < -SECOND.cast_signed());
    world.set_share(0, 500);
    world.run_to(SECOND + Tuning::DEFAULT.lease + 200_000);
    let debt = -bucket::credit(&world.chip.entry(0).unwrap().tat, world.clock());
    assert!(debt < SECOND.cast_signed() / 5, "repriced while it waited: {debt}");
    let got = between(&mut world, 1, SECOND + SECOND / 4, 3 * SECOND + SECOND / 4);
    assert!((got[0] - 50.0).abs() <= 5.0, "{got:?}");
}

proptest! {
    #[test]
    fn debt_that_is_moved_between_shares_stays_the_same_device_time(
        distance in 64_i64..1_000_000_000_000,
        shares in proptest::collection::vec(1..=bucket::WHOLE, 1..20),
        now in 0..1_i64 << 57,
    ) {
        let tat = AtomicI64::new(bucket::word(now + distance, bucket::WHOLE));
        for share in &shares {
            bucket::reprice(&tat, now, *share);
        }
        bucket::reprice(&tat, now, bucket::WHOLE);
        let moved = -bucket::credit(&tat, now) - distance;
        // One step of 64 ns of wall time each, and one for the moments themselves.
        let most = 64 * (shares.len() as i64 + 3);
        prop_assert!((-128..=most).contains(&moved), "{distance} became {}", distance + moved);
    }
}

#[test]
fn an_elastic_claim_takes_what_is_free_and_gives_way() {
    let mut tenants = hard(&[(30, Mix), (70, Mix)]);
    tenants[0].mode = Mode::Elastic;
    tenants[1].wants = (3 * SECOND, 6 * SECOND);
    let mut world = World::new(Discipline::Kernels, &tenants, Tuning::DEFAULT, 6);
    let alone = between(&mut world, 2, SECOND, 3 * SECOND);
    assert!(alone[0] >= 98.0, "{alone:?}");
    let beside = between(&mut world, 2, 3 * SECOND + SECOND / 10, 6 * SECOND);
    assert!((beside[1] - 70.0).abs() <= 2.0, "{beside:?}");
    let again = between(&mut world, 2, 6 * SECOND + SECOND / 10, 8 * SECOND);
    assert!(again[0] >= 98.0, "{again:?}");
}

#[test]
fn best_effort_gets_what_nobody_with_a_share_wants() {
    let mut tenants = hard(&[(40, Mix), (1, Decode)]);
    tenants[1] = Tenant { share_milli: 0, mode: Mode::BestEffort, ..tenants[1] };
    let mut world = World::new(Discipline::Slices, &tenants, Tuning::DEFAULT, 7);
    let got = between(&mut world, 2, SECOND, 6 * SECOND);
    assert!((got[0] - 40.0).abs() <= 1.0 && got[1] >= 55.0, "{got:?}");
}

#[test]
fn priority_changes_the_order_and_no_share() {
    let mut tenants = hard(&[(60, Mix), (40, Decode)]);
    tenants[1].priority = 10;
    let mut world = World::new(Discipline::Kernels, &tenants, Tuning::DEFAULT, 8);
    let got = between(&mut world, 2, SECOND, 6 * SECOND);
    assert!((got[0] - 60.0).abs() <= 1.5 && (got[1] - 40.0).abs() <= 1.0, "{got:?}");
}

#[test]
fn processes_of_one_claim_share_its_bucket() {
    let one = hard(&[(30, Mix), (70, Mix)]);
    let tenants = [one[0], one[0], one[0], one[1]];
    let mut world = World::new(Discipline::Kernels, &tenants, Tuning::DEFAULT, 9);
    let got = between(&mut world, 4, SECOND, 6 * SECOND);
    let claim: f64 = got[..3].iter().sum();
    assert!((claim - 30.0).abs() <= 1.5 && (got[3] - 70.0).abs() <= 2.0, "{got:?}");
    assert!(got[..3].iter().all(|g| *g >= 5.0), "all of them run: {got:?}");
}

#[test]
fn processes_of_one_claim_take_turns_where_nothing_else_stops_them() {
    let whole = hard(&[(100, Mix)]);
    let tenants = [whole[0], whole[0]];
    let mut world = World::new(Discipline::Kernels, &tenants, Tuning::DEFAULT, 12);
    let got = between(&mut world, 2, SECOND, 3 * SECOND);
    assert!(got[0] + got[1] >= 97.0 && got.iter().all(|g| *g >= 40.0), "{got:?}");
}

#[test]
fn rubbish_in_the_region_delays_launches_and_never_stops_them() {
    for (tat, lease) in [(i64::MAX, 0), (0, u64::MAX), (i64::MIN, 0xffff_0002_0000_0000)] {
        let tenants = hard(&[(50, Mix)]);
        let mut world = World::new(Discipline::Kernels, &tenants, Tuning::DEFAULT, 10);
        world.run_to(SECOND);
        world.chip.entry(0).unwrap().tat.store(tat, Ordering::Relaxed);
        world.chip.lease().unwrap().store(lease, Ordering::Relaxed);
        let before = world.busy(0);
        world.run_to(30 * SECOND);
        assert!(world.busy(0) > before, "tat {tat:x} lease {lease:x}: {:?}", world.gate(0));
    }
}

#[test]
fn credit_that_somebody_wrote_ends_with_the_next_decision() {
    let tenants = hard(&[(20, Mix), (80, Mix)]);
    let mut world = World::new(Discipline::Kernels, &tenants, Tuning::DEFAULT, 14);
    world.run_to(SECOND);
    world.chip.entry(0).unwrap().tat.store(bucket::word(-1_000 * SECOND as i64, 200), Ordering::Relaxed);
    // A second of wall time is believed: 200 ms of the chip.
    let before = world.busy(0);
    world.run_to(6 * SECOND);
    let got = (world.busy(0) - before) as f64 / (5 * SECOND) as f64;
    assert!((0.20..0.25).contains(&got), "{got}");
}

#[test]
fn a_lease_is_kept_for_a_launch_that_is_on_its_way() {
    let tenants = hard(&[(100, Mix)]);
    let world = World::new(Discipline::Kernels, &tenants, Tuning::DEFAULT, 15);
    let (chip, terms) = (&world.chip, tenants[0].terms());
    let mut gate = Gate::new(Tuning::DEFAULT);
    let mut now = SECOND;
    assert_eq!(gate.ask(chip, &terms, now), Answer::Mark);
    assert!(gate.marked(now));
    gate.finished(chip, &terms, now, 0);
    assert!(matches!(gate.ask(chip, &terms, now), Answer::Go(_)));
    // The thread is inside the vendor's function for 20 ms, far longer than an idle lease is kept.
    for _ in 0..200 {
        gate.under_way(now, 1);
        assert!(matches!(gate.look(chip, &terms, now), Answer::Wait(_)) && gate.holds(), "{gate:?}");
        now += SECOND / 10_000;
    }
    gate.launched(now, 1);
    gate.under_way(now, 0);
    assert_eq!(gate.look(chip, &terms, now), Answer::Mark, "and is measured when it has come");
    assert!(gate.marked(now));
    gate.finished(chip, &terms, now, 1_000_000);
    assert_eq!(gate.busy_ns, 1_000_000);
    now += Tuning::DEFAULT.idle;
    assert_eq!(gate.look(chip, &terms, now), Answer::Rest);
    // One that was ended on its way holds nothing for ever.
    assert_eq!(gate.ask(chip, &terms, now), Answer::Mark);
    assert!(gate.marked(now));
    gate.finished(chip, &terms, now, 0);
    assert!(matches!(gate.ask(chip, &terms, now), Answer::Go(_)));
    for _ in 0..40 {
        gate.under_way(now, 1);
        let _ = gate.look(chip, &terms, now);
        now += SECOND / 10;
    }
    assert!(!gate.holds(), "{gate:?}");
}

#[test]
fn events_that_cannot_be_recorded_make_compute_cheaper_and_never_dearer() {
    for lost in [1, 2, 3, 7] {
        let tenants = hard(&[(20, Mix)]);
        let mut world = World::new(Discipline::Kernels, &tenants, Tuning::DEFAULT, 13);
        world.lost_marks = lost;
        let got = between(&mut world, 1, SECOND, 6 * SECOND);
        assert!(got[0] >= 19.0, "one of {lost} is lost: {got:?}");
    }
}

#[test]
fn an_idle_process_gives_the_lease_back_by_itself() {
    let mut tenants = hard(&[(100, Mix)]);
    tenants[0].wants = (0, SECOND);
    let mut world = World::new(Discipline::Kernels, &tenants, Tuning::DEFAULT, 11);
    world.run_to(SECOND + SECOND / 50);
    assert!(!world.gate(0).holds() && world.is_idle(0));
    assert_eq!(lease::read(world.chip.lease().unwrap()).owner, None);
    assert_eq!(world.gate(0).forced_admits, 0);
}
