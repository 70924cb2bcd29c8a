//! The cluster binary: webhooks, and what a leader does for the whole cluster. The binary is a thin start of this;
//! the decisions are the `driver` and `placement` crates'.
#![forbid(unsafe_code)]

pub mod auditor;
pub mod certificates;
pub mod config;
pub mod events;
pub mod lease;
pub mod metrics;
pub mod observe;
pub mod planner;
pub mod run;
pub mod settings;
pub mod topology;
pub mod webhook;

#[cfg(test)]
mod testing;
