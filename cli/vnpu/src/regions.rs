//! The regions of one run, in a directory of its own that goes with the last process of the run.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use vnpu_driver::share::ClaimShares;
use vnpu_quota_agent::Agent;

use crate::error::RunError;

/// Below `$XDG_RUNTIME_DIR/vnpu` or `/run/vnpu-cli`.
pub(crate) fn base_dir(configured: Option<&Path>) -> PathBuf {
    if let Some(dir) = configured {
        return dir.to_path_buf();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("vnpu"),
        _ => PathBuf::from("/run/vnpu-cli"),
    }
}

/// The regions of this run. Its lock is inherited by the program and all it starts, so that the directory is
/// known to be in use for as long as one of them lives, also when we are killed.
#[derive(Debug)]
pub(crate) struct RunRegions {
    dir: PathBuf,
    lock: File,
}

const PREFIX: &str = "run-";
const LOCK: &str = "lock";

impl RunRegions {
    /// Makes a directory with the regions of `shares`, after removing those of runs that are over.
    pub(crate) fn create(base: &Path, shares: &ClaimShares) -> Result<Self, RunError> {
        fs::create_dir_all(base).map_err(|e| RunError::io("make", base, e))?;
        sweep(base);
        let dir = base.join(format!("{PREFIX}{}", shares.claim));
        // The lock before the name: whoever sweeps at this moment must not find the directory unlocked.
        let hidden = base.join(format!(".{}", shares.claim));
        fs::create_dir(&hidden).map_err(|e| RunError::io("make", &hidden, e))?;
        let path = hidden.join(LOCK);
        let lock = File::create(&path).map_err(|e| RunError::io("make", &path, e))?;
        lock.lock_shared().map_err(|e| RunError::io("lock", &path, e))?;
        fs::rename(&hidden, &dir).map_err(|e| RunError::io("make", &dir, e))?;
        let regions = Self { dir, lock };
        if let Err(error) = Agent::open(&regions.dir).and_then(|agent| agent.create(shares)) {
            regions.remove();
            return Err(error.into());
        }
        Ok(regions)
    }

    /// The directory for the interposer.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The descriptor that the program must inherit.
    pub(crate) fn lock_descriptor(&self) -> RawFd {
        self.lock.as_raw_fd()
    }

    /// Removes the regions unless processes of the run are left; then the next run does.
    pub(crate) fn remove(self) {
        drop(self.lock);
        remove_if_over(&self.dir);
    }
}

fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            remove_if_over(&entry.path());
        }
    }
}

fn remove_if_over(dir: &Path) {
    let over = match File::open(dir.join(LOCK)) {
        Ok(lock) => !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) && !has_live_slots(dir),
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    };
    if over {
        // What cannot be removed now is removed by a later run.
        let _ = fs::remove_dir_all(dir);
    }
}

/// A program that closed the inherited lock still has its slot.
fn has_live_slots(dir: &Path) -> bool {
    if !dir.join("claims").exists() {
        return false;
    }
    let Ok(agent) = Agent::open(dir) else { return false };
    let claims = agent.claims().unwrap_or_default();
    claims.iter().any(|claim| agent.usage(claim).is_ok_and(|usage| usage.live_slots > 0))
}
