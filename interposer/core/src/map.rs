//! Region files in this process: opened, checked, mapped. What a forked child inherits of its parent's goes when
//! the child drops it.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering};

use vnpu_quota_abi::view::Mapping;

/// Descriptors of ours are moved up here: programs close and reuse the low ones.
const DESCRIPTOR_FLOOR: i32 = 512;

/// An open file. Closing any descriptor of a file drops all record locks of the process on it, so one that a
/// lock was taken on stays open until the process ends.
#[derive(Debug)]
pub(crate) struct File {
    // Another one after the program closed the first.
    fd: AtomicI32,
    device: u64,
    inode: u64,
    size: usize,
}

impl File {
    /// Opens `path`, writable or not.
    pub(crate) fn open(path: &Path, writable: bool) -> Result<Self, String> {
        let fd = open(path, writable)?;
        let Some((device, inode, size)) = identity(fd) else {
            close(fd);
            return Err("its size cannot be read".to_owned());
        };
        Ok(Self { fd: AtomicI32::new(fd), device, inode, size })
    }

    /// The inode number, as `/proc/<pid>/maps` shows it.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// The descriptor; `None` when the program closed it, whatever has its number now.
    pub(crate) fn fd(&self) -> Option<i32> {
        let fd = self.fd.load(Ordering::Relaxed);
        self.is(fd).then_some(fd)
    }

    /// Whether the file still has `length` bytes: behind its end an access to what is mapped kills the process. `None`
    /// when the program closed the descriptor.
    pub(crate) fn has(&self, length: usize) -> Option<bool> {
        let (device, inode, size) = identity(self.fd.load(Ordering::Relaxed))?;
        ((device, inode) == (self.device, self.inode)).then_some(size >= length)
    }

    /// Opens the same file again; `None` when there is another one at `path`, or none.
    pub(crate) fn reopen(&self, path: &Path) -> Option<i32> {
        let fd = open(path, true).ok()?;
        if !self.is(fd) {
            // Another file's: no lock of ours is on it.
            close(fd);
            return None;
        }
        self.fd.store(fd, Ordering::Relaxed);
        Some(fd)
    }

    fn is(&self, fd: i32) -> bool {
        identity(fd).is_some_and(|(device, inode, _)| (device, inode) == (self.device, self.inode))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if let Some(fd) = self.fd() {
            close(fd);
        }
    }
}

fn open(path: &Path, writable: bool) -> Result<i32, String> {
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|_| "its path has a zero".to_owned())?;
    let mode = if writable { libc::O_RDWR } else { libc::O_RDONLY };
    // SAFETY: a zero-terminated path.
    let low = unsafe { libc::open(c_path.as_ptr(), mode | libc::O_CLOEXEC) };
    if low < 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    // SAFETY: a descriptor that we own.
    let high = unsafe { libc::fcntl(low, libc::F_DUPFD_CLOEXEC, DESCRIPTOR_FLOOR) };
    if high < 0 {
        return Ok(low);
    }
    // No lock has been taken yet, and who takes one again after a loss of its descriptor does so after this.
    close(low);
    Ok(high)
}

fn close(fd: i32) {
    // SAFETY: a descriptor that we own.
    unsafe { libc::close(fd) };
}

/// Device, inode and size behind a descriptor.
pub(crate) fn identity(fd: i32) -> Option<(u64, u64, usize)> {
    // SAFETY: an all-zero stat is valid, and fstat writes it.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstat(fd, &raw mut stat) == 0).then(|| {
            #[allow(clippy::unnecessary_cast)] // The widths differ between architectures.
            (stat.st_dev as u64, stat.st_ino as u64, usize::try_from(stat.st_size).unwrap_or(0))
        })
    }
}

/// A whole file, mapped until this is dropped. Views of it must not outlive it.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: an address range, unmapped by its one owner.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps all of `file`.
    pub(crate) fn map(file: &File, writable: bool) -> Result<Self, String> {
        if file.size == 0 {
            return Err("it is empty".to_owned());
        }
        Self::map_first(file, file.size, writable)
    }

    /// Maps its first `length` bytes.
    pub(crate) fn map_first(file: &File, length: usize, writable: bool) -> Result<Self, String> {
        if file.size < length {
            return Err(format!("it has {} bytes of {length}", file.size));
        }
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let fd = file.fd.load(Ordering::Relaxed);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().to_string());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| "it was mapped at zero".to_owned())?;
        Ok(Self { base, len: length })
    }

    /// What views are made from.
    pub(crate) fn mapping(&self) -> Mapping {
        // SAFETY: mapped `len` bytes; a claim keeps the region as long as its views; others use the same atomic
        // layouts.
        unsafe { Mapping::new(self.base, self.len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: our own mapping of that size, which nothing views any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
