//! Physical memory that is given out as a descriptor: that holds it too (the vendor's documentation of `cuMemRelease`),
//! for the process may import it again when all its handles are released. So a descriptor is a holder until it is seen
//! to be closed, and a handle that is imported from one is another name of the first.
//!
//! Seen by its number: a copy of it, in this process or sent to another one, is not. Programs that share memory with
//! others (NCCL, expandable segments of PyTorch) send the descriptor and close it, and what they release is credited
//! then; what the other process holds of it is charged to nobody.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::map::identity;
use crate::pointers::{Plain, Pointers};
use crate::process::Process;

/// A descriptor that memory was given out as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Export {
    handle: u64,
    device: u64,
    inode: u64,
}

/// Another name of a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name {
    original: u64,
}

// SAFETY: numbers.
unsafe impl Plain for Export {}
// SAFETY: numbers.
unsafe impl Plain for Name {}

/// What a process gave out.
pub(crate) struct Exports {
    // Whether there ever was one. Without it nothing below is looked at.
    any: AtomicBool,
    // How many are not seen to be closed: programs give out what they have at their beginning, and release all the time.
    count: AtomicUsize,
    // By the descriptor plus one.
    open: Pointers<Export>,
    names: Pointers<Name>,
}

impl Exports {
    pub(crate) fn new() -> Self {
        Self {
            any: AtomicBool::new(false),
            count: AtomicUsize::new(0),
            open: Pointers::new(),
            names: Pointers::new(),
        }
    }

    fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// The handle that a handle is a name of; itself for most.
    pub(crate) fn original(&self, handle: u64) -> u64 {
        let name = if self.any() { self.names.get(handle) } else { None };
        name.map_or(handle, |name| name.original)
    }

    /// A handle was made: it is no name of another one any more.
    pub(crate) fn made(&self, handle: u64) {
        if self.any() {
            let _ = self.names.remove(handle);
        }
    }
}

/// What is behind a descriptor: device and inode.
fn behind(fd: i32) -> Option<(u64, u64)> {
    identity(fd).map(|(device, inode, _)| (device, inode))
}

fn key(fd: i32) -> u64 {
    u64::from(fd.unsigned_abs()) + 1
}

impl Process {
    /// A handle was given out as a descriptor.
    pub(crate) fn exported(&self, handle: u64, fd: i32) {
        let handle = self.exports.original(handle);
        let Some((device, inode)) = behind(fd).filter(|_| self.hold(handle)) else { return };
        self.exports.any.store(true, Ordering::Relaxed);
        // Counted before it is there, so that it is never there uncounted.
        self.exports.count.fetch_add(1, Ordering::AcqRel);
        let before = self.exports.open.insert(key(fd), Export { handle, device, inode });
        if before != Ok(None) {
            self.exports.count.fetch_sub(1, Ordering::AcqRel);
        }
        // The same number again: the one before was closed.
        if let Ok(Some(closed)) = before {
            self.let_go(closed.handle);
        }
    }

    /// The program got a handle for memory that was given out: by this process, or by another one, which has paid.
    pub(crate) fn imported(&self, handle: u64, fd: i32) {
        self.exports.made(handle);
        let given = if fd >= 0 && self.exports.any() { self.exports.open.get(key(fd)) } else { None };
        let own = given.filter(|export| behind(fd) == Some((export.device, export.inode)));
        let original = own.map_or(handle, |export| export.handle);
        if self.hold(original) && original != handle {
            let _ = self.exports.names.insert(handle, Name { original });
        }
    }

    /// The handle whose holder goes when `handle` is released, after those that went before it are seen to be gone.
    pub(crate) fn last_of(&self, handle: u64) -> u64 {
        self.close_exports();
        self.exports.original(handle)
    }

    /// Lets go what descriptors held that are closed; whether there were any.
    pub(crate) fn close_exports(&self) -> bool {
        if self.exports.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut closed = 0;
        let is_closed = |key: u64, export: &Export| {
            let fd = i32::try_from(key - 1).unwrap_or(-1);
            behind(fd) != Some((export.device, export.inode))
        };
        self.exports.open.take_where(is_closed, |export| {
            closed += 1;
            self.let_go(export.handle);
        });
        self.exports.count.fetch_sub(closed, Ordering::AcqRel);
        closed != 0
    }
}
