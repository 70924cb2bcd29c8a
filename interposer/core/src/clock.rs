//! Time, and waiting for a word in shared memory: bounded always.

use std::sync::atomic::AtomicU64;

/// `CLOCK_MONOTONIC` in nanoseconds: the clock that all processes of the node share, and that nobody sets.
pub(crate) fn now() -> u64 {
    // SAFETY: an all-zero timespec is valid, and clock_gettime writes it.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time);
        time
    };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The half of a 64-bit word that has its lowest bits: of the lease word the expiry, which every change changes.
fn low_half(word: &AtomicU64) -> *const u32 {
    let half = word.as_ptr().cast::<u32>().cast_const();
    if cfg!(target_endian = "little") { half } else { half.wrapping_add(1) }
}

/// Waits until `word` is not `seen` any more and somebody woke us, or `nanoseconds` are over.
pub(crate) fn wait_for_change(word: &AtomicU64, seen: u64, nanoseconds: u64) {
    // SAFETY: an all-zero timespec is valid.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    time.tv_sec = libc::time_t::try_from(nanoseconds / 1_000_000_000).unwrap_or(0);
    time.tv_nsec = libc::c_long::try_from(nanoseconds % 1_000_000_000).unwrap_or(0);
    // SAFETY: a word in mapped memory, as long as `word` lives, and a valid time. Not private: other processes wake us.
    unsafe {
        libc::syscall(libc::SYS_futex, low_half(word), libc::FUTEX_WAIT, seen as u32, &raw const time, 0, 0);
    }
}

/// Wakes all who wait for a change of `word`.
pub(crate) fn wake_all(word: &AtomicU64) {
    // SAFETY: a word in mapped memory.
    unsafe {
        libc::syscall(libc::SYS_futex, low_half(word), libc::FUTEX_WAKE, i32::MAX, 0, 0, 0);
    }
}
