//! HAMi as it is public: binpack over nodes, whole modules, and a request for one chip of a dual-die device raised to
//! two (Project-HAMi/HAMi, `pkg/device/ascend/device.go`, `MutateAdmission`).

use super::per_pod::{Choice, Score, Scorer, place};
use crate::chips::Chips;
use crate::cluster::{Cluster, Spot};
use crate::job::{Ask, Job};
use crate::policy::Place;
use crate::random::Random;

/// What HAMi takes for a request on dual-die hardware.
pub(super) const fn raised(ask: Ask, dual: bool) -> Ask {
    match ask {
        Ask::Chips(1) if dual => Ask::Chips(2),
        other => other,
    }
}

/// HAMi's public algorithm.
#[derive(Debug)]
pub struct Hami {
    lot: Random,
    dual: bool,
}

impl Hami {
    /// With lots of this seed.
    pub const fn new(seed: u64, dual: bool) -> Self {
        Self { lot: Random::new(seed), dual }
    }
}

impl Scorer for Hami {
    fn ask(&self, job: &Job) -> Ask {
        raised(job.ask, self.dual)
    }

    fn score(&mut self, _: &Choice<'_>, _: usize, chips: &Chips) -> Score {
        (u64::from(chips.occupied()), self.lot.bits(), 0)
    }
}

impl Place for Hami {
    fn place(&mut self, cluster: &mut Cluster, job: &Job) -> Option<Vec<Spot>> {
        place(self, cluster, job)
    }
}
