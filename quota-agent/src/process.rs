//! Whether the owner of a slot lives. The record lock on the slot's byte decides; `/proc` is asked only when the
//! lock is free, because a process that closes all its files loses the lock and lives on.

use std::fs::{self, File};
use std::os::fd::AsRawFd;

use vnpu_quota_abi::slot::{owner_pid, owner_starttime};

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

/// Whether `/proc` shows a process of this owner word and PID namespace that has the usage file `inode` mapped.
/// A namespace of 0 (never written) or a `/proc` that hides the process says no.
pub(crate) fn lives(owner: u64, pidns: u32, inode: u64) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        let numeric = entry.file_name().to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        numeric
            && namespace(&path) == Some(pidns)
            && starttime(&path).is_some_and(|t| (t & 0xffff_ffff) as u32 == owner_starttime(owner))
            && innermost_pid(&path) == Some(owner_pid(owner))
            && maps_inode(&path, inode)
    })
}

fn namespace(process: &std::path::Path) -> Option<u32> {
    let link = fs::read_link(process.join("ns/pid")).ok()?;
    link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

fn starttime(process: &std::path::Path) -> Option<u64> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything; fields count from behind it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn innermost_pid(process: &std::path::Path) -> Option<u32> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

fn maps_inode(process: &std::path::Path, inode: u64) -> bool {
    // After an exec the process lives and has its start time, but neither mapping nor memory any more.
    fs::read_to_string(process.join("maps")).is_ok_and(|maps| {
        maps.lines().any(|l| l.split_whitespace().nth(4).and_then(|i| i.parse().ok()) == Some(inode))
    })
}
