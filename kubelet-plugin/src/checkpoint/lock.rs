//! Locks between instances of the plugin on one node. They belong to an open file, so the kernel drops them
//! with the process, and two of them in one process exclude each other too.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::StoreError;

/// Says that a plugin lives: a shared lock on `<state-dir>/lock`, held for life. Who tries for the exclusive
/// one (such as `vnpu run`) finds out.
#[derive(Debug)]
pub struct Presence {
    _file: File,
}

impl Presence {
    /// Takes the shared lock. Everybody may read the file, so somebody may hold it exclusively on purpose: that
    /// costs the notice, never the start.
    ///
    /// # Errors
    /// The file cannot be made.
    pub async fn take(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join("lock");
        let file = open(&path, 0o644)?;
        for _ in 0..20 {
            match file.try_lock_shared() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(e)) => return Err(StoreError::io("lock", &path, e)),
                // `vnpu run` looks for a moment.
                Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        tracing::warn!(path = %path.display(), "another process holds the lock: `vnpu run` will not notice this plugin");
        Ok(Self { _file: file })
    }
}

/// The exclusive lock on `<state-dir>/operations.lock`, held while claims are worked on.
#[derive(Debug, Clone)]
pub struct OperationLock {
    path: Arc<PathBuf>,
}

/// The lock while it is held; dropping it frees it.
#[derive(Debug)]
pub(super) struct Held {
    _file: File,
}

impl OperationLock {
    /// The lock of a state directory.
    pub fn of(state_dir: &Path) -> Self {
        Self { path: Arc::new(state_dir.join("operations.lock")) }
    }

    /// Takes the lock; where another instance has it, a blocking thread waits (nothing polls). Each call opens
    /// the file anew: a waiter that was given up must not share its lock with the next one.
    pub(super) async fn take(&self) -> Result<Held, StoreError> {
        let file = open(&self.path, 0o600)?;
        match file.try_lock() {
            Ok(()) => Ok(Held { _file: file }),
            Err(TryLockError::Error(e)) => Err(StoreError::io("lock", &self.path, e)),
            Err(TryLockError::WouldBlock) => {
                let path = Arc::clone(&self.path);
                let waiting = tokio::task::spawn_blocking(move || match file.lock() {
                    Ok(()) => Ok(Held { _file: file }),
                    Err(e) => Err(StoreError::io("lock", &path, e)),
                });
                waiting.await.unwrap_or(Err(StoreError::Broken))
            }
        }
    }
}

/// Who can open a file can lock it, so `mode` says who may hold the plugin up; also a file that was there before.
/// Nothing is written where nothing is to change: each Prepare comes through here, and a write waits for the disk.
fn open(path: &Path, mode: u32) -> Result<File, StoreError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(mode).open(path);
    let file = file.map_err(|e| StoreError::io("open", path, e))?;
    let wanted = Permissions::from_mode(mode);
    let right = file.metadata().is_ok_and(|now| now.permissions().mode() & 0o7777 == mode);
    if !right {
        file.set_permissions(wanted).map_err(|e| StoreError::io("set the mode of", path, e))?;
    }
    Ok(file)
}
