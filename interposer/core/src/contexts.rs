//! What ends with a context of the CUDA driver: all that was allocated in it, but not physical memory by handles and
//! not what comes from pools (the vendor's documentation of `cuCtxDestroy`). A device's primary context is shared by
//! all that retain it; whether it ended is asked, not counted.
//!
//! Not followed are `cuCtxDetach` and `cuGreenCtxDestroy`: what they free stays charged until the process ends.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

use vnpu_quota_abi::table::{Ending, Fate};

use crate::process::Process;

/// Greatest device number whose primary context is remembered.
const REMEMBERED: usize = 64;

/// Numbers of contexts that may be about to end have this bit: no address has.
const MARK: u64 = 1 << 63;

/// The contexts of a process, as far as memory is concerned.
pub(crate) struct Contexts {
    primary: [AtomicU64; REMEMBERED],
    marks: AtomicU64,
}

impl Contexts {
    pub(crate) const fn new() -> Self {
        Self { primary: [const { AtomicU64::new(0) }; REMEMBERED], marks: AtomicU64::new(MARK) }
    }

    fn primary(&self, device: i32) -> Option<&AtomicU64> {
        self.primary.get(usize::try_from(device).ok()?)
    }
}

impl Process {
    /// The calling thread's context; 0 when it has none, or the driver does not say.
    pub(crate) fn current_context(&self) -> u64 {
        self.driver().and_then(|driver| driver.current_context()).unwrap_or(0)
    }

    /// A context is the primary one of a device.
    pub(crate) fn note_primary(&self, device: i32, context: *mut c_void) {
        self.retry();
        self.primaries.retained(device);
        if let Some(place) = self.contexts.primary(device) {
            place.store(context as u64, Ordering::Relaxed);
        }
    }

    /// The program is about to end a context (null: the primary one of the device). Its memory is marked, because the
    /// driver may give a new context the same number before we hear that this one is gone.
    pub(crate) fn end_context(&self, device: i32, context: *mut c_void) -> Ending {
        let primary = || self.contexts.primary(device).map_or(0, |place| place.load(Ordering::Relaxed));
        let context = if context.is_null() { primary() } else { context as u64 };
        if context == 0 {
            return Ending::default();
        }
        let mark = self.contexts.marks.fetch_add(1, Ordering::Relaxed);
        let any = self.pointers.relabel(context, mark);
        Ending { context, mark: if any { mark } else { 0 } }
    }

    /// What became of it.
    pub(crate) fn ended(&self, device: i32, ending: &Ending, fate: Fate) {
        let gone = match fate {
            Fate::Stays => false,
            Fate::Gone => true,
            Fate::Unknown => self.driver().is_some_and(|driver| driver.has_primary(device) == Some(false)),
        };
        if gone {
            self.pointers.sweep(ending.mark, |block| self.give_back(block));
        } else {
            let _ = self.pointers.relabel(ending.mark, ending.context);
        }
    }
}
