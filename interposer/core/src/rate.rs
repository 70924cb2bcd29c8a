//! Time for decisions that must not be taken too often: a window of events, and a growing pause between tries.

use std::sync::atomic::{AtomicU64, Ordering};

/// Milliseconds of a clock that never goes back; cheap, and a few milliseconds behind.
fn now() -> u64 {
    // SAFETY: an all-zero timespec is valid, and clock_gettime writes it.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time);
        u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
    }
}

/// At most [`Rate::EVENTS`] events in a window of time. Threads that race may go over it by their number.
pub(crate) struct Rate {
    window: AtomicU64,
    events: AtomicU64,
}

impl Rate {
    const EVENTS: u64 = 8;
    const WINDOW_MILLISECONDS: u64 = 100;

    pub(crate) fn new() -> Self {
        Self { window: AtomicU64::new(0), events: AtomicU64::new(0) }
    }

    /// Whether one more event is allowed now; counts it.
    pub(crate) fn allows(&self) -> bool {
        let window = now() / Self::WINDOW_MILLISECONDS;
        if self.window.swap(window, Ordering::Relaxed) != window {
            self.events.store(0, Ordering::Relaxed);
        }
        self.events.fetch_add(1, Ordering::Relaxed) < Self::EVENTS
    }
}

/// Pauses between tries that double, from 50 ms to 10 s.
pub(crate) struct Backoff {
    next: AtomicU64,
    pause: AtomicU64,
}

impl Backoff {
    const FIRST: u64 = 50;
    const LAST: u64 = 10_000;

    /// The first try has just failed.
    pub(crate) fn new() -> Self {
        Self { next: AtomicU64::new(now() + Self::FIRST), pause: AtomicU64::new(Self::FIRST) }
    }

    /// Whether it is time for another try; says so to one thread only.
    pub(crate) fn is_due(&self) -> bool {
        let (now, next) = (now(), self.next.load(Ordering::Relaxed));
        if now < next {
            return false;
        }
        let pause = (self.pause.load(Ordering::Relaxed) * 2).min(Self::LAST);
        let ours =
            self.next.compare_exchange(next, now + pause, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if ours {
            self.pause.store(pause, Ordering::Relaxed);
        }
        ours
    }
}
