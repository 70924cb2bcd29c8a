//! What becomes of sick chips: a table says which faults count, and a chip that comes and goes is kept out until it has
//! been well for a while.

mod judge;
mod policy;

pub use judge::{ABSENT, Judge, Verdict};
pub use policy::{Action, HealthPolicy, HealthRule, builtin};
