//! The regions of one run, in a directory of its own that goes with the last process of the run.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use vnpu_driver::share::ClaimShares;
use vnpu_quota_agent::Agent;

use crate::error::RunError;

/// Below `$XDG_RUNTIME_DIR/vnpu` or `/run/vnpu-cli`. Absolute: the program may change its directory before it
/// starts others.
pub(crate) fn base_dir(configured: Option<&Path>) -> Result<PathBuf, RunError> {
    let dir = match (configured, std::env::var_os("XDG_RUNTIME_DIR")) {
        (Some(dir), _) => dir.to_path_buf(),
        (None, Some(dir)) if !dir.is_empty() => PathBuf::from(dir).join("vnpu"),
        (None, _) => PathBuf::from("/run/vnpu-cli"),
    };
    std::path::absolute(&dir).map_err(|e| RunError::io("find", &dir, e))
}

/// The regions of this run. Its lock is inherited by the program and all it starts, so that the directory is
/// known to be in use for as long as one of them lives, also when we are killed.
#[derive(Debug)]
pub(crate) struct RunRegions {
    dir: PathBuf,
    lock: File,
    agent: Agent,
}

const PREFIX: &str = "run-";
const LOCK: &str = "lock";

impl RunRegions {
    /// Makes a directory with the regions of `shares`, after removing those of runs that are over.
    pub(crate) fn create(base: &Path, shares: &ClaimShares) -> Result<Self, RunError> {
        make_private(base, true)?;
        sweep(base);
        let dir = base.join(format!("{PREFIX}{}", shares.claim));
        // The lock before the name: whoever sweeps at this moment must not find the directory unlocked.
        let hidden = base.join(format!(".{}", shares.claim));
        make_private(&hidden, false)?;
        let path = hidden.join(LOCK);
        let lock = File::create(&path).map_err(|e| RunError::io("make", &path, e))?;
        lock.lock_shared().map_err(|e| RunError::io("lock", &path, e))?;
        fs::rename(&hidden, &dir).map_err(|e| RunError::io("make", &dir, e))?;
        match Agent::open(&dir).and_then(|agent| agent.create(shares).map(|_| agent)) {
            Ok(agent) => Ok(Self { dir, lock, agent }),
            Err(error) => {
                drop(lock);
                remove_if_over(&dir);
                Err(error.into())
            }
        }
    }

    /// Gives back what dead processes of the run held.
    pub(crate) fn reap(&self) {
        // What cannot be read now is tried again; the program must not notice.
        let _ = self.agent.reap();
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
        let Self { dir, lock, agent } = self;
        drop((lock, agent));
        remove_if_over(&dir);
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

/// Makes a directory for this user alone: what is below is writable by everybody, as containers need it.
fn make_private(dir: &Path, parents: bool) -> Result<(), RunError> {
    DirBuilder::new().recursive(parents).mode(0o700).create(dir).map_err(|e| RunError::io("make", dir, e))
}

/// Removes the directory of a run that is over beyond doubt; any other is left to a later run.
fn remove_if_over(dir: &Path) {
    let lock = match File::open(dir.join(LOCK)) {
        Ok(lock) => Some(lock),
        // Of a removal that did not come to its end, or of a run that is.
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(_) => return,
    };
    if lock.as_ref().is_some_and(|lock| lock.try_lock().is_err()) {
        return;
    }
    if is_over(dir) {
        // What cannot be removed now is removed by a later run. The lock is held until then.
        let _ = fs::remove_dir_all(dir);
    }
    drop(lock);
}

/// A program that closed the inherited lock, and even its slot's, still has the ledger mapped; the agent's own
/// rule says who lives.
fn is_over(dir: &Path) -> bool {
    match fs::exists(dir.join("claims")) {
        Ok(true) => (),
        Ok(false) => return true,
        Err(_) => return false,
    }
    let report = Agent::open(dir).and_then(|agent| agent.reap());
    report.is_ok_and(|report| report.live == 0 && report.unreadable.is_empty())
}

#[cfg(test)]
mod tests;
