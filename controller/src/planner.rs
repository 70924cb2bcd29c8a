//! The planner's shell: pods are gathered to batches, batches are planned by `vnpu-placement`, plans are carried out as
//! nominations and released gates, and what becomes of them is followed. `desk` decides, `run` acts.

pub mod act;
pub mod action;
pub mod desk;
pub mod group;
pub mod known;
pub mod metrics;
pub mod patch;
pub mod recording;
pub mod records;
pub mod run;
pub mod settings;
pub mod store;
pub mod watches;
