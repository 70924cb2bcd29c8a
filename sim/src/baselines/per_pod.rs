//! Pod after pod, each on the node of the highest score: how kube-scheduler and what extends it place. A job starts
//! only when all of its pods have a place, as gates and gang plugins see to.

use crate::chips::{Chips, Taken};
use crate::cluster::{Cluster, Spot};
use crate::job::{Ask, Job};

/// A score for one pod on one node; the highest wins.
pub(super) type Score = (u64, u64, u64);

/// One pod's choice.
pub(super) struct Choice<'a> {
    pub(super) job: &'a Job,
    pub(super) cluster: &'a Cluster,
    /// Where the job's earlier pods go.
    pub(super) earlier: &'a [Spot],
}

/// How one scheduler scores and takes.
pub(super) trait Scorer {
    /// What a pod takes, where that is not what it asks for.
    fn ask(&self, job: &Job) -> Ask {
        job.ask
    }

    /// Whether it fits on a node.
    fn fits(&self, chips: &Chips, ask: Ask) -> bool {
        chips.room(ask) > 0
    }

    /// Takes chips on the node.
    fn take(&self, chips: &mut Chips, ask: Ask) -> Option<Taken> {
        chips.take(ask)
    }

    /// The score of a node.
    fn score(&mut self, choice: &Choice<'_>, node: usize, chips: &Chips) -> Score;
}

/// Places a job's pods one after the other, or none of them.
pub(super) fn place(scorer: &mut impl Scorer, cluster: &mut Cluster, job: &Job) -> Option<Vec<Spot>> {
    let ask = scorer.ask(job);
    let mut spots = Vec::with_capacity(job.pods as usize);
    for _ in 0..job.pods {
        let choice = Choice { job, cluster, earlier: &spots };
        let mut best: Option<(Score, usize)> = None;
        for (node, chips) in cluster.nodes.iter().enumerate() {
            if scorer.fits(chips, ask) {
                let score = scorer.score(&choice, node, chips);
                if best.is_none_or(|(highest, _)| score > highest) {
                    best = Some((score, node));
                }
            }
        }
        let spot = best.and_then(|(_, node)| {
            let taken = scorer.take(cluster.nodes.get_mut(node)?, ask)?;
            Some(Spot { node, taken })
        });
        match spot {
            Some(spot) => spots.push(spot),
            None => {
                cluster.give(&spots);
                return None;
            }
        }
    }
    Some(spots)
}
