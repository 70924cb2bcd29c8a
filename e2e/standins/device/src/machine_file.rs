//! The configuration file: read once at start, and again whenever it changes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use standin_protocol::Machine;

/// The file and what was last seen of it.
#[derive(Debug)]
pub struct MachineFile {
    path: PathBuf,
    seen: Option<(u64, i64, i64, u64)>,
}

impl MachineFile {
    /// Names the file; nothing is read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), seen: None }
    }

    /// The machine, when the file changed since the last call; `Err` for a file that is no machine (the caller
    /// keeps what it has).
    pub fn changed(&mut self) -> Result<Option<Machine>, String> {
        let Ok(data) = fs::metadata(&self.path) else {
            // An editor's rename leaves a moment without the file.
            return Ok(None);
        };
        let seen = (data.ino(), data.mtime(), data.mtime_nsec(), data.size());
        if self.seen == Some(seen) {
            return Ok(None);
        }
        let text = fs::read_to_string(&self.path).map_err(|e| format!("{}: {e}", self.path.display()))?;
        self.seen = Some(seen);
        parse(&text, &self.path).map(Some)
    }
}

/// Reads a machine from YAML (of which JSON is a part).
pub fn parse(text: &str, path: &Path) -> Result<Machine, String> {
    serde_saphyr::from_str(text).map_err(|e| format!("{}: {e}", path.display()))
}
