//! Ascend NPUs, read through DCMI. Modules are cards, chips are device ids in them, identities are VDies.

mod backend;
mod dcmi;
mod edits;
mod library;
mod raw;
mod scan;
mod search;
mod sysfs;
#[cfg(test)]
mod tests;
mod worker;

pub use backend::{Ascend, AscendOptions};
