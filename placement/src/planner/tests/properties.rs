//! What holds for every cluster and every batch.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;
use crate::demand::ClaimSpec;

/// A cluster with some of it in use: nodes, nodes to a leaf, modules, and per module nothing, all, or one chip.
#[derive(Debug, Clone)]
struct Cluster {
    nodes: usize,
    per_leaf: usize,
    cards: u32,
    uses: Vec<u8>,
}

fn clusters(nodes: std::ops::Range<usize>) -> impl Strategy<Value = Cluster> {
    (nodes, 1usize..4, 1u32..5, proptest::collection::vec(0u8..4, 48))
        .prop_map(|(nodes, per_leaf, cards, uses)| Cluster { nodes, per_leaf, cards, uses })
}

impl Cluster {
    fn changes(&self) -> Vec<Change> {
        let mut changes = changes(self.nodes, self.per_leaf, 2, self.cards);
        for node in 0..self.nodes {
            for card in 0..self.cards {
                let number = node * self.cards as usize + card as usize;
                let device = match self.uses.get(number % self.uses.len()) {
                    Some(1) => format!("module-{card}"),
                    Some(2) => format!("chip-{card}-{}", number % 2),
                    _ => continue,
                };
                changes.push(Change::Claim(allocated(number as u64, &format!("node-{node}"), &[&device])));
            }
        }
        changes
    }

    /// Free whole modules of each node.
    fn free(&self) -> Vec<u32> {
        let used = |number: usize| matches!(self.uses.get(number % self.uses.len()), Some(1 | 2));
        let cards = self.cards as usize;
        let free = |node: usize| (0..cards).filter(|card| !used(node * cards + card)).count();
        (0..self.nodes).map(|node| u32::try_from(free(node)).unwrap()).collect()
    }
}

fn claims() -> impl Strategy<Value = ClaimSpec> {
    prop_oneof![
        (1u32..4).prop_map(whole),
        Just(plain_chips(1)),
        Just(pair()),
        Just(even_chips(4)),
        (1u64..64, 1u64..100).prop_map(|(memory, cores)| share(memory * GI, cores)),
    ]
}

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Pack), Just(Mode::OnePerNode), Just(Mode::WholeNodes)]
}

/// Gives every reservation of a node its devices, one after the other, on what the cluster shows.
fn all_fit(planner: &mut Planner) -> bool {
    planner.view_mut().settle();
    let standings =
        |planner: &Planner| planner.view().nodes.iter().map(|n| n.standing.clone()).collect::<Vec<_>>();
    let before = standings(planner);
    planner.view_mut().touch_all();
    planner.view_mut().settle();
    assert!(before == standings(planner), "what was added one by one is what all of it makes");
    planner.view().nodes.iter().all(|node| {
        let within = |usage: &crate::usage::Usage, layout: &crate::layout::Layout| {
            let rooms = usage.rooms.iter().zip(&layout.sizes).all(|(used, size)| used <= size);
            rooms && !usage.overdrawn && usage.blocked.iter().all(|count| *count <= 1)
        };
        !node.standing.crowded
            && node.standing.usages.iter().zip(node.layouts.iter()).all(|(u, l)| within(u, l))
    })
}

/// The least number of nodes for `pods` of `modules` each.
fn fewest(free: &[u32], pods: u32, modules: u32) -> Option<usize> {
    let subsets = (0u32..1 << free.len()).filter(|set| {
        let rooms =
            free.iter().enumerate().filter(|(i, _)| set & (1 << i) != 0).map(|(_, free)| free / modules);
        rooms.sum::<u32>() >= pods
    });
    subsets.map(|set| set.count_ones() as usize).min()
}

/// The least number of nodes for members of different sizes.
fn fewest_mixed(free: &[u32], sizes: &[u32]) -> Option<usize> {
    fn pack(free: &mut [u32], used: &mut Vec<usize>, sizes: &[u32], best: &mut Option<usize>) {
        let nodes = used.iter().collect::<BTreeSet<_>>().len();
        let Some((first, rest)) = sizes.split_first() else {
            *best = Some(best.map_or(nodes, |b| b.min(nodes)));
            return;
        };
        for node in 0..free.len() {
            if free[node] >= *first {
                free[node] -= first;
                used.push(node);
                pack(free, used, rest, best);
                used.pop();
                free[node] += first;
            }
        }
    }
    let mut best = None;
    pack(&mut free.to_vec(), &mut Vec::new(), sizes, &mut best);
    best
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whole_batches_within_what_is_there(
        cluster in clusters(1..9),
        batches in proptest::collection::vec((1usize..9, claims(), modes()), 1..5),
    ) {
        let mut planner = planner(cluster.changes());
        for (number, (pods, claim, mode)) in batches.into_iter().enumerate() {
            let key = format!("b{number}");
            let decisions = decide(&mut planner, Batch { mode, ..batch(&key, pods, claim) });
            for decision in &decisions {
                let of_batch = |r: &&crate::Reservation| r.pod.starts_with(&format!("{}-", decision.batch));
                let reserved = planner.view().reservations().filter(of_batch).count();
                match &decision.outcome {
                    Outcome::Placed(placement) => {
                        prop_assert_eq!(reserved, placement.assignments.len());
                        if mode == Mode::OnePerNode && decision.batch.to_string() == key {
                            prop_assert!(counts(placement).values().all(|pods| *pods == 1));
                        }
                    }
                    _ => prop_assert_eq!(reserved, 0),
                }
                prop_assert!(decision.record.short().len() < 1024);
            }
            prop_assert!(all_fit(&mut planner));
        }
    }

    #[test]
    fn no_node_more_than_the_optimum_where_pods_are_equal(
        cluster in clusters(1..5),
        pods in 1u32..9,
        modules in prop_oneof![Just(1u32), Just(2), Just(3), Just(4)],
    ) {
        // One leaf, so that the fewest nodes are what is asked for.
        let cluster = Cluster { per_leaf: 4, ..cluster };
        let mut planner = planner(cluster.changes());
        let decisions = decide(&mut planner, batch("b", pods as usize, whole(modules)));
        let nodes = match &decisions[0].outcome {
            Outcome::Placed(placement) => Some(counts(placement).len()),
            _ => None,
        };
        prop_assert_eq!(nodes, fewest(&cluster.free(), pods, modules));
    }

    #[test]
    fn neither_arrival_nor_repetition_changes_a_plan(
        cluster in clusters(2..7),
        pods in 1usize..7,
        claim in claims(),
        mode in modes(),
        seed in any::<u64>(),
    ) {
        let changes = cluster.changes();
        let batch = Batch { mode, ..batch("b", pods, claim) };
        let expected = decide(&mut planner(changes.clone()), batch.clone());
        let mut shuffled = changes.clone();
        let length = shuffled.len();
        for position in (1..length).rev() {
            shuffled.swap(position, (seed.rotate_left(position as u32) % (position as u64 + 1)) as usize);
        }
        shuffled.extend(changes.into_iter().take((seed % 7) as usize));
        let mut got = decide(&mut planner(shuffled), batch);
        for (got, expected) in got.iter_mut().zip(&expected) {
            got.record.version = expected.record.version;
        }
        prop_assert_eq!(got, expected);
    }
}

/// Members of different sizes are packed largest first, which is no optimum: this tells how far from it.
#[test]
fn the_gap_on_unlike_members() {
    let mut random = proptest::test_runner::TestRunner::deterministic();
    let strategy = (clusters(2..5), proptest::collection::vec(1u32..4, 2..6));
    let (mut solved, mut extra, mut missed) = (0, 0, 0);
    for _ in 0..1000 {
        let (cluster, mut sizes) = strategy.new_tree(&mut random).unwrap().current();
        let cluster = Cluster { per_leaf: 4, ..cluster };
        let demands = sizes.iter().map(|size| Arc::new(demand(vec![whole(*size)]))).collect();
        let decisions = decide(&mut planner(cluster.changes()), batch_of("b", demands));
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let Some(optimum) = fewest_mixed(&cluster.free(), &sizes) else {
            assert!(!matches!(decisions[0].outcome, Outcome::Placed(_)));
            continue;
        };
        solved += 1;
        match &decisions[0].outcome {
            Outcome::Placed(placement) => extra += counts(placement).len() - optimum,
            _ => missed += 1,
        }
    }
    println!(
        "unlike members: {solved} batches that fit, {extra} nodes more than the optimum, {missed} not placed"
    );
    assert!(solved > 100);
    assert!(extra * 25 <= solved && missed * 25 <= solved, "{extra} and {missed} of {solved}");
}
