//! The streams that a process has launched on since its last mark.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A process uses a few: compute, copies, communication. Of more, the last ones' tails are not measured.
const MOST: usize = 64;

/// `CU_STREAM_PER_THREAD`: another stream in every thread. No stream is at such an address.
pub(crate) const PER_THREAD: usize = 2;

/// More threads than one.
const SEVERAL: usize = usize::MAX;

/// Streams by their address plus one: the default stream is null.
pub(crate) struct Streams {
    noted: [AtomicUsize; MOST],
    /// Whose the noted per-thread stream is.
    own: AtomicUsize,
}

/// A stream that was noted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noted {
    pub(crate) stream: *mut c_void,
    /// Whether it is a per-thread stream of other threads than the calling one.
    pub(crate) is_others: bool,
}

/// A number that no other thread has or ever had.
fn thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    // Without a destructor it can be asked for to the thread's end.
    NUMBER.try_with(|number| *number).unwrap_or(SEVERAL)
}

impl Streams {
    pub(crate) const fn new() -> Self {
        Self { noted: [const { AtomicUsize::new(0) }; MOST], own: AtomicUsize::new(0) }
    }

    /// Notes a stream. One of the first that are noted costs a comparison or two.
    pub(crate) fn note(&self, stream: *mut c_void) {
        if stream as usize == PER_THREAD {
            let (own, before) = (thread(), self.own.load(Ordering::Relaxed));
            let is_own = before == own
                || self.own.compare_exchange(0, own, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if !is_own {
                self.own.store(SEVERAL, Ordering::Release);
            }
        }
        let key = (stream as usize).wrapping_add(1);
        for place in &self.noted {
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
        let noted = self.noted.iter().map(|place| place.load(Ordering::Relaxed)).filter(|key| *key != 0);
        noted.map(|key| key.wrapping_sub(1) as *mut c_void).any(is)
    }

    /// Whether none is noted.
    pub(crate) fn is_empty(&self) -> bool {
        self.noted.iter().all(|place| place.load(Ordering::Relaxed) == 0)
    }

    /// Takes all that are noted.
    pub(crate) fn take(&self) -> impl Iterator<Item = Noted> {
        self.noted.iter().filter_map(|place| {
            let key = place.swap(0, Ordering::AcqRel);
            (key != 0).then(|| self.taken(key.wrapping_sub(1)))
        })
    }

    fn taken(&self, stream: usize) -> Noted {
        // Whoever notes it between the two is another thread's at worst: that costs a barrier, and loses nothing.
        let is_others = stream == PER_THREAD && self.own.swap(0, Ordering::AcqRel) != thread();
        Noted { stream: stream as *mut c_void, is_others }
    }
}
