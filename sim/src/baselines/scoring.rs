//! The scores of the stock scheduler. Equals are drawn by lot, as it does.

use super::per_pod::{Choice, Score, Scorer, place};
use crate::chips::{Chips, Taken};
use crate::cluster::{Cluster, Spot};
use crate::job::{Ask, Job};
use crate::policy::Place;
use crate::random::Random;

macro_rules! scored {
    ($(#[$doc:meta])* $name:ident, |$chips:ident| $score:expr, $($method:item)*) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            lot: Random,
        }

        impl $name {
            /// With lots of this seed.
            pub const fn new(seed: u64) -> Self {
                Self { lot: Random::new(seed) }
            }
        }

        impl Scorer for $name {
            fn score(&mut self, _: &Choice<'_>, _: usize, $chips: &Chips) -> Score {
                ($score, self.lot.bits(), 0)
            }

            $($method)*
        }

        impl Place for $name {
            fn place(&mut self, cluster: &mut Cluster, job: &Job) -> Option<Vec<Spot>> {
                place(self, cluster, job)
            }
        }
    };
}

scored! {
    /// Any node, by lot.
    RandomNode, |_chips| 0,
}

scored! {
    /// `NodeResourcesFit` with `LeastAllocated`: the node with most free chips.
    LeastAllocated, |chips| u64::from(chips.free()),
}

scored! {
    /// `NodeResourcesFit` with `MostAllocated`: the node with most used chips.
    MostAllocated, |chips| u64::from(chips.occupied()),
}

scored! {
    /// Stock dynamic resource allocation over plain chips: nodes as [`LeastAllocated`], and inside the node the first
    /// free chips in published order, whatever their modules.
    DraFirstFit, |chips| u64::from(chips.free()),
    fn fits(&self, chips: &Chips, ask: Ask) -> bool {
        chips.room_by_count(ask) > 0
    }

    fn take(&self, chips: &mut Chips, ask: Ask) -> Option<Taken> {
        chips.take_by_count(ask)
    }
}
