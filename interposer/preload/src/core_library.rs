//! The back end, `libvnpu_core.so` beside our own file: loaded on the first call that concerns it, never in a
//! process that is in no claim.

use core::ffi::{c_char, c_void};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use vnpu_quota_abi::table::{CORE_ENTRY, CoreEntry, CoreTable, FrontTable, TABLE_VERSION};

use crate::asm::dlopen;
use crate::dlsym::real_dlsym;
use crate::libc::{RTLD_NOW, environment, exists, log};
use crate::{elf, real};

const CORE: &[u8] = b"libvnpu_core.so\0";
const DEFAULT_DIR: &[u8] = b"/run/vnpu";
/// Where containers with claims have both files, and nothing else has.
const CONTAINER_LIBRARIES: &[u8] = b"/run/vnpu/lib/";
const DIR_VARIABLE: &[u8] = b"VNPU_REGION_DIR\0";

/// What stands behind the hooks.
#[derive(Clone, Copy)]
pub(crate) enum Core {
    /// The back end.
    Loaded(&'static CoreTable),
    /// The process is in no claim: nothing to do.
    NotNeeded,
    /// The process is in a claim and the back end cannot be had: allocations are refused.
    Missing,
}

/// Calls between tries to load a back end that could not be loaded, once they are rare.
const RETRY_EVERY: u32 = 1024;

static TABLE: AtomicPtr<CoreTable> = AtomicPtr::new(core::ptr::null_mut());
static NOT_NEEDED: AtomicBool = AtomicBool::new(false);
// Calls since the back end could not be had.
static MISSES: AtomicU32 = AtomicU32::new(0);
static FRONT: FrontTable =
    FrontTable { version: TABLE_VERSION, size: size_of::<FrontTable>() as u32, resolve };

unsafe extern "C" fn resolve(name: *const c_char) -> *mut c_void {
    real::look_up(name)
}

/// The back end, loaded if it is not. Threads that come at the same time all load it: the loader counts, and
/// the table is one; so nobody waits for anybody.
pub(crate) fn get() -> Core {
    let table = TABLE.load(Ordering::Acquire);
    // SAFETY: only ever a table that the back end promised to keep for ever.
    if let Some(table) = unsafe { table.as_ref() } {
        return Core::Loaded(table);
    }
    if NOT_NEEDED.load(Ordering::Relaxed) {
        return Core::NotNeeded;
    }
    let misses = MISSES.load(Ordering::Relaxed);
    if misses == 0 && !in_a_claim() {
        NOT_NEEDED.store(true, Ordering::Relaxed);
        return Core::NotNeeded;
    }
    // A lack of descriptors or memory passes: tried again, ever less often.
    if misses != 0 && !(misses.is_power_of_two() || misses.is_multiple_of(RETRY_EVERY)) {
        MISSES.fetch_add(1, Ordering::Relaxed);
        return Core::Missing;
    }
    if let Some(table) = load() {
        TABLE.store(core::ptr::from_ref(table).cast_mut(), Ordering::Release);
        return Core::Loaded(table);
    }
    if MISSES.fetch_add(1, Ordering::Relaxed) == 0 {
        log(b"vnpu: libvnpu_core.so beside libvnpu.so cannot be loaded or is of another version; \
              device memory is refused to this process\n");
    }
    Core::Missing
}

fn in_a_claim() -> bool {
    let mut own = [0_u8; 4096];
    let len = elf::own_path(&mut own);
    // A container that shows no claim has lost it: the back end says so and refuses.
    if own.get(..len).is_some_and(|path| path.starts_with(CONTAINER_LIBRARIES)) {
        return true;
    }
    let named = environment(DIR_VARIABLE);
    let dir = named.unwrap_or(DEFAULT_DIR);
    let mut path = [0_u8; 4096];
    let has = |path: &mut [u8; 4096], name| join(path, dir, name).is_some_and(exists);
    // A directory that somebody named and that is gone was a quota: the back end says so and refuses.
    has(&mut path, b"/claims\0") || (named.is_some() && !has(&mut path, b"\0"))
}

fn load() -> Option<&'static CoreTable> {
    let mut own = [0_u8; 4096];
    let len = elf::own_path(&mut own);
    let directory = own.get(..len)?.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    let mut path = [0_u8; 4096];
    // Without a directory the loader searches, as it did for us.
    let path = join(&mut path, own.get(..directory)?, CORE)?;
    // SAFETY: a zero-terminated path; local, so that none of its symbols get in anybody's way.
    let handle = unsafe { dlopen()?(path.as_ptr().cast(), RTLD_NOW) };
    if handle.is_null() {
        return None;
    }
    // SAFETY: a valid handle, a zero-terminated name.
    let entry = unsafe { real_dlsym()?(handle, CORE_ENTRY.as_ptr().cast()) };
    // SAFETY: the back end's entry has this type; null is `None`.
    let entry = unsafe { core::mem::transmute::<*mut c_void, Option<CoreEntry>>(entry) }?;
    // SAFETY: our table is a static.
    let table = unsafe { entry(&raw const FRONT) };
    // SAFETY: null, or valid for ever by the entry's contract.
    let table = unsafe { table.as_ref() }?;
    (table.version == TABLE_VERSION && table.size as usize >= size_of::<CoreTable>()).then_some(table)
}

fn join<'a>(buffer: &'a mut [u8; 4096], first: &[u8], second: &[u8]) -> Option<&'a [u8]> {
    let end = first.len().checked_add(second.len())?;
    buffer.get_mut(..first.len())?.copy_from_slice(first);
    buffer.get_mut(first.len()..end)?.copy_from_slice(second);
    buffer.get(..end)
}
