//! What every daemon of the project is as a process: its memory and its threads, the signals that end it, its
//! connection to the API server. What it does there belongs to the daemons.

pub mod kubeapi;
mod process;
mod signals;

pub use process::{BAD_CONFIGURATION, few_heaps, run};
pub use signals::{SignalError, Signals};
