//! The cases, by subject, in the order in which they run.

use crate::case::Case;

mod cluster;
mod examples;
mod guard;

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    let subjects = [cluster::CASES, guard::CASES, examples::CASES];
    subjects.into_iter().flatten().map(|case| Case { ..*case }).collect()
}
