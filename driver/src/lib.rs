//! The pure domain of vnpu-dra: what accelerators are, what a node publishes of them, what a claim may have
//! and how it is prepared. No I/O, no clock, no Kubernetes client: the binaries are thin shells around this.
#![forbid(unsafe_code)]

pub mod admission;
pub mod attributes;
pub mod claim;
pub mod conditions;
pub mod controller_config;
pub mod degrade;
pub mod device_health;
#[cfg(test)]
mod fixtures;
pub mod hardware;
pub mod health;
pub mod id;
pub mod live;
pub mod order;
pub mod plan;
pub mod planner;
pub mod prepare;
pub mod quantity;
pub mod record;
pub mod refusal;
pub mod share;
pub mod share_policy;
pub mod slices;
pub mod straddle;
pub mod time;

/// The DRA driver's name: `spec.driver` of our slices, `driver` of our results and opaque configuration.
pub const DRIVER_NAME: &str = "vnpu.dev";
