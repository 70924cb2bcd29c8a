//! Between the Kubernetes API's types and the driver's: slices out, claims in, device status out. No I/O and no
//! decisions beyond what the API's own rules ask for.
#![forbid(unsafe_code)]

pub mod claim;
pub mod compare;
#[cfg(test)]
mod fixtures;
pub mod slice;
pub mod status;
pub mod sync;
pub mod taint_rule;
