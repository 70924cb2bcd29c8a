//! The pure planner: which node each pod of a batch goes to, and why. It sees a cluster as values, keeps no clock and
//! does no I/O; the controller and the simulator call the same code through [`Planner`].
#![forbid(unsafe_code)]

// The fixtures are shared with the benches, which see the crate by its name.
#[cfg(test)]
extern crate self as vnpu_placement;

pub mod batch;
mod cells;
mod count;
pub mod decision;
pub mod demand;
pub mod explain;
mod field;
mod fit;
#[cfg(test)]
mod fixtures;
mod interner;
mod layout;
mod ledger;
pub mod moment;
pub mod node;
mod plan;
mod planner;
mod prepare;
mod queue;
mod record;
mod rendezvous;
pub mod resources;
mod rule;
mod search;
mod selector;
mod shape;
mod sweep;
mod topology;
mod units;
mod usage;
mod view;

pub use self::decision::{Assignment, Decision, Outcome, Placement, Tier, WaitReason};
pub use self::ledger::{ClaimKey, Reservation, ReservedClaim};
pub use self::planner::{Config, Planner};
pub use self::queue::{Entry, Target};
pub use self::record::{Input, ReplayError, Sink, Snapshot, replay};
pub use self::rendezvous::{preferred_leaf, weight};
pub use self::topology::{LEAF_LABEL, SUPERPOD_LABEL};
pub use self::view::{Change, Free, View, ViewSnapshot};
