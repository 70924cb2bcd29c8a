//! The vendor's own functions behind our hooks.

use core::ffi::{CStr, c_char, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::asm::dlopen;
use crate::dlsym::real_dlsym;
use crate::libc::{RTLD_LAZY, RTLD_NEXT, RTLD_NOLOAD};

/// Where Ascend's functions live, over the generations of CANN: `*Impl` in libacl_rt_impl or, from 9.2 on, in
/// libruntime; in libascendcl_impl before 8.5.
const ASCEND: &[&CStr] =
    &[c"libacl_rt_impl.so", c"libruntime.so", c"libascendcl_impl.so", c"libacl_rt.so", c"libascendcl.so"];
const CUDA: &[&CStr] = &[c"libcuda.so.1"];

const NVML: &[&CStr] = &[c"libnvidia-ml.so.1"];
const DCMI: &[&CStr] = &[c"libdcmi.so"];

/// The libraries that may have a function of this name.
fn libraries(name: &CStr) -> &'static [&'static CStr] {
    let begins = |prefix: &[u8]| name.to_bytes().starts_with(prefix);
    if begins(b"cu") {
        CUDA
    } else if begins(b"nvml") {
        NVML
    } else if begins(b"dcmi_") {
        DCMI
    } else {
        ASCEND
    }
}

/// One function of the vendor, looked up once.
pub(crate) struct Real {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
    // What a program's own look-up on a handle gave: the way of last resort to a library of unknown name.
    seen: AtomicPtr<c_void>,
}

impl Real {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            found: AtomicPtr::new(core::ptr::null_mut()),
            seen: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    pub(crate) fn name(&self) -> &'static [u8] {
        self.name.to_bytes()
    }

    /// Notes what a program's look-up found.
    pub(crate) fn remember(&self, address: *mut c_void) {
        self.seen.store(address, Ordering::Release);
    }

    /// The vendor's function, never `own`; null when no loaded library has it.
    pub(crate) fn get(&self, own: *mut c_void) -> *mut c_void {
        let known = self.found.load(Ordering::Acquire);
        if !known.is_null() {
            return known;
        }
        let mut found = look_up(self.name.as_ptr());
        if found.is_null() || found == own {
            found = self.seen.load(Ordering::Acquire);
        }
        if found == own {
            return core::ptr::null_mut();
        }
        self.found.store(found, Ordering::Release);
        found
    }
}

/// The function `name` behind us: in the global scope, else in the vendor's libraries where a program loaded
/// them for itself only (`RTLD_NEXT` sees nothing of those).
pub(crate) fn look_up(name: *const c_char) -> *mut c_void {
    let Some(dlsym) = real_dlsym() else { return core::ptr::null_mut() };
    // SAFETY: a zero-terminated name; the return address is ours, so "next" is behind us.
    let next = unsafe { dlsym(RTLD_NEXT, name) };
    if !next.is_null() {
        return next;
    }
    let Some(dlopen) = dlopen() else { return core::ptr::null_mut() };
    // SAFETY: zero-terminated.
    for library in libraries(unsafe { CStr::from_ptr(name) }) {
        // SAFETY: loads nothing; the reference that it takes pins a library whose functions we keep.
        let handle = unsafe { dlopen(library.as_ptr(), RTLD_LAZY | RTLD_NOLOAD) };
        if handle.is_null() {
            continue;
        }
        // SAFETY: a valid handle and a zero-terminated name.
        let address = unsafe { dlsym(handle, name) };
        if !address.is_null() {
            return address;
        }
    }
    core::ptr::null_mut()
}
