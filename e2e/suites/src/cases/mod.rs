//! The cases, by subject, in the order in which they run.

use crate::case::Case;

mod cluster;
mod examples;
mod guard;
mod handover;
mod identity;
mod resilience;

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    let subjects = [cluster::CASES, guard::CASES, examples::CASES, identity::CASES, resilience::CASES, handover::CASES];
    subjects.into_iter().flatten().map(|case| Case { ..*case }).collect()
}
