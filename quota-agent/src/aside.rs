//! Reads of files that may never answer, on a thread of their own: the kernel makes whoever reads a process's mappings
//! wait for whatever that process waits for, a file system whose server is gone included.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

/// How long the agent waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads one file at a time. While an answer is owed there are no further questions: at most one thread is stuck.
#[derive(Debug)]
pub(crate) struct Aside {
    patience: Duration,
    // Set while a thread reads.
    reading: Mutex<Arc<AtomicBool>>,
}

impl Default for Aside {
    fn default() -> Self {
        Self::with_patience(PATIENCE)
    }
}

impl Aside {
    pub(crate) fn with_patience(patience: Duration) -> Self {
        Self { patience, reading: Mutex::default() }
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// As [`std::fs::read`]; [`io::ErrorKind::TimedOut`] when there is no answer in time, at once while one is owed.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // Held over the wait: who comes meanwhile asks after it.
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        // SYNC POINT: Acquire pairs with the Release store below; nothing else is passed by it.
        if reading.swap(true, Ordering::Acquire) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (answer, answered) = mpsc::sync_channel(1);
        let (path, flag) = (path.to_path_buf(), Arc::clone(&reading));
        let thread = std::thread::Builder::new().name("vnpu-aside".to_owned()).spawn(move || {
            let bytes = std::fs::read(path);
            flag.store(false, Ordering::Release);
            // Nobody may wait for it any more.
            let _ = answer.send(bytes);
        });
        if let Err(error) = thread {
            reading.store(false, Ordering::Release);
            return Err(error);
        }
        answered.recv_timeout(self.patience).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
pub(crate) mod tests;
