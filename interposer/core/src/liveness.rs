//! Record locks on the usage file and what `/proc` says: who is alive, judged from inside a container.

use std::fs;

use vnpu_quota_abi::slot::{owner_pid, owner_starttime, owner_word};

/// Takes the record lock on `byte` without waiting.
pub(crate) fn lock(fd: i32, byte: usize) -> bool {
    set(fd, byte, libc::F_WRLCK)
}

/// Gives it back.
pub(crate) fn unlock(fd: i32, byte: usize) {
    set(fd, byte, libc::F_UNLCK);
}

fn set(fd: i32, byte: usize, kind: i32) -> bool {
    let Ok(start) = libc::off_t::try_from(byte) else { return false };
    // SAFETY: an all-zero flock is valid; F_SETLK reads it only.
    unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        lock.l_start = start;
        lock.l_len = 1;
        libc::fcntl(fd, libc::F_SETLK, &raw const lock) == 0
    }
}

/// This process in an owner word. A `/proc` that is not mounted leaves the start time 0.
pub(crate) fn own_word() -> u64 {
    owner_word(std::process::id(), starttime("self").unwrap_or(0))
}

/// The inode number of our PID namespace, 0 when unknown.
pub(crate) fn own_namespace() -> u32 {
    fs::read_link("/proc/self/ns/pid")
        .ok()
        .and_then(|link| link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok())
        .unwrap_or(0)
}

/// Whether a process of our PID namespace with this owner word lives and has the file `inode` mapped. One that
/// we may not look into counts as having it: its bytes are the node agent's to judge.
pub(crate) fn lives(owner: u64, inode: u64) -> bool {
    let pid = owner_pid(owner).to_string();
    if starttime(&pid).is_none_or(|t| (t & 0xffff_ffff) as u32 != owner_starttime(owner)) {
        return false;
    }
    match fs::read_to_string(format!("/proc/{pid}/maps")) {
        Ok(maps) => maps
            .lines()
            .any(|line| line.split_whitespace().nth(4).and_then(|i| i.parse().ok()) == Some(inode)),
        Err(_) => true,
    }
}

fn starttime(process: &str) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program's name in parentheses may hold anything; fields count from behind it. A zombie holds nothing.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
