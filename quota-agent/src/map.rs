//! Files mapped as regions. All `unsafe` of the crate is here: a mapping lives as long as its `RegionFile`, and
//! views of it do not leave the functions that hold one.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw};
use vnpu_quota_abi::header::Unusable;
use vnpu_quota_abi::view::Mapping;

use crate::AgentError;

/// A region file, open and mapped writable.
#[derive(Debug)]
pub(crate) struct RegionFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    map: MmapRaw,
}

impl RegionFile {
    /// Maps an existing file; `None` when there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, AgentError> {
        let file = match OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(AgentError::io("open", path, e)),
        };
        Self::map(path, file).map(Some)
    }

    /// Makes a file of `size` zeros under a temporary name; [`RegionFile::rename`] puts it in place.
    pub(crate) fn create(path: &Path, size: usize, mode: u32) -> Result<Self, AgentError> {
        let mut name = path.as_os_str().to_owned();
        name.push(TEMPORARY);
        let temporary = PathBuf::from(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary)
            .map_err(|e| AgentError::io("create", &temporary, e))?;
        // Set apart from creation: the umask must not decide who can use a region.
        file.set_permissions(Permissions::from_mode(mode))
            .and_then(|()| file.set_len(size as u64))
            .map_err(|e| AgentError::io("size", &temporary, e))?;
        // Blocks are taken now: a full tmpfs must be this error and not a SIGBUS in a tenant later.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size as u64)
            .map_err(|e| AgentError::io("fill", &temporary, e))?;
        Self::map(&temporary, file)
    }

    /// Moves a file made by [`RegionFile::create`] to `path`.
    pub(crate) fn rename(&mut self, path: &Path) -> Result<(), AgentError> {
        std::fs::rename(&self.path, path).map_err(|e| AgentError::io("put in place", path, e))?;
        self.path = path.to_path_buf();
        Ok(())
    }

    fn map(path: &Path, file: File) -> Result<Self, AgentError> {
        let map = MmapOptions::new().map_raw(&file).map_err(|e| AgentError::io("map", path, e))?;
        Ok(Self { path: path.to_path_buf(), file, map })
    }

    /// The mapping, for a view. The view must not outlive `self`.
    pub(crate) fn mapping(&self) -> Result<Mapping, AgentError> {
        let base =
            NonNull::new(self.map.as_mut_ptr()).ok_or_else(|| self.invalid(Unusable::Truncated.words()))?;
        // SAFETY: the range is mapped for as long as `self` lives; callers in this crate keep `self` beside
        // every view; other processes access the file through the same atomic layouts.
        Ok(unsafe { Mapping::new(base, self.map.len()) })
    }

    pub(crate) fn invalid(&self, problem: impl Into<String>) -> AgentError {
        AgentError::Invalid { path: self.path.clone(), problem: problem.into() }
    }

    pub(crate) fn unusable(&self, why: Unusable) -> AgentError {
        self.invalid(why.words())
    }
}

/// Suffix of files that are being made.
pub(crate) const TEMPORARY: &str = ".tmp";
