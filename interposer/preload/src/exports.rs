//! Hooks of physical memory that is given out to other processes, and got from them.

use core::ffi::c_void;

use vnpu_quota_abi::table::Vendor;

use crate::call;

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`. The others name memory and do not hold it.
const DESCRIPTOR: i32 = 1;

/// A call that gives out a handle as what the vendor's function writes to `out`.
pub(crate) fn export(
    _vendor: Vendor,
    real: impl Fn() -> i32,
    out: *const c_void,
    handle: u64,
    kind: i32,
) -> i32 {
    call::after(real, |core| {
        if kind == DESCRIPTOR && !out.is_null() {
            // SAFETY: the place that the vendor's function wrote a descriptor to; the back end's function.
            unsafe { (core.exported)(handle, out.cast::<i32>().read_unaligned()) }
        }
    })
}

/// A call that makes a handle, which the vendor's function writes to `out`, of what was given out.
pub(crate) fn import(
    _vendor: Vendor,
    real: impl Fn() -> i32,
    out: *const u64,
    given: *mut c_void,
    kind: i32,
) -> i32 {
    call::after(real, |core| {
        // SAFETY: null, or the place that the vendor's function wrote.
        let Some(handle) = (unsafe { out.as_ref() }) else { return };
        // A descriptor is given as a pointer.
        let fd = if kind == DESCRIPTOR { given as usize as i32 } else { -1 };
        // SAFETY: the back end's function.
        unsafe { (core.imported)(*handle, fd) }
    })
}
