//! What every daemon of the project tells about itself: logs whose level changes at run time, metrics, and the
//! admin HTTP server that serves them. What is measured belongs to the daemons.

mod admin;
mod doors;
mod logging;
mod readiness;

pub use admin::{Admin, AdminError, serve};
pub use logging::{LevelHandle, LogError, LogFormat, init_logging};
pub use readiness::Readiness;
