//! How far a plan is from the best one at its moment. Both figures are exact: what is best is proven, not searched.

use std::cmp::Reverse;

use crate::cluster::{Cluster, Spot};
use crate::job::Job;

/// The part of pod pairs that are apart, beyond what was unavoidable when the job started.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Gap {
    /// On different nodes.
    pub node: f64,
    /// On different leaves.
    pub leaf: f64,
}

/// The share of pod pairs that are in different domains, of a job with so many pods in each; 0 for a single pod.
pub fn apart(counts: impl IntoIterator<Item = u32>) -> f64 {
    let (mut pods, mut together) = (0.0, 0.0);
    for count in counts.into_iter().map(f64::from) {
        pods += count;
        together += count * (count - 1.0);
    }
    if pods > 1.0 { 1.0 - together / (pods * (pods - 1.0)) } else { 0.0 }
}

/// How many pods are in each domain.
pub fn counts(domains: impl Iterator<Item = usize>) -> Vec<u32> {
    let mut domains: Vec<usize> = domains.collect();
    domains.sort_unstable();
    domains.chunk_by(|a, b| a == b).map(|same| u32::try_from(same.len()).unwrap_or(u32::MAX)).collect()
}

/// The least share of pairs that have to be apart when each domain takes so many pods at most.
///
/// Pairs within domains are a convex function of each domain's count, so moving a pod from a domain with fewer pods to
/// one with more never loses a pair: taking the largest rooms first is best.
pub fn least_apart(mut rooms: Vec<u32>, pods: u32) -> f64 {
    rooms.sort_unstable_by_key(|room| Reverse(*room));
    let mut left = pods;
    let shares = rooms.into_iter().map(|room| {
        let share = room.min(left);
        left -= share;
        share
    });
    apart(shares)
}

/// How far a job's spots are from the best ones, in the cluster before it starts.
pub fn gap(cluster: &Cluster, job: &Job, spots: &[Spot]) -> Gap {
    if job.pods < 2 {
        return Gap::default();
    }
    let on = |domain: &dyn Fn(usize) -> usize| apart(counts(spots.iter().map(|s| domain(s.node))));
    let rooms: Vec<u32> = cluster.nodes.iter().map(|node| node.room(job.ask)).collect();
    let leaves = rooms.chunks(cluster.shape.per_leaf.max(1)).map(|leaf| leaf.iter().sum()).collect();
    // A policy that tears modules has rooms that are not counted here, so it may be below.
    Gap {
        node: on(&|node| node) - least_apart(rooms, job.pods),
        leaf: on(&|node| cluster.leaf(node)) - least_apart(leaves, job.pods),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exhaustive(rooms: &[u32], pods: u32) -> f64 {
        fn walk(rooms: &[u32], left: u32, shares: &mut Vec<u32>, best: &mut f64) {
            match rooms {
                [] if left == 0 => *best = best.min(apart(shares.iter().copied())),
                [] => {}
                [room, rest @ ..] => {
                    for share in 0..=left.min(*room) {
                        shares.push(share);
                        walk(rest, left - share, shares, best);
                        shares.pop();
                    }
                }
            }
        }
        let mut best = f64::INFINITY;
        walk(rooms, pods, &mut Vec::new(), &mut best);
        best
    }

    #[test]
    fn largest_first_is_what_an_exhaustive_search_finds() {
        let mut random = crate::random::Random::new(5);
        for _ in 0..300 {
            let rooms: Vec<u32> = (0..5).map(|_| (random.bits() % 5) as u32).collect();
            let pods = 2 + (random.bits() % 7) as u32;
            if rooms.iter().sum::<u32>() >= pods {
                assert!((least_apart(rooms.clone(), pods) - exhaustive(&rooms, pods)).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn pairs_are_counted() {
        assert_eq!(apart([4]), 0.0);
        assert_eq!(apart([1, 1, 1]), 1.0);
        assert!((apart([2, 2]) - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(apart([1]), 0.0);
        assert_eq!(counts([3, 1, 3].into_iter()), [1, 2]);
    }
}
