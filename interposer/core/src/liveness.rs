//! Record locks on the usage file and what `/proc` says: who is alive, judged from inside a container.

use std::fs;
use std::path::Path;

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
    let stat = text("/proc/self/stat".as_ref()).ok();
    owner_word(std::process::id(), stat.as_deref().and_then(Stat::parse).map_or(0, |s| s.starttime))
}

/// The inode number of our PID namespace, 0 when unknown.
pub(crate) fn own_namespace() -> u32 {
    fs::read_link("/proc/self/ns/pid")
        .ok()
        .and_then(|link| link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok())
        .unwrap_or(0)
}

/// Names of programs and files need not be UTF-8.
fn text(path: &Path) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

/// Whether a process of our PID namespace with this owner word lives and may hold device memory for the ledger
/// `inode`. One that we may not look into, or whose start nobody knows, counts as living: its bytes are the node agent's
/// to judge.
pub(crate) fn lives(owner: u64, inode: u64) -> bool {
    if owner_starttime(owner) == 0 {
        return true;
    }
    let process = Path::new("/proc").join(owner_pid(owner).to_string());
    let look = || -> Life {
        match text(&process.join("stat")) {
            Ok(stat) => life(&stat, owner_starttime(owner), || threads(&process)),
            // A `/proc` may hide the processes of other users.
            Err(_) if exists(owner_pid(owner)) => Life::Holds,
            Err(_) => Life::Gone,
        }
    };
    match look() {
        Life::Gone => return false,
        Life::Holds => return true,
        Life::Runs if a_thread_waits(&process) => return true,
        Life::Runs => (),
    }
    match text(&process.join("maps")) {
        Ok(maps) if maps_inode(&maps, inode) => true,
        // Either it executed another program, or it has begun to die since: asked again.
        Ok(_) => look() == Life::Holds,
        Err(_) => true,
    }
}

/// How alive a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It ended: its device files are released.
    Gone,
    /// It is dying, or only its first thread has ended: its memory is still mapped on the device. Or it waits in the
    /// kernel, perhaps for a file system that never answers: whoever read its mappings would wait with it.
    Holds,
    /// It runs.
    Runs,
}

/// Judges the text of `/proc/<pid>/stat`; `threads` counts the entries of its `task` directory.
pub(crate) fn life(stat: &str, starttime: u32, threads: impl FnOnce() -> usize) -> Life {
    let Some(stat) = Stat::parse(stat) else { return Life::Holds };
    if (stat.starttime & 0xffff_ffff) as u32 != starttime {
        return Life::Gone;
    }
    match stat.state {
        b'X' | b'x' => Life::Gone,
        // A first thread that ended is shown like this although the others run.
        b'Z' if threads() > 1 => Life::Holds,
        b'Z' => Life::Gone,
        // A dying process loses its mappings and its locks first, then closes the device, and then is a zombie.
        _ if stat.flags & PF_EXITING != 0 => Life::Holds,
        b'D' => Life::Holds,
        _ => Life::Runs,
    }
}

/// Bit of the kernel's task flags: it is on its way out (`include/linux/sched.h`).
const PF_EXITING: u64 = 4;

struct Stat {
    state: u8,
    flags: u64,
    starttime: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The program's name in parentheses may hold anything; fields count from behind it.
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        // Fields 9 and 22; the state was 3.
        let flags = fields.nth(5)?.parse().ok()?;
        let starttime = fields.nth(12)?.parse().ok()?;
        Some(Self { state, flags, starttime })
    }
}

/// Whether one of the threads waits in the kernel, perhaps with the process's mappings locked.
fn a_thread_waits(process: &Path) -> bool {
    let threads = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    let mut stats = threads.filter_map(|thread| text(&thread.path().join("stat")).ok());
    stats.any(|stat| Stat::parse(&stat).is_some_and(|stat| stat.state == b'D'))
}

fn threads(process: &Path) -> usize {
    fs::read_dir(process.join("task")).map_or(0, Iterator::count)
}

fn exists(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    // SAFETY: signal 0 is sent to nobody; it asks only.
    pid > 0
        && (unsafe { libc::kill(pid, 0) } == 0
            || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM))
}

fn maps_inode(maps: &str, inode: u64) -> bool {
    maps.lines().any(|line| line.split_whitespace().nth(4).and_then(|i| i.parse().ok()) == Some(inode))
}
