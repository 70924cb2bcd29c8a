//! The cases that are data: the claims and pods of `e2e/guard-cases`, and the examples with what their READMEs
//! say. This crate reads and judges them; trying them on a cluster is the suites' business.

mod error;
mod example;
mod files;
mod guard;

pub use error::CaseError;
pub use example::{Example, Step};
pub use guard::{GuardCase, GuardVerdict};
