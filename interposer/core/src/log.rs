//! One line on standard error, at most once per kind and process: the failure policy must be visible, and a
//! program that allocates in a loop must not drown in it.

use std::sync::atomic::{AtomicU32, Ordering};

/// Kinds of line; each is written once.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Kind {
    Region = 1,
    Slots = 2,
    Device = 4,
    Pointers = 8,
    Internal = 16,
    Compute = 32,
    Cut = 64,
    Unhooked = 128,
    Stuck = 256,
}

static WRITTEN: AtomicU32 = AtomicU32::new(0);

/// Writes `vnpu: <text>` unless a line of this kind was written already.
pub(crate) fn once(kind: Kind, text: &str) {
    if WRITTEN.fetch_or(kind as u32, Ordering::Relaxed) & kind as u32 == 0 {
        let line = format!("vnpu: {text}\n");
        // SAFETY: writes from a valid slice. One call, so that lines of several processes do not mix.
        let _ = unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
    }
}
