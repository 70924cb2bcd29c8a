//! The regions of one run, in a directory of its own that goes with the last process of the run.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use vnpu_driver::share::ClaimShares;
use vnpu_quota_agent::Agent;

use crate::error::RunError;

/// The directory that was asked for, else one below `$XDG_RUNTIME_DIR`, else root's own. Absolute: the program may
/// change its directory before it starts others.
pub(crate) fn base_dir(configured: Option<&Path>) -> Result<PathBuf, RunError> {
    let session = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    // SAFETY: reads a number of this process.
    let root = unsafe { libc::geteuid() } == 0;
    choose_base(configured, session.as_deref().map(Path::new), root)
}

fn choose_base(configured: Option<&Path>, session: Option<&Path>, root: bool) -> Result<PathBuf, RunError> {
    match (configured, session) {
        (Some(dir), _) => std::path::absolute(dir).map_err(|e| RunError::io("find", dir, e)),
        (None, Some(dir)) => {
            check_session(dir).map_err(|problem| RunError::Session { dir: dir.to_path_buf(), problem })?;
            Ok(dir.join("vnpu"))
        }
        (None, None) if root => Ok(PathBuf::from("/run/vnpu-cli")),
        (None, None) => Err(RunError::NoSession),
    }
}

/// Who logs in gets this directory made, and who becomes somebody else may keep the variable without the directory,
/// or with somebody else's: it is not for us to make, nor to put a user's files into another's.
fn check_session(dir: &Path) -> Result<(), String> {
    if !dir.is_absolute() {
        return Err("is not absolute".to_owned());
    }
    let found = fs::metadata(dir).map_err(|error| format!("cannot be used ({error})"))?;
    if !found.is_dir() {
        return Err("is no directory".to_owned());
    }
    // SAFETY: reads a number of this process.
    let user = unsafe { libc::geteuid() };
    if found.uid() != user {
        return Err(format!("belongs to user {}, not to user {user}", found.uid()));
    }
    Ok(())
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
