//! The plugin's memory of claims across restarts: an append-only log of framed records under the state
//! directory. What records mean is `vnpu_driver::record`'s; here are bytes, fsync and locks.

mod error;
mod file;
mod frame;
mod lock;
mod store;

pub use error::StoreError;
pub use file::inspect;
pub use lock::{OperationLock, Presence};
pub use store::{Repairs, Session, Store};

#[cfg(test)]
mod tests;
