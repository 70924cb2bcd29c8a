//! Memory behind views: the quota's file mapped, and copies of what tenants can write. All `unsafe` about memory
//! is here; views do not leave the functions that hold what is behind them.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use vnpu_quota_abi::header::Unusable;
use vnpu_quota_abi::view::Mapping;

use crate::AgentError;

/// A file that only the agent writes, mapped writable. One that others can write must not be mapped: whoever
/// cuts it short kills its readers.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    map: MmapRaw,
}

impl MappedFile {
    /// Maps an existing file; `None` when there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, AgentError> {
        Self::open_for(path, true)
    }

    /// As [`Self::open`], for a look that must change nothing: a write through its views kills the process.
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
        let size = file.metadata().map_err(|e| AgentError::io("stat", path, e))?.len();
        if size == 0 {
            return Err(invalid(path, Unusable::Truncated.words()));
        }
        let options = MmapOptions::new();
        let map = if writing { options.map_raw(&file) } else { options.map_raw_read_only(&file) };
        let map = map.map_err(|e| AgentError::io("map", path, e))?;
        Ok(Some(Self { path: path.to_path_buf(), map }))
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
        invalid(&self.path, problem)
    }

    pub(crate) fn unusable(&self, why: Unusable) -> AgentError {
        self.invalid(why.words())
    }
}

/// A region's bytes in memory of our own.
#[derive(Debug)]
pub(crate) struct Copy {
    words: Box<[AtomicU64]>,
}

impl Copy {
    /// Zeros, to make a region in. Sizes of regions are whole words.
    pub(crate) fn zeroed(size: usize) -> Self {
        Self { words: (0..size.div_ceil(8)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// A copy of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let words = bytes.chunks_exact(8).filter_map(|c| c.try_into().ok());
        Self { words: words.map(|c| AtomicU64::new(u64::from_ne_bytes(c))).collect() }
    }

    /// What stands in it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.first(size_of_val(&*self.words))
    }

    /// The first `size` bytes of it, in whole words: a header can be had without what follows.
    pub(crate) fn first(&self, size: usize) -> Vec<u8> {
        let words = self.words.iter().take(size.div_ceil(8));
        words.flat_map(|w| w.load(Ordering::Relaxed).to_ne_bytes()).collect()
    }

    /// The memory, for a view. The view must not outlive `self`.
    pub(crate) fn mapping(&self) -> Mapping {
        let base = NonNull::from(&*self.words).cast::<u8>();
        // SAFETY: the words live as long as `self`, which callers in this crate keep beside every view; they are
        // atomics, so that writing through a shared reference is fine.
        unsafe { Mapping::new(base, size_of_val(&*self.words)) }
    }
}

pub(crate) fn invalid(path: &Path, problem: impl Into<String>) -> AgentError {
    AgentError::Invalid { path: path.to_path_buf(), problem: problem.into() }
}
