//! The policies that the planner is compared with. Each is coded from the public description of its algorithm.

mod hami;
mod kueue;
mod per_pod;
mod scoring;
mod tiers;

pub use self::hami::Hami;
pub use self::kueue::KueueBestFit;
pub use self::scoring::{DraFirstFit, LeastAllocated, MostAllocated, RandomNode};
pub use self::tiers::TiersAndHash;

#[cfg(test)]
mod tests;
