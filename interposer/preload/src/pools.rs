//! Hooks of the CUDA driver's memory pools.

use core::ffi::c_void;

use vnpu_quota_abi::table::Vendor;

use crate::call;

/// A call that makes or tells a pool, which the vendor's function writes to `out`, with memory on `device`.
pub(crate) fn pool(_vendor: Vendor, real: impl Fn() -> i32, out: *mut *mut c_void, device: i32) -> i32 {
    call::after(real, |core| {
        // SAFETY: null, or the place that the vendor's function wrote.
        let Some(pool) = (unsafe { out.as_ref() }) else { return };
        // SAFETY: the back end's function.
        unsafe { (core.pool)(*pool, device) }
    })
}
