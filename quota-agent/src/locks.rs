//! Record locks on the bytes of a usage file: a process holds the one of its slot for as long as it lives, and
//! whoever reaps the slot holds it meanwhile.

use std::fs::File;
use std::os::fd::AsRawFd;

/// A record lock on one byte, held until dropped. Dropping unlocks the byte only; the file stays open.
pub(crate) struct ByteLock<'a> {
    file: &'a File,
    byte: i64,
}

impl Drop for ByteLock<'_> {
    fn drop(&mut self) {
        let _ = set_lock(self.file, self.byte, libc::F_UNLCK);
    }
}

/// Takes the record lock on `byte` without waiting; `None` when another process has it.
pub(crate) fn try_lock(file: &File, byte: usize) -> Option<ByteLock<'_>> {
    let byte = i64::try_from(byte).ok()?;
    set_lock(file, byte, libc::F_WRLCK).then_some(ByteLock { file, byte })
}

/// Whether another process holds the record lock on `byte`. Judged by the type that comes back, not by the pid,
/// which is 0 for a process of another PID namespace.
pub(crate) fn is_locked(file: &File, byte: usize) -> bool {
    let Ok(byte) = i64::try_from(byte) else { return false };
    let mut lock = flock(byte, libc::F_WRLCK);
    // SAFETY: F_GETLK reads and writes the given struct only.
    let rc = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) };
    rc == 0 && i32::from(lock.l_type) != libc::F_UNLCK
}

fn set_lock(file: &File, byte: i64, kind: i32) -> bool {
    let lock = flock(byte, kind);
    // SAFETY: F_SETLK reads the given struct only.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) == 0 }
}

fn flock(byte: i64, kind: i32) -> libc::flock {
    libc::flock {
        // The constants fit: F_RDLCK, F_WRLCK and F_UNLCK are 0 to 2.
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}
