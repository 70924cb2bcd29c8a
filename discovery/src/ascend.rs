//! Ascend NPUs, read through DCMI. Modules are cards, chips are device ids in them, identities are VDies.

mod backend;
mod dcmi;
mod die;
mod edits;
mod events;
mod library;
mod links;
mod raw;
mod scan;
mod search;
mod session;
#[cfg(test)]
mod tests;
mod whole;

pub use backend::{Ascend, AscendOptions};
