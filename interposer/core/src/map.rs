//! Region files in this process: opened once, checked, mapped for ever.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use vnpu_quota_abi::view::Mapping;

/// Descriptors of ours are moved up here: programs close and reuse the low ones.
const DESCRIPTOR_FLOOR: i32 = 512;

/// An open file, never closed: closing any descriptor of a file drops all record locks of the process on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) fd: i32,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: usize,
}

/// Opens `path`, writable or not.
pub(crate) fn open(path: &Path, writable: bool) -> Result<Opened, String> {
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|_| "its path has a zero".to_owned())?;
    let mode = if writable { libc::O_RDWR } else { libc::O_RDONLY };
    // SAFETY: a zero-terminated path.
    let low = unsafe { libc::open(c_path.as_ptr(), mode | libc::O_CLOEXEC) };
    if low < 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    // SAFETY: a descriptor that we own.
    let high = unsafe { libc::fcntl(low, libc::F_DUPFD_CLOEXEC, DESCRIPTOR_FLOOR) };
    let fd = if high >= 0 {
        // SAFETY: ours, and no lock has been taken on the file yet.
        unsafe { libc::close(low) };
        high
    } else {
        low
    };
    let (device, inode, size) = identity(fd).ok_or_else(|| "its size cannot be read".to_owned())?;
    Ok(Opened { fd, device, inode, size })
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

/// Maps the whole file. The mapping stays until the process ends.
pub(crate) fn map(file: Opened, writable: bool) -> Result<Mapping, String> {
    if file.size == 0 {
        return Err("it is empty".to_owned());
    }
    let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base =
        unsafe { libc::mmap(std::ptr::null_mut(), file.size, protection, libc::MAP_SHARED, file.fd, 0) };
    if base == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().to_string());
    }
    let base = NonNull::new(base.cast()).ok_or_else(|| "it was mapped at zero".to_owned())?;
    // SAFETY: mapped for ever, `file.size` bytes; others use the same atomic layouts.
    Ok(unsafe { Mapping::new(base, file.size) })
}
