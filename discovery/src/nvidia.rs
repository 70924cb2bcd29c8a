//! NVIDIA GPUs, read through NVML. A GPU's card is its minor number, its identity the UUID; where MIG is on, its
//! existing instances stand for it.

mod backend;
mod caps;
mod edits;
mod events;
mod files;
mod gpu;
mod library;
mod links;
mod model;
mod scan;
mod search;
mod session;
#[cfg(test)]
mod tests;

pub use backend::{Nvidia, NvidiaOptions};
