//! The streams that a process has launched on since its last mark. Noting one that is noted costs one comparison.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A process uses a few: compute, copies, communication. Of more, the last ones' tails are not measured.
const MOST: usize = 16;

/// Streams by their address plus one: the default stream is null.
pub(crate) struct Streams {
    recent: AtomicUsize,
    noted: [AtomicUsize; MOST],
}

impl Streams {
    pub(crate) const fn new() -> Self {
        Self { recent: AtomicUsize::new(0), noted: [const { AtomicUsize::new(0) }; MOST] }
    }

    /// Notes a stream.
    pub(crate) fn note(&self, stream: *mut c_void) {
        let key = (stream as usize).wrapping_add(1);
        if self.recent.load(Ordering::Relaxed) == key {
            return;
        }
        for place in &self.noted {
            match place.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(other) if other == key => break,
                Err(_) => {}
            }
        }
        self.recent.store(key, Ordering::Relaxed);
    }

    /// Whether a stream is noted.
    pub(crate) fn has(&self, stream: *mut c_void) -> bool {
        let key = (stream as usize).wrapping_add(1);
        self.noted.iter().any(|place| place.load(Ordering::Relaxed) == key)
    }

    /// Takes all that are noted.
    pub(crate) fn take(&self) -> impl Iterator<Item = *mut c_void> {
        self.recent.store(0, Ordering::Relaxed);
        self.noted.iter().filter_map(|place| {
            let key = place.swap(0, Ordering::Relaxed);
            (key != 0).then(|| key.wrapping_sub(1) as *mut c_void)
        })
    }
}
