//! The `dlsym` override: programs that look the runtime's functions up on a handle get our hooks, and every
//! other look-up is the real one's business.

use core::ffi::{c_char, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::asm::{Dlsym, dlvsym};
use crate::libc::{RTLD_NEXT, bytes};
use crate::{elf, hooks, unhooked};

/// What the assembly half does next: `jump` not 0 means jump to `address`, else return it.
#[repr(C)]
pub(crate) struct Answer {
    address: *mut c_void,
    jump: usize,
}

/// Decides a look-up. Called from the naked `dlsym` with its arguments.
///
/// # Safety
/// As `dlsym`: `name` is zero-terminated.
pub(crate) unsafe extern "C" fn vnpu_dlsym_hooked(handle: *mut c_void, name: *const c_char) -> Answer {
    let Some(real) = real_dlsym() else {
        return Answer { address: core::ptr::null_mut(), jump: 0 };
    };
    let onward = Answer { address: real as *mut c_void, jump: 1 };
    // RTLD_NEXT asks for what comes behind the caller: never us.
    if handle == RTLD_NEXT || name.is_null() {
        return onward;
    }
    // SAFETY: zero-terminated by contract.
    let asked = unsafe { bytes(name) };
    let Some(hook) = hooks::find(asked) else {
        // SAFETY: as below; what a program does not get is nothing to count.
        if unhooked::concerned(asked).is_some() && !unsafe { real(handle, name) }.is_null() {
            // SAFETY: zero-terminated by contract.
            unsafe { unhooked::got(name) };
        }
        return onward;
    };
    // SAFETY: the real function, with the caller's arguments; a handle does not depend on who asks. For
    // RTLD_DEFAULT (null) this finds our own export, which is what the program is to get.
    let found = unsafe { real(handle, name) };
    if found.is_null() || found == hook.address() {
        return Answer { address: found, jump: 0 };
    }
    hook.real().remember(found);
    Answer { address: hook.address(), jump: 0 }
}

static REAL: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

/// Version of `dlsym` that every glibc of the architecture has, old ones as the only, new ones as a compatible.
#[cfg(target_arch = "x86_64")]
const VERSION: &[u8] = b"GLIBC_2.2.5\0";
#[cfg(target_arch = "aarch64")]
const VERSION: &[u8] = b"GLIBC_2.17\0";

/// The C library's `dlsym`.
pub(crate) fn real_dlsym() -> Option<Dlsym> {
    let known = REAL.load(Ordering::Acquire);
    let address = if known.is_null() {
        let versioned = dlvsym().map(|dlvsym| {
            // SAFETY: zero-terminated names; RTLD_NEXT because plain look-up would find our own export.
            unsafe { dlvsym(RTLD_NEXT, c"dlsym".as_ptr(), VERSION.as_ptr().cast()) }
        });
        let found = match versioned {
            Some(address) if !address.is_null() => address,
            // musl, or a glibc whose libdl came only after us: look through the loaded objects ourselves.
            _ => elf::find_outside(b"dlsym"),
        };
        // A null is not kept: libdl may still come.
        REAL.store(found, Ordering::Release);
        found
    } else {
        known
    };
    // SAFETY: the C library's function of this name has this type; null is `None`.
    unsafe { core::mem::transmute::<*mut c_void, Option<Dlsym>>(address) }
}
