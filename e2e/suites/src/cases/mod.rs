//! The cases, by subject, in the order in which they run.

use crate::case::Case;

mod absence;
mod admission;
mod again;
mod alerts;
mod bad_ground;
mod bad_input;
mod bank_mix;
mod breach;
mod capacity;
mod change;
mod cluster;
mod compute;
mod draining;
mod enforcement;
mod examples;
mod explained;
mod gate;
mod guard;
mod handover;
mod health;
mod identity;
mod kinds;
mod live;
mod placement;
mod refusals;
mod regions;
mod resilience;
mod sickness;
mod single_die;
mod slices;
mod unchanged;
mod users;
mod workloads;

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    let subjects = [
        cluster::CASES,
        guard::CASES,
        examples::CASES,
        slices::CASES,
        single_die::CASES,
        identity::CASES,
        health::CASES,
        kinds::CASES,
        sickness::CASES,
        alerts::CASES,
        draining::CASES,
        resilience::CASES,
        handover::CASES,
        enforcement::CASES,
        users::CASES,
        compute::CASES,
        live::CASES,
        regions::CASES,
        breach::CASES,
        unchanged::CASES,
        capacity::CASES,
        refusals::CASES,
        bad_input::CASES,
        bad_ground::CASES,
        placement::CASES,
        workloads::CASES,
        change::CASES,
        draining::PLANNED,
        bank_mix::CASES,
        admission::CASES,
        again::CASES,
        gate::CASES,
        explained::CASES,
        absence::CASES,
    ];
    subjects.into_iter().flatten().map(|case| Case { ..*case }).collect()
}
