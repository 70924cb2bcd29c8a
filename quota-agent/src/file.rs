//! Region files that tenants can write: read and written by calls, never mapped, so that the worst a tenant can
//! do to one is an error here. New files of any kind are put in place whole.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use vnpu_quota_abi::mark::{Mark, reached};

use crate::AgentError;
use crate::map::invalid;

/// Suffix of files that are being made.
pub(crate) const TEMPORARY: &str = ".tmp";

/// An open file that others may write and cut at any moment.
#[derive(Debug)]
pub(crate) struct SharedFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    /// Its inode number, as `/proc/<pid>/maps` shows it.
    pub(crate) inode: u64,
}

impl SharedFile {
    /// Opens an existing file; `None` when there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, AgentError> {
        Self::open_for(path, true)
    }

    /// As [`Self::open`], for a look that must change nothing.
    pub(crate) fn open_to_read(path: &Path) -> Result<Option<Self>, AgentError> {
        Self::open_for(path, false)
    }

    fn open_for(path: &Path, writing: bool) -> Result<Option<Self>, AgentError> {
        let mut options = OpenOptions::new();
        let file = match options.read(true).write(writing).custom_flags(libc::O_NOFOLLOW).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(AgentError::io("open", path, e)),
        };
        let inode = file.metadata().map_err(|e| AgentError::io("stat", path, e))?.ino();
        Ok(Some(Self { path: path.to_path_buf(), file, inode }))
    }

    /// Its size now.
    pub(crate) fn size(&self) -> Result<u64, AgentError> {
        Ok(self.file.metadata().map_err(|e| AgentError::io("stat", &self.path, e))?.len())
    }

    /// `size` bytes from `offset`. Fewer are there only when somebody has cut the file.
    pub(crate) fn read(&self, offset: usize, size: usize) -> Result<Vec<u8>, AgentError> {
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, offset as u64).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => invalid(&self.path, "somebody has cut it"),
            _ => AgentError::io("read", &self.path, e),
        })?;
        Ok(bytes)
    }

    /// All of it, if it is as long as its layout: a size that somebody else chose is not worked on.
    pub(crate) fn read_all(&self, size: usize) -> Result<Vec<u8>, AgentError> {
        if self.size()? != size as u64 {
            return Err(invalid(&self.path, "its size is not that of its layout"));
        }
        self.read(0, size)
    }

    /// Puts `bytes` at `offset`.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), AgentError> {
        self.file.write_all_at(bytes, offset as u64).map_err(|e| AgentError::io("write", &self.path, e))
    }

    /// Brings it to `size` bytes, those that come new being zeros.
    pub(crate) fn resize(&self, size: usize) -> Result<(), AgentError> {
        self.file.set_len(size as u64).map_err(|e| AgentError::io("size", &self.path, e))?;
        fill(&self.path, &self.file, size)
    }
}

/// Makes a file of `size` bytes, `bytes` and then zeros, under a temporary name and puts it in place.
pub(crate) fn put(path: &Path, bytes: &[u8], size: usize, mode: u32) -> Result<(), AgentError> {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY);
    let temporary = PathBuf::from(name);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&temporary)
        .map_err(|e| AgentError::io("create", &temporary, e))?;
    fill(&temporary, &file, size)?;
    // Set apart from creation: the umask must not decide who can use a region.
    file.set_permissions(Permissions::from_mode(mode))
        .and_then(|()| file.write_all_at(bytes, 0))
        .map_err(|e| AgentError::io("write", &temporary, e))?;
    reached(Mark::FileWritten);
    std::fs::rename(&temporary, path).map_err(|e| AgentError::io("put in place", path, e))
}

/// Blocks are taken now: a full tmpfs must be this error and not a SIGBUS in a tenant later.
fn fill(path: &Path, file: &File, size: usize) -> Result<(), AgentError> {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size as u64)
        .map_err(|e| AgentError::io("fill", path, e))
}
