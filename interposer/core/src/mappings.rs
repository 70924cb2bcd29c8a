//! Physical memory behind addresses: which handles hold it, and which mappings. It is given back with the last of both,
//! and only when the driver has agreed to let them go.

use vnpu_quota_abi::table::KeyKind;

use crate::allocations::tagged;
use crate::pointers::{Plain, Pointers};
use crate::process::Process;

/// Addresses that memory of a handle is mapped to, known by the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    /// 0 for a handle that is not known, as another process's: the mapping is noted for what is beside it.
    handle: u64,
    size: u64,
}

// SAFETY: numbers.
unsafe impl Plain for Mapping {}

/// The mappings of a process.
pub(crate) struct Mappings {
    here: Pointers<Mapping>,
    // Those that the driver is asked to end. Apart, since another thread may have the addresses again before the one
    // that asked hears of it.
    leaving: Pointers<Mapping>,
}

impl Mappings {
    pub(crate) fn new() -> Self {
        Self { here: Pointers::new(), leaving: Pointers::new() }
    }
}

impl Process {
    /// A handle of physical memory has one holder more; whether it is known. One that is not is another process's.
    pub(crate) fn hold(&self, handle: u64) -> bool {
        self.pointers.hold(tagged(KeyKind::Handle, self.exports.original(handle)))
    }

    /// One holder less.
    pub(crate) fn let_go(&self, handle: u64) {
        if handle != 0
            && let Some(Some(block)) = self.pointers.let_go(tagged(KeyKind::Handle, handle))
        {
            self.give_back(block);
        }
    }

    /// Memory of a handle is mapped, and stays when the handle is released.
    pub(crate) fn mapped(&self, address: u64, size: u64, handle: u64) {
        let handle = self.exports.original(handle);
        let handle = if self.hold(handle) { handle } else { 0 };
        // The same addresses again: the end of what was there before went by us.
        if let Ok(Some(stale)) = self.mappings.here.insert(address, Mapping { handle, size }) {
            self.let_go(stale.handle);
        }
    }

    /// The program is about to unmap a range; whether that is mappings from end to end, all of which are known. The
    /// driver refuses parts of them.
    pub(crate) fn unmap(&self, address: u64, size: u64) -> bool {
        let Mappings { here, leaving } = &self.mappings;
        if !walk(address, size, |at| here.get(at)) {
            return false;
        }
        walk(address, size, |at| {
            let mapping = here.remove(at)?;
            match leaving.insert(at, mapping) {
                Ok(stale) => stale.into_iter().for_each(|stale| self.let_go(stale.handle)),
                // There is no room: it stays charged.
                Err(()) => drop(here.insert(at, mapping)),
            }
            Some(mapping)
        })
    }

    /// How that ended.
    pub(crate) fn unmapped(&self, address: u64, size: u64, ok: bool) {
        let Mappings { here, leaving } = &self.mappings;
        walk(address, size, |at| {
            let mapping = leaving.remove(at)?;
            if ok {
                self.let_go(mapping.handle);
            } else {
                let _ = here.insert(at, mapping);
            }
            Some(mapping)
        });
    }
}

/// Goes from mapping to mapping; whether they fill the range.
fn walk(address: u64, size: u64, mut next: impl FnMut(u64) -> Option<Mapping>) -> bool {
    let mut done = 0_u64;
    while done < size {
        let Some(mapping) = next(address.wrapping_add(done)) else { return false };
        done = done.saturating_add(mapping.size.max(1));
    }
    done == size && size != 0
}
