//! Which process this is. The state hangs on a page that the kernel zeroes in a forked child, so that a child
//! finds itself unattached, takes a slot of its own at its first call and never touches its parent's.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

use vnpu_quota_abi::table::FrontTable;

use crate::process::Process;

#[repr(C)]
struct Page {
    // Both in the page, so that a child never inherits them held.
    attaching: AtomicU32,
    reaping: AtomicU32,
    process: AtomicPtr<Process>,
}

const PAGE_SIZE: usize = 65536;

static PAGE: AtomicPtr<Page> = AtomicPtr::new(std::ptr::null_mut());
// Not in the page: a child finds its parent's process here and drops what it inherited with it.
static LATEST: AtomicPtr<Process> = AtomicPtr::new(std::ptr::null_mut());

/// A right that one thread of the process has at a time; given back on drop, by a panic too.
pub(crate) struct Turn(&'static AtomicU32);

impl Turn {
    fn take(word: &'static AtomicU32) -> Option<Self> {
        word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).ok().map(|_| Self(word))
    }

    /// Bounded, because a hook never hangs. First only others' time slices: most turns last microseconds.
    fn wait(word: &'static AtomicU32, milliseconds: u32) -> Option<Self> {
        for _ in 0..64 {
            if let Some(turn) = Self::take(word) {
                return Some(turn);
            }
            std::thread::yield_now();
        }
        for _ in 0..milliseconds {
            if let Some(turn) = Self::take(word) {
                return Some(turn);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Self::take(word)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

/// The process, attached if it is not; `None` when that cannot be done (no memory, or another thread is at it
/// for seconds).
pub(crate) fn current(front: &'static FrontTable) -> Option<&'static Process> {
    let page = page()?;
    // SYNC POINT: pairs with the Release store below.
    let known = page.process.load(Ordering::Acquire);
    // SAFETY: a process is leaked once it is published, or null.
    if let Some(process) = unsafe { known.as_ref() } {
        return Some(process);
    }
    // Attaching takes a millisecond.
    let _turn = Turn::wait(&page.attaching, 2000)?;
    let mut process = page.process.load(Ordering::Acquire);
    if process.is_null() {
        let inherited = LATEST.swap(std::ptr::null_mut(), Ordering::AcqRel);
        if !inherited.is_null() {
            // SAFETY: leaked by an ancestor; nobody in this process has seen it. Its descriptors must go before
            // we take locks: closing one drops all locks that this process has on the file.
            drop(unsafe { Box::from_raw(inherited) });
        }
        process = Box::into_raw(Box::new(Process::attach(front)));
        page.process.store(process, Ordering::Release);
        LATEST.store(process, Ordering::Release);
    }
    // SAFETY: leaked above or by another thread.
    unsafe { process.as_ref() }
}

/// The process if it is attached already.
pub(crate) fn attached() -> Option<&'static Process> {
    // SAFETY: null or our page, mapped for ever.
    let page = unsafe { PAGE.load(Ordering::Acquire).as_ref() }?;
    // SAFETY: null or a leaked process.
    unsafe { page.process.load(Ordering::Acquire).as_ref() }
}

/// The right to attach to claims, if no other thread has it.
pub(crate) fn attach_turn() -> Option<Turn> {
    Turn::take(&page()?.attaching)
}

/// The right to take and reap slots. Record locks do not keep threads of one process from each other: both have
/// a lock that one took, and both lose it when one gives it back. Waits at most so long.
pub(crate) fn slots_turn(milliseconds: u32) -> Option<Turn> {
    Turn::wait(&page()?.reaping, milliseconds)
}

fn page() -> Option<&'static Page> {
    let known = PAGE.load(Ordering::Acquire);
    // SAFETY: null or our page, mapped for ever.
    if let Some(page) = unsafe { known.as_ref() } {
        return Some(page);
    }
    let fresh = map_page()?;
    match PAGE.compare_exchange(std::ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: mapped above, zeroed, never unmapped.
        Ok(_) => unsafe { fresh.as_ref() },
        Err(other) => {
            // SAFETY: ours, and nobody has seen it.
            unsafe { libc::munmap(fresh.cast(), PAGE_SIZE) };
            // SAFETY: another thread's page, mapped for ever.
            unsafe { other.as_ref() }
        }
    }
}

fn map_page() -> Option<*mut Page> {
    // SAFETY: a new anonymous mapping, private so that wiping is allowed; large enough for every page size.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGE_SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: our own mapping.
    if unsafe { libc::madvise(base, PAGE_SIZE, libc::MADV_WIPEONFORK) } != 0 {
        // Kernels before 4.14. The handler does the same for children of fork(3), not for those of a bare clone.
        // SAFETY: registers a function that stays loaded: this library is never unloaded.
        unsafe { libc::pthread_atfork(None, None, Some(wipe)) };
    }
    Some(base.cast())
}

unsafe extern "C" fn wipe() {
    // SAFETY: null or our page.
    if let Some(page) = unsafe { PAGE.load(Ordering::Relaxed).as_ref() } {
        page.process.store(std::ptr::null_mut(), Ordering::Relaxed);
        page.attaching.store(0, Ordering::Relaxed);
        page.reaping.store(0, Ordering::Relaxed);
    }
}
