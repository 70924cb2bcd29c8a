//! The cases, by subject, in the order in which they run.

use crate::case::Case;

mod bad_ground;
mod bad_input;
mod breach;
mod capacity;
mod cluster;
mod compute;
mod enforcement;
mod examples;
mod guard;
mod handover;
mod identity;
mod live;
mod refusals;
mod regions;
mod resilience;
mod single_die;
mod slices;
mod unchanged;
mod users;

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    let subjects = [
        cluster::CASES,
        guard::CASES,
        examples::CASES,
        slices::CASES,
        single_die::CASES,
        identity::CASES,
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
    ];
    subjects.into_iter().flatten().map(|case| Case { ..*case }).collect()
}
