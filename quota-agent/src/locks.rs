//! Record locks on the bytes of a usage file: a process holds the one of its slot for as long as it lives, and
//! whoever reaps the slot holds it meanwhile.
//!
//! For each question the kernel walks all locks of the file, and how many there are is up to the claim's processes. So a
//! question is about many slots at once, and the answers to one claim's may take only so long.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time of our own that questions about locks may take. Wall time would count who else is busy.
#[derive(Debug)]
pub(crate) struct Budget {
    left: Duration,
}

impl Budget {
    /// What one claim may cost at a time: ten thousand locks for each of its slots.
    pub(crate) const fn of_claim() -> Self {
        Self { left: Duration::from_millis(20) }
    }

    /// Nothing is left.
    pub(crate) const fn is_spent(&self) -> bool {
        self.left.is_zero()
    }

    fn charge<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = processor_time();
        let out = work();
        self.left = self.left.saturating_sub(processor_time().saturating_sub(before));
        out
    }
}

fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

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
pub(crate) fn try_lock<'a>(file: &'a File, byte: usize, budget: &mut Budget) -> Option<ByteLock<'a>> {
    let byte = i64::try_from(byte).ok()?;
    budget.charge(|| set_lock(file, byte, libc::F_WRLCK)).then_some(ByteLock { file, byte })
}

/// Which of `bytes`, which are in order, are locked by other processes. Those that the budget is too small for count as
/// locked: a living process's slot must not be given back.
pub(crate) fn locked(file: &File, bytes: &[usize], budget: &mut Budget) -> BTreeSet<usize> {
    split(
        bytes,
        |range| {
            if budget.is_spent() { Found::Unknown } else { budget.charge(|| find_lock(file, range)) }
        },
    )
}

/// What there is in a range.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    /// No lock.
    Free,
    /// A lock on these bytes, and perhaps others.
    Locked(RangeInclusive<usize>),
    /// Nobody knows.
    Unknown,
}

/// Asks about all `bytes` at once, and about those on both sides of each lock that is found.
fn split(bytes: &[usize], mut ask: impl FnMut(RangeInclusive<usize>) -> Found) -> BTreeSet<usize> {
    let mut locked = BTreeSet::new();
    let mut open = vec![bytes];
    while let Some(bytes) = open.pop() {
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { continue };
        match ask(*first..=*last) {
            Found::Free => (),
            Found::Locked(lock) if lock.start() <= last && lock.end() >= first => {
                let (below, rest) = bytes.split_at(bytes.partition_point(|byte| byte < lock.start()));
                let (in_it, above) = rest.split_at(rest.partition_point(|byte| byte <= lock.end()));
                locked.extend(in_it);
                open.extend([below, above]);
            }
            Found::Locked(_) | Found::Unknown => locked.extend(bytes),
        }
    }
    locked
}

/// A lock of another process in the range. Judged by the type that comes back, not by the pid, which is 0 for a process
/// of another PID namespace.
fn find_lock(file: &File, range: RangeInclusive<usize>) -> Found {
    let (Ok(start), Ok(end)) = (i64::try_from(*range.start()), i64::try_from(*range.end())) else {
        return Found::Unknown;
    };
    let mut lock = flock(start, end.saturating_sub(start).saturating_add(1), libc::F_WRLCK);
    // SAFETY: F_GETLK reads and writes the given struct only.
    let rc = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) };
    if rc != 0 || i32::from(lock.l_type) == libc::F_UNLCK {
        return Found::Free;
    }
    let start = usize::try_from(lock.l_start).unwrap_or(0);
    // 0 stands for all that follows.
    let length = usize::try_from(lock.l_len).ok().filter(|length| *length != 0).unwrap_or(usize::MAX);
    Found::Locked(start..=start.saturating_add(length - 1))
}

fn set_lock(file: &File, byte: i64, kind: i32) -> bool {
    let lock = flock(byte, 1, kind);
    // SAFETY: F_SETLK reads the given struct only.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) == 0 }
}

fn flock(start: i64, length: i64, kind: i32) -> libc::flock {
    libc::flock {
        // The constants fit: F_RDLCK, F_WRLCK and F_UNLCK are 0 to 2.
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests;
