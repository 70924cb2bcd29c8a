//! Whether a file is still the one that it was.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What tells one file from another that was put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    /// Of the file behind links; `None` for one that is not there.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        Some(Self {
            device: data.dev(),
            inode: data.ino(),
            seconds: data.mtime(),
            nanoseconds: data.mtime_nsec(),
        })
    }
    /// Of which object this is, whatever was written to it: times of `/sys` are those of the first look at a file, and the
    /// loader takes a file that was written anew in place for the one that it has.
    pub(crate) fn of_object(path: &Path) -> Option<Self> {
        Self::of(path).map(|stamp| Self { seconds: 0, nanoseconds: 0, ..stamp })
    }
}

/// A path of the same file that the loader does not know yet (`dir/./file`): it takes a path that it knows for the file
/// that it has already. `generation` is how many files were loaded from this path before.
pub(crate) fn unknown_path(path: &Path, generation: usize) -> std::path::PathBuf {
    let mut fresh = path.parent().unwrap_or(Path::new("/")).as_os_str().to_owned();
    (0..generation).for_each(|_| fresh.push("/."));
    std::path::PathBuf::from(fresh).join(path.file_name().unwrap_or_default())
}
