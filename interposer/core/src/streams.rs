//! The streams that a process has launched on since its last mark.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A process uses a few: compute, copies, communication. Of more, the last ones' tails are not measured.
const MOST: usize = 64;

/// Streams by their address plus one: the default stream is null.
pub(crate) struct Streams([AtomicUsize; MOST]);

impl Streams {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicUsize::new(0) }; MOST])
    }

    /// Notes a stream. One of the first that are noted costs a comparison or two.
    pub(crate) fn note(&self, stream: *mut c_void) {
        let key = (stream as usize).wrapping_add(1);
        for place in &self.0 {
            let mut found = place.load(Ordering::Relaxed);
            if found == 0 {
                match place.compare_exchange(0, key, Ordering::AcqRel, Ordering::Relaxed) {
                    Ok(_) => return,
                    Err(other) => found = other,
                }
            }
            if found == key {
                return;
            }
        }
    }

    /// Whether any that is noted is such a one.
    pub(crate) fn any(&self, is: impl Fn(*mut c_void) -> bool) -> bool {
        let noted = self.0.iter().map(|place| place.load(Ordering::Relaxed)).filter(|key| *key != 0);
        noted.map(|key| key.wrapping_sub(1) as *mut c_void).any(is)
    }

    /// Whether none is noted.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|place| place.load(Ordering::Relaxed) == 0)
    }

    /// Takes all that are noted.
    pub(crate) fn take(&self) -> impl Iterator<Item = *mut c_void> {
        self.0.iter().filter_map(|place| {
            let key = place.swap(0, Ordering::AcqRel);
            (key != 0).then(|| key.wrapping_sub(1) as *mut c_void)
        })
    }
}
