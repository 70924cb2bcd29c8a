//! Where regions are under the runtime directory, and directories of the right mode.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use vnpu_driver::id::{ClaimUid, DeviceUuid};

use crate::AgentError;

/// Paths of one runtime directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    pub(crate) fn claims(&self) -> PathBuf {
        self.root.join("claims")
    }

    pub(crate) fn claim(&self, claim: &ClaimUid) -> PathBuf {
        self.claims().join(claim.as_str())
    }

    pub(crate) fn quota(&self, claim: &ClaimUid) -> PathBuf {
        self.claim(claim).join("quota")
    }

    pub(crate) fn usage(&self, claim: &ClaimUid) -> PathBuf {
        self.claim(claim).join("usage")
    }

    pub(crate) fn devices(&self) -> PathBuf {
        self.root.join("devices")
    }

    pub(crate) fn device(&self, chip: &DeviceUuid) -> PathBuf {
        self.devices().join(chip.as_str())
    }
}

/// Makes `path` (and its parents) searchable but not listable by others: tenants know their own names only. The
/// mode of one that exists is left alone unless it is `ours`.
pub(crate) fn make_dir(path: &Path, ours: bool) -> Result<(), AgentError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| AgentError::io("make directory", parent, e))?;
    }
    match fs::create_dir(path) {
        Ok(()) => (),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            if !ours {
                return Ok(());
            }
        }
        Err(e) => return Err(AgentError::io("make directory", path, e)),
    }
    fs::set_permissions(path, Permissions::from_mode(0o711))
        .map_err(|e| AgentError::io("set the mode of", path, e))
}

/// Removes a file; none is fine. Returns whether there was one.
pub(crate) fn remove_file(path: &Path) -> Result<bool, AgentError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(AgentError::io("remove", path, e)),
    }
}

/// Removes a directory with all files in it; none is fine.
pub(crate) fn remove_dir(path: &Path) -> Result<(), AgentError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(AgentError::io("remove", path, e)),
    }
}

/// The names in a directory, sorted; none when it does not exist.
pub(crate) fn names(path: &Path) -> Result<Vec<String>, AgentError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(AgentError::io("list", path, e)),
    };
    let mut out = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| AgentError::io("list", path, e))?;
        out.extend(entry.file_name().into_string());
    }
    out.sort();
    Ok(out)
}
