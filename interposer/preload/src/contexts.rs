//! Hooks of what makes and ends contexts of the CUDA driver, for the memory that goes with them. Streams and events, which
//! go too, are [`crate::call`]'s.

use core::ffi::c_void;

use vnpu_quota_abi::table::{Ending, Fate, Vendor};

use crate::call;

/// A call that retains the primary context of a device, which the vendor's function writes to `out`.
pub(crate) fn primary(_vendor: Vendor, real: impl Fn() -> i32, out: *mut *mut c_void, device: i32) -> i32 {
    call::after(real, |core| {
        // SAFETY: null, or the place that the vendor's function wrote.
        let context = unsafe { out.as_ref() }.copied().unwrap_or(core::ptr::null_mut());
        // SAFETY: the back end's function.
        unsafe { (core.primary)(device, context) }
    })
}

/// The end of a context.
pub(crate) fn destroy(vendor: Vendor, real: impl Fn() -> i32, context: *mut c_void) -> i32 {
    if context.is_null() {
        return call::context(vendor, real, context);
    }
    ends(|| call::context(vendor, &real, context), 0, context, Fate::Gone)
}

/// One that needs the primary context of a device less.
pub(crate) fn release(vendor: Vendor, real: impl Fn() -> i32, device: i32) -> i32 {
    ends(|| call::release(vendor, &real, device), device, core::ptr::null_mut(), Fate::Unknown)
}

/// The end of all that is in the primary context of a device, whoever retains it.
pub(crate) fn wipe(vendor: Vendor, real: impl Fn() -> i32, device: i32) -> i32 {
    ends(|| call::reset(vendor, &real, device), device, core::ptr::null_mut(), Fate::Gone)
}

/// Tells the back end before and after the vendor's function, which runs outside the hook.
fn ends(real: impl Fn() -> i32, device: i32, context: *mut c_void, fate: Fate) -> i32 {
    let mut ending = Ending::default();
    // SAFETY: the back end's function with a valid place.
    call::tell(|core| unsafe { (core.end)(device, context, &raw mut ending) });
    let code = real();
    if ending.mark != 0 {
        let fate = if code == 0 { fate } else { Fate::Stays };
        // SAFETY: as above, told once.
        call::tell(|core| unsafe { (core.ended)(device, &raw const ending, fate as u32) });
    }
    code
}
