//! The cases that are data: the claims and pods of `e2e/guard-cases`, and what the guard must say to each. This
//! crate reads and judges them; trying them on a cluster is the suites' business.

mod error;
mod files;
mod guard;

pub use error::CaseError;
pub use guard::{GuardCase, GuardVerdict};
