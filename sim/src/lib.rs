//! The simulator: clusters and jobs that come and go, policies that place them, and the figures by which they are
//! compared. It decides nothing itself; the planner it runs is the controller's.
#![forbid(unsafe_code)]

pub mod baselines;
pub mod chips;
pub mod choice;
pub mod cli;
pub mod cluster;
pub mod compare;
pub mod engine;
pub mod gauge;
pub mod job;
pub mod metrics;
pub mod mix;
pub mod optimum;
pub mod ours;
pub mod plot;
pub mod policy;
pub mod random;
pub mod replay;
pub mod stats;
pub mod table;
pub mod traces;
