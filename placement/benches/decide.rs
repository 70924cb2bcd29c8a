//! How long the decision of a batch of 64 pods takes on 5 000 nodes of 8 modules (80 000 chips), in steady state:
//! between two decisions an earlier batch goes. Times are of the thread's processor clock, so that waiting for a
//! processor does not count (what others do to its caches does); the wall clock's are printed beside them. Then what
//! 1 000 nodes with 5 000 claims take of memory.
//! `cargo bench -p vnpu-placement`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a bench"
)]

#[path = "../src/fixtures.rs"]
mod fixtures;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fixtures::*;
use vnpu_placement::demand::{ClaimSpec, PodDemand};
use vnpu_placement::{Change, Outcome, Planner};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NODES: usize = 5000;
const PODS: usize = 64;
/// Batches that lie in the cluster beside the fixed load.
const LIVE: usize = 100;
const ROUNDS: usize = 1000;
/// Decisions of which one in a hundred may take longer than the goal.
const GOAL: Duration = Duration::from_millis(1);
/// Batches that wait while another is decided.
const WAITING: usize = 64;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }
}

/// The cluster with half of its modules used, some of them by one chip.
fn cluster() -> Planner {
    let mut planner = planner(changes(NODES, 8, 16, 8));
    let mut random = Random(1);
    let mut number = 0;
    for node in 0..NODES {
        for card in 0..8 {
            let devices = match random.below(10) {
                0..4 => format!("module-{card}"),
                4 => format!("chip-{card}-0"),
                _ => continue,
            };
            number += 1;
            planner.update(Change::Claim(allocated(number, &format!("node-{node}"), &[&devices])));
        }
    }
    planner
}

/// One decision by two clocks.
#[derive(Clone, Copy)]
struct Took {
    processor: Duration,
    wall: Duration,
}

fn processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs().try_into().unwrap())
}

fn percentiles(name: &str, times: &[Took]) {
    let at = |clock: fn(&Took) -> Duration, share: f64| {
        let mut sorted: Vec<Duration> = times.iter().map(clock).collect();
        sorted.sort();
        sorted[((sorted.len() - 1) as f64 * share) as usize]
    };
    let by_processor = |took: &Took| took.processor;
    let by_wall = |took: &Took| took.wall;
    let judged = if at(by_processor, 0.99) <= GOAL { "met" } else { "MISSED" };
    println!(
        "{name:<40} p50 {:>8.1?}  p99 {:>8.1?} (goal {GOAL:?} {judged})  max {:>8.1?}  wall p50 {:>8.1?}  p99 {:>8.1?}  max {:>8.1?}",
        at(by_processor, 0.5),
        at(by_processor, 0.99),
        at(by_processor, 1.0),
        at(by_wall, 0.5),
        at(by_wall, 0.99),
        at(by_wall, 1.0),
    );
}

/// What the process holds in memory, in KiB (`/proc/self/status`, `VmRSS`).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn memory() {
    let before = resident();
    let mut planner = Planner::default();
    classes().into_iter().for_each(|class| planner.update(Change::Class(class)));
    for number in 0..1000 {
        let node = node(
            &format!("node-{number}"),
            &format!("leaf-{}", number / 8),
            &format!("pod-{}", number / 128),
        );
        planner.update(Change::Pool(modules(&node, &[0, 1, 2, 3, 4, 5, 6, 7])));
        planner.update(Change::Node(node));
    }
    for number in 0..5000u64 {
        let (node, card) = (number % 1000, number / 1000);
        let device = format!("module-{card}");
        planner.update(Change::Claim(allocated(number, &format!("node-{node}"), &[&device])));
    }
    for (number, spec) in [whole(1), plain_chips(1), share(8 * GI, 10)].into_iter().enumerate() {
        decide(&mut planner, &format!("memory-{number}"), spec);
    }
    println!("1000 nodes x 8 modules, 5000 claims: {} MiB more than before", (resident() - before) / 1024);
}

fn decide(planner: &mut Planner, key: &str, spec: ClaimSpec) -> (Took, bool) {
    decide_for(planner, key, demand(vec![spec]))
}

fn decide_for(planner: &mut Planner, key: &str, demand: PodDemand) -> (Took, bool) {
    // It is looked at whoever waits.
    let demand = Arc::new(demand);
    let batch = batch_of(key, vec![demand; PODS]);
    planner.submit(vnpu_placement::batch::Batch { priority: 1, ..batch }, at(0));
    let (start, from) = (Instant::now(), processor());
    let decisions = planner.decide(at(0));
    let time = Took { processor: processor().saturating_sub(from), wall: start.elapsed() };
    let placed = decisions.iter().any(|d| matches!(d.outcome, Outcome::Placed(_)));
    if !placed {
        planner.withdraw(&vnpu_placement::batch::BatchKey(key.into()));
    }
    (time, placed)
}

fn steady(name: &str, specs: &[ClaimSpec], mut planner: Planner) {
    let mut live: VecDeque<String> = VecDeque::new();
    let (mut times, mut refused) = (Vec::new(), 0);
    for round in 0..ROUNDS + LIVE {
        let key = format!("{name}-{round}");
        let (time, placed) = decide(&mut planner, &key, specs[round % specs.len()].clone());
        if round >= LIVE {
            times.push(time);
        }
        if placed {
            live.push_back(key);
        } else {
            refused += 1;
        }
        if live.len() > LIVE {
            let gone = live.pop_front().unwrap();
            (0..PODS).for_each(|pod| planner.update(Change::PodGone(format!("{gone}-{pod}"))));
        }
    }
    percentiles(name, &times);
    if refused > 0 {
        println!("  {refused} batches did not fit");
    }
}

/// Kinds of pods of which each is met once: what `demand` makes of a number that grows.
fn never_seen(name: &str, demand: impl Fn(u64) -> PodDemand) {
    let mut planner = cluster();
    let mut times = Vec::new();
    decide(&mut planner, "first", whole(1));
    for round in 0..200 {
        times.push(decide_for(&mut planner, &format!("new-{round}"), demand(round)).0);
    }
    percentiles(name, &times);
}

/// The same devices for pods that want another amount of processors each time.
fn with_processors(claim: ClaimSpec) -> impl Fn(u64) -> PodDemand {
    move |round| {
        let resources = resources(&[("cpu", 1000 + round), ("memory", GI), ("pods", 1)]);
        PodDemand { resources, ..demand(vec![claim.clone()]) }
    }
}

/// The first decision after a start, with all that is put off until then.
fn first() {
    let times: Vec<Took> = (0..5).map(|_| decide(&mut cluster(), "first", whole(1)).0).collect();
    percentiles("first decision of all (5 starts)", &times);
}

/// A cluster where batches wait that are too large for what is left, of eight kinds.
fn crowded() -> Planner {
    let mut planner = cluster();
    let kinds =
        [whole(8), whole(7), whole(6), plain_chips(16), plain_chips(15), plain_chips(14), even_chips(16)];
    for number in 0..WAITING {
        let claim = kinds[number % kinds.len()].clone();
        let batch = batch(&format!("waiting-{number}"), 40 * PODS, claim);
        planner.submit(batch, at(0));
    }
    planner.decide(at(0));
    assert_eq!(planner.waiting_count(), WAITING, "nobody of them fits");
    planner
}

fn main() {
    // `cargo bench ... -- chip` runs what has that in its name.
    let wanted: Option<String> = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let run = |name: &str| wanted.as_ref().is_none_or(|wanted| name.contains(wanted.as_str()));
    if run("memory") {
        memory();
    }
    println!("{PODS} pods on {NODES} nodes x 8 modules, one thread");
    if run("first") {
        first();
    }
    let share_of = share(8 * GI, 10);
    let several = [
        whole(1),
        whole(2),
        plain_chips(1),
        pair(),
        even_chips(4),
        share_of.clone(),
        share(4 * GI, 5),
        whole(4),
    ];
    for (name, specs) in [
        ("1 module", vec![whole(1)]),
        ("2 modules", vec![whole(2)]),
        ("8 modules (no room)", vec![whole(8)]),
        ("1 chip", vec![plain_chips(1)]),
        ("2 chips of a module", vec![pair()]),
        ("4 chips, else 2 modules", vec![even_chips(4)]),
        ("share of a chip", vec![share_of]),
        ("eight shapes in turn", several.to_vec()),
    ] {
        if run(name) {
            steady(name, &specs, cluster());
        }
    }
    if run("64 wait") {
        steady("1 module, while 64 wait", &[whole(1)], crowded());
    }
    for (name, claim) in [("modules", whole(2)), ("pairs", pair()), ("else", even_chips(4))] {
        let name = format!("never seen: {name}, other processors");
        if run(&name) {
            never_seen(&name, with_processors(claim));
        }
    }
    if run("never seen: shares") {
        // An amount that no earlier batch asked for.
        never_seen("never seen: shares", |round| demand(vec![share((1 + round % 60) * GI, 1 + round / 60)]));
    }
    if run("never seen: a module and a chip") {
        let mut both = whole(1);
        both.requests.push(request("one", vec![ask("npu.vnpu.dev", 1)]));
        never_seen("never seen: a module and a chip", with_processors(both));
    }
}
