//! A directory of CDI files that belongs partly to us: writing is atomic and durable, removing is durable,
//! and only files with our prefix are ever listed or touched.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::CdiError;
use crate::spec::Spec;
use crate::validate::validate;

/// What stands in the directory under our prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The identifier that the file was written under.
    pub id: String,
    /// Its path.
    pub path: PathBuf,
}

/// A CDI directory and the prefix of our files in it.
#[derive(Debug, Clone)]
pub struct CdiDir {
    dir: PathBuf,
    prefix: String,
}

impl CdiDir {
    /// Files of `kind` (`vendor/class`) in `dir`, named `<vendor>-<class>_<id>.json` (the transient names of the
    /// specification). The directory is created when absent.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(dir: impl Into<PathBuf>, kind: &str) -> Result<Self, CdiError> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(|e| CdiError::io("create", &dir, e))?;
        Ok(Self { dir, prefix: format!("{}_", kind.replace('/', "-")) })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Path of the file for `id`.
    ///
    /// # Errors
    /// When `id` could leave the directory.
    pub fn file(&self, id: &str) -> Result<PathBuf, CdiError> {
        let legal = !id.is_empty()
            && id.len() <= 128
            && !id.starts_with('.')
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !legal {
            return Err(CdiError::Name(id.chars().take(80).collect()));
        }
        Ok(self.dir.join(format!("{}{id}.json", self.prefix)))
    }

    /// Validates `spec` and puts it in place of whatever stood under `id`: after success it survives a power
    /// cut, and at no time does a reader see half of it. The bytes that were written are returned, so that they
    /// can be compared later.
    ///
    /// # Errors
    /// An invalid spec, or the system's refusal; then no temporary file is left.
    pub fn write(&self, id: &str, spec: &Spec) -> Result<Vec<u8>, CdiError> {
        validate(spec)?;
        let target = self.file(id)?;
        let mut bytes = serde_json::to_vec_pretty(spec)
            .map_err(|e| CdiError::io("encode", &target, io::Error::other(e)))?;
        bytes.push(b'\n');
        // Not *.json: a reader that lists the directory now must not take it for a spec.
        let temporary = self.dir.join(format!("{}{id}.{}.tmp", self.prefix, std::process::id()));
        let result = self.write_then_rename(&temporary, &target, &bytes);
        if result.is_err() {
            // Best effort: the error that is reported is the first one, and start-up removes leftovers.
            let _ = fs::remove_file(&temporary);
        }
        result.map(|()| bytes)
    }

    fn write_then_rename(&self, temporary: &Path, target: &Path, bytes: &[u8]) -> Result<(), CdiError> {
        let in_dir = |operation, e| CdiError::io(operation, &self.dir, e);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            // Readers (the container runtime) run as root, but tools of operators may not.
            .mode(0o644)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(temporary)
            .map_err(|e| in_dir("create a file in", e))?;
        file.write_all(bytes).map_err(|e| in_dir("write a file in", e))?;
        file.sync_data().map_err(|e| in_dir("flush a file in", e))?;
        fs::rename(temporary, target).map_err(|e| in_dir("rename a file in", e))?;
        self.sync()
    }

    /// Removes the file of `id`, durably. Absent is success; returns whether there was one.
    ///
    /// # Errors
    /// The system's refusal.
    pub fn remove(&self, id: &str) -> Result<bool, CdiError> {
        let target = self.file(id)?;
        let there = match fs::remove_file(&target) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(CdiError::io("remove", &target, e)),
        };
        // Also when it was gone: an earlier removal may have been cut off before it was on the disk.
        self.sync()?;
        Ok(there)
    }

    /// Our files, sorted by identifier.
    ///
    /// # Errors
    /// The system's refusal to list.
    pub fn list(&self) -> Result<Vec<Found>, CdiError> {
        let mut found = Vec::new();
        for name in self.names()? {
            let id = name.strip_prefix(&self.prefix).and_then(|rest| rest.strip_suffix(".json"));
            if let Some(id) = id {
                found.push(Found { id: id.to_owned(), path: self.dir.join(&name) });
            }
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// Removes temporary files that a crash left behind; returns how many.
    ///
    /// # Errors
    /// The system's refusal to list or remove.
    pub fn remove_temporaries(&self) -> Result<usize, CdiError> {
        let mut removed = 0;
        for name in self.names()? {
            if name.starts_with(&self.prefix) && name.ends_with(".tmp") {
                let path = self.dir.join(&name);
                match fs::remove_file(&path) {
                    Ok(()) => removed += 1,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(CdiError::io("remove", &path, e)),
                }
            }
        }
        if removed > 0 {
            self.sync()?;
        }
        Ok(removed)
    }

    /// Reads the spec of `id`; `None` when there is no file.
    ///
    /// # Errors
    /// An unreadable file; one that is no spec of ours reads as [`CdiError::Io`] with the parser's words.
    pub fn read(&self, id: &str) -> Result<Option<Spec>, CdiError> {
        let target = self.file(id)?;
        let bytes = match fs::read(&target) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(CdiError::io("read", &target, e)),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| CdiError::io("parse", &target, io::Error::new(io::ErrorKind::InvalidData, e)))
    }

    fn names(&self) -> Result<Vec<String>, CdiError> {
        let entries = fs::read_dir(&self.dir).map_err(|e| CdiError::io("list", &self.dir, e))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| CdiError::io("list", &self.dir, e))?;
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync(&self) -> Result<(), CdiError> {
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| CdiError::io("flush directory", &self.dir, e))
    }
}
