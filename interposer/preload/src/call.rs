//! What the hooks do, by kind of function. Each is called with the vendor's function wrapped up and calls it at
//! most once; only the outermost hook of a thread accounts, because the vendor's layers call each other.

use core::ffi::c_void;

use vnpu_quota_abi::table::{CoreTable, KeyKind, Ticket, Verdict};

use crate::asm::depth;
use crate::core_library::{self, Core};
use crate::libc::Errno;

/// `ACL_ERROR_RT_MEMORY_ALLOCATION`: the only code on which frameworks free their caches and try again.
pub(crate) const OUT_OF_MEMORY: i32 = 207_001;
/// `ACL_ERROR_RT_INTERNAL_ERROR`: a hook was called and no loaded library has the function behind it.
pub(crate) const NO_FUNCTION: i32 = 507_899;

/// The thread is in a hook until this is dropped.
struct Inside;

impl Inside {
    /// `None` when the thread is in one already.
    fn enter() -> Option<Self> {
        // SAFETY: the thread's own counter.
        let depth = unsafe { &mut *depth() };
        if *depth != 0 {
            return None;
        }
        *depth = 1;
        Some(Self)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // SAFETY: the thread's own counter.
        unsafe { *depth() = 0 }
    }
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) size: u64,
    pub(crate) policy: u32,
    pub(crate) device: i32,
    pub(crate) kind: KeyKind,
    /// Not device memory: nothing to account.
    pub(crate) exempt: bool,
}

/// An allocation; `out` is where the vendor's function puts the pointer or handle.
pub(crate) fn alloc(real: impl Fn() -> i32, out: *mut *mut c_void, wish: Wish) -> i32 {
    let Some(_inside) = Inside::enter() else { return real() };
    // Nothing asked for is nothing to account: some of the vendor's functions then succeed and write nothing.
    if wish.size == 0 {
        return real();
    }
    let errno = Errno::save();
    let core = match core_library::get() {
        Core::Loaded(core) if !wish.exempt => core,
        Core::Missing if !wish.exempt => return OUT_OF_MEMORY,
        _ => {
            drop(errno);
            return real();
        }
    };
    let mut ticket = Ticket::default();
    // SAFETY: the back end's function with a valid ticket.
    let verdict = unsafe { (core.reserve)(wish.size, wish.policy, wish.device, &raw mut ticket) };
    drop(errno);
    match Verdict::from_raw(verdict) {
        Verdict::Pass => real(),
        Verdict::Denied => OUT_OF_MEMORY,
        Verdict::Granted => {
            // What a call wrote is known only against something that it never writes: the place may hold the
            // very address that comes back.
            // SAFETY: the program's place for a pointer, which the vendor's function is to write.
            let before = (!out.is_null()).then(|| unsafe { out.replace(core::ptr::null_mut()) });
            let code = real();
            let _errno = Errno::save();
            let mut key = 0;
            if let Some(before) = before {
                // SAFETY: as above.
                let written = unsafe { *out };
                if written.is_null() {
                    // SAFETY: as above.
                    unsafe { *out = before };
                } else if code == 0 {
                    key = written as u64;
                }
            }
            let ok = key != 0;
            // SAFETY: the ticket of this reservation, settled once.
            unsafe { (core.settle)(&raw const ticket, wish.kind as u32, key, u32::from(ok)) };
            code
        }
    }
}

/// A free. The key is forgotten before the vendor's function, since another thread may get the same address
/// the moment it is free; its bytes are given back after.
pub(crate) fn free(real: impl Fn() -> i32, key: *mut c_void, kind: KeyKind) -> i32 {
    let Some(_inside) = Inside::enter() else { return real() };
    let errno = Errno::save();
    let Core::Loaded(core) = core_library::get() else {
        drop(errno);
        return real();
    };
    let mut ticket = Ticket::default();
    // SAFETY: the back end's function with a valid ticket.
    let known = !key.is_null() && unsafe { (core.forget)(kind as u32, key as u64, &raw mut ticket) } != 0;
    drop(errno);
    let code = real();
    if known {
        let _errno = Errno::save();
        // SAFETY: the ticket of this free, settled once.
        unsafe { (core.forgotten)(&raw const ticket, kind as u32, u32::from(code == 0)) };
    }
    code
}

/// A question for free and total memory: the vendor's function is asked (it checks the arguments and the
/// device), then the quota's numbers replace its own.
pub(crate) fn info(real: impl Fn() -> i32, free: *mut usize, total: *mut usize) -> i32 {
    let code = real();
    let Some(_inside) = Inside::enter() else { return code };
    if code == 0 && !free.is_null() && !total.is_null() {
        let _errno = Errno::save();
        match core_library::get() {
            // SAFETY: the vendor's function succeeded with these pointers.
            Core::Loaded(core) => unsafe {
                (core.memory_info)(free, total);
            },
            // SAFETY: as above. Nothing can be allocated, so nothing is free.
            Core::Missing => unsafe { *free = 0 },
            Core::NotNeeded => (),
        }
    }
    code
}

/// A launch of work on `stream`: it waits here until the claim's compute quota allows it, then it is the vendor's
/// business alone. Whether it succeeds is not asked: what it took is measured, not assumed.
pub(crate) fn launch(real: impl Fn() -> i32, stream: *mut c_void) -> i32 {
    let Some(_inside) = Inside::enter() else { return real() };
    if let Core::Loaded(core) = core_library::get() {
        let _errno = Errno::save();
        // SAFETY: the back end's function.
        unsafe { (core.launch)(stream) }
    }
    real()
}

/// The end of a stream: nothing of ours may be put there from now on.
pub(crate) fn close(real: impl Fn() -> i32, stream: *mut c_void) -> i32 {
    before(real, |core| {
        // SAFETY: the back end's function.
        unsafe { (core.drop_stream)(stream) }
    })
}

/// The end of a device's context, with which streams and events go.
pub(crate) fn reset(real: impl Fn() -> i32, device: i32) -> i32 {
    before(real, |core| {
        // SAFETY: the back end's function.
        unsafe { (core.drop_device)(device) }
    })
}

/// Tells the back end, if there is one, before the vendor's function runs, outside the hook.
fn before(real: impl Fn() -> i32, tell: impl Fn(&CoreTable)) -> i32 {
    if let Some(_inside) = Inside::enter()
        && let Core::Loaded(core) = core_library::get()
    {
        let _errno = Errno::save();
        tell(core);
    }
    real()
}

/// A call that says that the process will use a device: it gets its slot now, so that the node sees it. The
/// vendor's function runs outside the hook, since it calls the program back, which may allocate.
pub(crate) fn attach(real: impl Fn() -> i32) -> i32 {
    let code = real();
    let Some(_inside) = Inside::enter() else { return code };
    if code == 0 {
        let _errno = Errno::save();
        if let Core::Loaded(core) = core_library::get() {
            // SAFETY: the back end's function.
            unsafe { (core.attach)() }
        }
    }
    code
}
