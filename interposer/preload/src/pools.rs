//! Hooks of the CUDA driver's memory pools.

use core::ffi::c_void;

use vnpu_quota_abi::table::Vendor;

use crate::call::{self, Inside};
use crate::core_library::{self, Core};
use crate::libc::Errno;

/// A call that makes or tells a pool, which the vendor's function writes to `out`, with memory on `device`.
pub(crate) fn pool(_vendor: Vendor, real: impl Fn() -> i32, out: *mut *mut c_void, device: i32) -> i32 {
    call::after(real, |core| {
        // SAFETY: null, or the place that the vendor's function wrote.
        let Some(pool) = (unsafe { out.as_ref() }) else { return };
        // SAFETY: the back end's function.
        unsafe { (core.pool)(*pool, device) }
    })
}

/// A call that gives back what a pool keeps.
pub(crate) fn trim_pool(_vendor: Vendor, real: impl Fn() -> i32, pool: *mut c_void) -> i32 {
    kept(real, pool)
}

/// A call that waits for the device, at which pools give back what is beyond their thresholds.
pub(crate) fn wait(_vendor: Vendor, real: impl Fn() -> i32) -> i32 {
    kept(real, core::ptr::null_mut())
}

fn kept(real: impl Fn() -> i32, pool: *mut c_void) -> i32 {
    call::after(real, |core| {
        // SAFETY: the back end's function.
        unsafe { (core.pool_kept)(pool) }
    })
}

/// The end of a pool. The back end asks nothing about it from before the vendor's function runs.
pub(crate) fn end_pool(_vendor: Vendor, real: impl Fn() -> i32, pool: *mut c_void) -> i32 {
    let Some(_inside) = Inside::enter() else { return real() };
    let errno = Errno::save();
    let Core::Loaded(core) = core_library::get() else {
        drop(errno);
        return real();
    };
    // SAFETY: the back end's function.
    let device = unsafe { (core.pool_end)(pool) };
    drop(errno);
    let code = real();
    let _errno = Errno::save();
    // SAFETY: the back end's function, told once of each end that it was told to come.
    unsafe { (core.pool_ended)(pool, device, u32::from(code == 0)) };
    code
}
