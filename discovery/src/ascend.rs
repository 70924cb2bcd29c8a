//! Ascend NPUs, read through DCMI. Modules are cards, chips are device ids in them, identities are VDies.

mod backend;
mod dcmi;
mod die;
mod edits;
mod library;
mod links;
mod raw;
mod scan;
mod search;
#[cfg(test)]
mod tests;
mod whole;

pub use backend::{Ascend, AscendOptions};
