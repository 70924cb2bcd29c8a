//! What the hooks do, by kind of function. Each is called with the vendor's function wrapped up and calls it at
//! most once; only the outermost hook of a thread accounts, because the vendor's layers call each other.

use core::ffi::c_void;

use vnpu_quota_abi::table::{
    CURRENT_DEVICE, CoreTable, Forgotten, KeyKind, LoadKind, Request, Source, Ticket, Vendor, Verdict,
};

use crate::asm::depth;
use crate::core_library::{self, Core};
use crate::libc::Errno;

/// The thread is in a hook until this is dropped.
pub(crate) struct Inside;

impl Inside {
    /// `None` when the thread is in one already.
    pub(crate) fn enter() -> Option<Self> {
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
    pub(crate) supply: Supply,
}

/// Where memory comes from, as [`Source`] says it.
#[derive(Clone, Copy)]
pub(crate) enum Supply {
    Device,
    Context,
    /// In the order of this stream.
    Stream(*mut c_void),
    /// From the first, in the order of the second.
    Pool(*mut c_void, *mut c_void),
}

impl Supply {
    /// The source, its pool and its stream.
    fn parts(self) -> (Source, u64, u64) {
        match self {
            Self::Device => (Source::Device, 0, 0),
            Self::Context => (Source::Context, 0, 0),
            Self::Stream(stream) => (Source::Stream, 0, stream as u64),
            Self::Pool(pool, stream) => (Source::Pool, pool as u64, stream as u64),
        }
    }
}

/// An allocation; `out` is where the vendor's function puts the pointer or handle.
pub(crate) fn alloc(vendor: Vendor, real: impl Fn() -> i32, out: *mut *mut c_void, wish: Wish) -> i32 {
    let Some(_inside) = Inside::enter() else { return real() };
    // Nothing asked for is nothing to account: some of the vendor's functions then succeed and write nothing.
    if wish.size == 0 {
        return real();
    }
    let errno = Errno::save();
    let core = match core_library::get() {
        Core::Loaded(core) if !wish.exempt => core,
        Core::Missing if !wish.exempt => return vendor.out_of_memory(),
        _ => {
            drop(errno);
            return real();
        }
    };
    let mut ticket = Ticket::default();
    let (source, pool, stream) = wish.supply.parts();
    let request = Request {
        size: wish.size,
        stream,
        pool,
        vendor: vendor as u32,
        policy: wish.policy,
        device: wish.device,
        source: source as u32,
    };
    // SAFETY: the back end's function with a valid request and ticket.
    let verdict = unsafe { (core.reserve)(&raw const request, &raw mut ticket) };
    drop(errno);
    match Verdict::from_raw(verdict) {
        Verdict::Pass => real(),
        Verdict::Denied => vendor.out_of_memory(),
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
pub(crate) fn free(vendor: Vendor, real: impl Fn() -> i32, key: *mut c_void, kind: KeyKind) -> i32 {
    let forget = |core: &CoreTable, ticket: *mut Ticket| {
        if key.is_null() {
            return Forgotten::Unknown;
        }
        // SAFETY: the back end's function with a valid ticket.
        Forgotten::from_raw(unsafe { (core.forget)(kind as u32, key as u64, vendor as u32, ticket) })
    };
    let undo = |core: &CoreTable| {
        // SAFETY: the back end's function.
        unsafe { (core.hold)(key as u64) }
    };
    let_go(real, kind, forget, undo)
}

/// A free in the order of a stream. In a capture it is a node of a graph, and frees nothing now.
pub(crate) fn free_in_order(
    vendor: Vendor,
    real: impl Fn() -> i32,
    key: *mut c_void,
    stream: *mut c_void,
) -> i32 {
    let mut captured = false;
    tell(|core| {
        // SAFETY: the back end's function.
        captured = unsafe { (core.captured)(vendor as u32, stream) } != 0;
    });
    if !captured {
        return free(vendor, real, key, KeyKind::Address);
    }
    after(real, |core| {
        // SAFETY: the back end's function.
        unsafe { (core.graph_freed)(core::ptr::null_mut(), stream, key as u64) }
    })
}

/// The end of mappings, which may hold the memory behind them as the last ones. They are forgotten before the vendor's
/// function as addresses are, and are had again if that fails.
pub(crate) fn unmap(_vendor: Vendor, real: impl Fn() -> i32, address: u64, size: u64) -> i32 {
    let Some(_inside) = Inside::enter() else { return real() };
    let errno = Errno::save();
    let core = match core_library::get() {
        // SAFETY: the back end's function.
        Core::Loaded(core) if unsafe { (core.unmap)(address, size) } != 0 => core,
        _ => {
            drop(errno);
            return real();
        }
    };
    drop(errno);
    let code = real();
    let _errno = Errno::save();
    // SAFETY: the back end's function, told once of each range that it knew.
    unsafe { (core.unmapped)(address, size, u32::from(code == 0)) };
    code
}

fn let_go(
    real: impl Fn() -> i32,
    kind: KeyKind,
    forget: impl Fn(&CoreTable, *mut Ticket) -> Forgotten,
    undo: impl Fn(&CoreTable),
) -> i32 {
    let Some(_inside) = Inside::enter() else { return real() };
    let errno = Errno::save();
    let Core::Loaded(core) = core_library::get() else {
        drop(errno);
        return real();
    };
    let mut ticket = Ticket::default();
    let known = forget(core, &raw mut ticket);
    drop(errno);
    let code = real();
    match known {
        Forgotten::Last => {
            let _errno = Errno::save();
            // SAFETY: the ticket of this free, settled once.
            unsafe { (core.forgotten)(&raw const ticket, kind as u32, u32::from(code == 0)) };
        }
        Forgotten::Held if code != 0 => {
            let _errno = Errno::save();
            undo(core);
        }
        Forgotten::Held | Forgotten::Unknown => (),
    }
    code
}

/// A call that makes another holder of a handle, which the vendor's function writes to `out`.
pub(crate) fn retain(_vendor: Vendor, real: impl Fn() -> i32, out: *mut u64) -> i32 {
    after(real, |core| {
        // SAFETY: the vendor's function succeeded and wrote it; the back end's function.
        unsafe {
            if !out.is_null() {
                (core.hold)(*out);
            }
        }
    })
}

/// A call that maps memory of a handle.
pub(crate) fn map(_vendor: Vendor, real: impl Fn() -> i32, address: u64, size: u64, handle: u64) -> i32 {
    after(real, |core| {
        // SAFETY: the back end's function.
        unsafe { (core.mapped)(address, size, handle) }
    })
}

/// A question for free and total memory: the vendor's function is asked (it checks the arguments and the
/// device), then the quota's numbers replace its own.
pub(crate) fn info(vendor: Vendor, real: impl Fn() -> i32, free: *mut usize, total: *mut usize) -> i32 {
    let code = real();
    let Some(_inside) = Inside::enter() else { return code };
    if code == 0 && !free.is_null() && !total.is_null() {
        let _errno = Errno::save();
        match core_library::get() {
            // SAFETY: the vendor's function succeeded with these pointers.
            Core::Loaded(core) => unsafe {
                (core.memory_info)(vendor as u32, CURRENT_DEVICE, free, total);
            },
            // SAFETY: as above. Nothing can be allocated, so nothing is free.
            Core::Missing => unsafe { *free = 0 },
            Core::NotNeeded => (),
        }
    }
    code
}

/// A question for the memory of a device that need not be in use yet.
pub(crate) fn total(vendor: Vendor, real: impl Fn() -> i32, total: *mut usize, device: i32) -> i32 {
    after(real, |core| {
        if !total.is_null() {
            // SAFETY: the vendor's function succeeded with this pointer.
            unsafe { (core.memory_info)(vendor as u32, device, core::ptr::null_mut(), total) };
        }
    })
}

/// What one component of a program has, as `aclrtMemUsageInfo` says it.
#[repr(C)]
pub(crate) struct Component {
    name: [u8; 32],
    current: u64,
    peak: u64,
    reserved: [usize; 8],
}

/// A question for the memory of each component on a device, largest first: together they have what the claims use at
/// most, and none ever had more than the quota. Whether the vendor counts the process or the whole chip is unverified.
pub(crate) fn components(
    vendor: Vendor,
    real: impl Fn() -> i32,
    list: *mut c_void,
    room: usize,
    count: *const usize,
    device: i32,
) -> i32 {
    let code = real();
    let Some(_inside) = Inside::enter() else { return code };
    if code != 0 || list.is_null() || count.is_null() {
        return code;
    }
    let _errno = Errno::save();
    let (mut free, mut total) = (usize::MAX, 0);
    let limited = match core_library::get() {
        // SAFETY: our own places.
        Core::Loaded(core) => unsafe {
            (core.memory_info)(vendor as u32, device, &raw mut free, &raw mut total) != 0
        },
        Core::Missing => true,
        Core::NotNeeded => false,
    };
    if !limited {
        return code;
    }
    let mut left = total.saturating_sub(free) as u64;
    // SAFETY: the vendor's function succeeded with this pointer.
    let written = unsafe { *count }.min(room);
    for index in 0..written {
        // SAFETY: the program gives room for so many, and the vendor's function has written them.
        let component = unsafe { &mut *list.cast::<Component>().add(index) };
        component.current = component.current.min(left);
        component.peak = component.peak.min(total as u64);
        left -= component.current;
    }
    code
}

/// A launch of work on `stream`: it waits here until the claim's compute quota allows it, then it is the vendor's
/// business alone. Whether it succeeds is not asked: what it took is measured, not assumed.
pub(crate) fn launch(vendor: Vendor, real: impl Fn() -> i32, stream: *mut c_void) -> i32 {
    admit(vendor, real, stream, LoadKind::Kernel)
}

/// A launch of a graph or model.
pub(crate) fn graph(vendor: Vendor, real: impl Fn() -> i32, stream: *mut c_void) -> i32 {
    admit(vendor, real, stream, LoadKind::Graph)
}

fn admit(vendor: Vendor, real: impl Fn() -> i32, stream: *mut c_void, load: LoadKind) -> i32 {
    let Some(_inside) = Inside::enter() else { return real() };
    let Core::Loaded(core) = core_library::get() else { return real() };
    // SAFETY: the back end's function.
    let launch = unsafe { (core.launch)(vendor as u32, stream, load as u32) };
    let code = real();
    if !launch.is_null() {
        // SAFETY: the back end's function, with what it gave for this launch. It calls nothing that sets `errno`.
        unsafe { (core.launched)(launch, stream) }
    }
    code
}

/// The end of a stream, or the beginning of a capture in one: nothing of ours may be put there from now on.
pub(crate) fn close(vendor: Vendor, real: impl Fn() -> i32) -> i32 {
    before(real, |core| {
        // SAFETY: the back end's function.
        unsafe { (core.mark_all)(vendor as u32) }
    })
}

/// The end of a device's contexts, with which streams and events go.
pub(crate) fn reset(vendor: Vendor, real: impl Fn() -> i32, device: i32) -> i32 {
    before(real, |core| {
        // SAFETY: the back end's function.
        unsafe { (core.drop_device)(vendor as u32, device) }
    })
}

/// One holder less of a device's primary context, with which its contexts end if it was the last.
pub(crate) fn release(vendor: Vendor, real: impl Fn() -> i32, device: i32) -> i32 {
    before(real, |core| {
        // SAFETY: the back end's functions.
        unsafe {
            if (core.released)(vendor as u32, device) != 0 {
                (core.drop_device)(vendor as u32, device);
            }
        }
    })
}

/// The end of one context.
pub(crate) fn context(vendor: Vendor, real: impl Fn() -> i32, context: *mut c_void) -> i32 {
    before(real, |core| {
        // SAFETY: the back end's function.
        unsafe { (core.drop_context)(vendor as u32, context) }
    })
}

/// Tells the back end, if there is one and this is the outermost hook.
pub(crate) fn tell(what: impl FnOnce(&CoreTable)) {
    if let Some(_inside) = Inside::enter() {
        let _errno = Errno::save();
        if let Core::Loaded(core) = core_library::get() {
            what(core);
        }
    }
}

/// Tells it before the vendor's function runs, outside the hook.
fn before(real: impl Fn() -> i32, what: impl FnOnce(&CoreTable)) -> i32 {
    tell(what);
    real()
}

/// Tells it when the vendor's function has succeeded, which runs outside the hook.
pub(crate) fn after(real: impl Fn() -> i32, what: impl FnOnce(&CoreTable)) -> i32 {
    let code = real();
    if code == 0 {
        tell(what);
    }
    code
}

/// A call that says that the process will use a device: it gets its slot now, so that the node sees it. The
/// vendor's function runs outside the hook, since it calls the program back, which may allocate.
pub(crate) fn attach(_vendor: Vendor, real: impl Fn() -> i32) -> i32 {
    after(real, |core| {
        // SAFETY: the back end's function.
        unsafe { (core.attach)() }
    })
}
