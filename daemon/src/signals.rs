//! The signals that end a daemon. What ends, and in which order, is decided by those who wait for them.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// A signal cannot be waited for.
#[derive(Debug, thiserror::Error)]
#[error("cannot handle {signal}")]
pub struct SignalError {
    signal: &'static str,
    source: io::Error,
}

impl SignalError {
    /// What the system refuses a process once it refuses it again.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word.
    pub const fn reason(&self) -> &'static str {
        "signals"
    }
}

impl Signals {
    /// From now on neither signal ends the process by itself.
    ///
    /// # Errors
    /// When the system does not let one be handled.
    pub fn new() -> Result<Self, SignalError> {
        let handle = |name, kind| signal(kind).map_err(|source| SignalError { signal: name, source });
        Ok(Self {
            terminate: handle("SIGTERM", SignalKind::terminate())?,
            interrupt: handle("SIGINT", SignalKind::interrupt())?,
        })
    }

    /// Waits for the next of either.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
