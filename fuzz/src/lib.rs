//! What may never happen, whatever bytes stand in a region: a panic, an access outside the mapping, a wait without an
//! end, a node agent that fails. Each function takes the bytes of one run; libFuzzer and the tests call them.
#![allow(clippy::unwrap_used)] // That is how a finding is reported.

mod agent;
mod chip;
mod memory;
mod regions;

pub use agent::agent;
pub use chip::chip;
pub use regions::{quota, usage};
