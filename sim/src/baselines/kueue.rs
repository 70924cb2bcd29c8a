//! Kueue's topology-aware scheduling with the profile `BestFit` (`pkg/cache/scheduler/tas_flavor_snapshot.go`): the
//! lowest level at which one domain holds the whole job, the domain there with least room; below it the largest domains
//! first and the last one best fit. It counts chips, not modules, so chips are then given first fit, as stock
//! allocation does.

use std::cmp::Reverse;

use crate::cluster::{Cluster, Spot};
use crate::job::{Ask, Job};
use crate::policy::Place;

/// Kueue's best fit.
#[derive(Debug, Default)]
pub struct KueueBestFit;

/// A domain's number and how many pods it takes.
type Domain = (usize, u32);

/// How many pods go to each of some domains: the largest first, the last one where least is left over.
fn distribute(mut domains: Vec<Domain>, pods: u32) -> Vec<Domain> {
    domains.sort_unstable_by_key(|(number, room)| (Reverse(*room), *number));
    let (mut shares, mut left) = (Vec::new(), pods);
    for (index, (number, room)) in domains.iter().enumerate() {
        if *room >= left {
            let rest = domains.iter().skip(index).filter(|(_, room)| *room >= left);
            shares.extend(
                rest.min_by_key(|(number, room)| (*room, *number)).map(|(number, _)| (*number, left)),
            );
            break;
        }
        shares.push((*number, *room));
        left -= room;
    }
    shares
}

fn nodes_of(cluster: &Cluster, leaf: usize, ask: Ask) -> Vec<Domain> {
    cluster.members(leaf).map(|(node, chips)| (node, chips.room_by_count(ask))).collect()
}

impl Place for KueueBestFit {
    fn place(&mut self, cluster: &mut Cluster, job: &Job) -> Option<Vec<Spot>> {
        let leaves: Vec<Domain> = (0..cluster.leaves())
            .map(|leaf| (leaf, nodes_of(cluster, leaf, job.ask).iter().map(|(_, room)| room).sum()))
            .collect();
        if leaves.iter().map(|(_, room)| room).sum::<u32>() < job.pods {
            return None;
        }
        let nodes = (0..cluster.leaves()).flat_map(|leaf| nodes_of(cluster, leaf, job.ask));
        let one = nodes.filter(|(_, room)| *room >= job.pods).min_by_key(|(number, room)| (*room, *number));
        let shares: Vec<Domain> = match one {
            Some((node, _)) => vec![(node, job.pods)],
            None => distribute(leaves, job.pods)
                .into_iter()
                .flat_map(|(leaf, pods)| distribute(nodes_of(cluster, leaf, job.ask), pods))
                .collect(),
        };
        let mut spots = Vec::with_capacity(job.pods as usize);
        for (node, pods) in shares {
            let chips = cluster.nodes.get_mut(node)?;
            for _ in 0..pods {
                spots.extend(chips.take_by_count(job.ask).map(|taken| Spot { node, taken }));
            }
        }
        Some(spots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_first_and_the_last_one_best_fit() {
        assert_eq!(distribute(vec![(0, 3), (1, 5), (2, 2), (3, 2)], 7), [(1, 5), (2, 2)]);
        assert_eq!(distribute(vec![(0, 3), (1, 5)], 3), [(0, 3)]);
    }
}
