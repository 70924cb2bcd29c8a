//! Hooks of CUDA's graphs, for the memory that they take when they are launched.

use core::ffi::c_void;

use vnpu_quota_abi::table::{GraphTickets, NO_DEVICE, Vendor, Verdict};

use crate::call;

/// A call that adds a node to a graph, which allocates `bytes` on `device`; the vendor's function writes where to
/// `address`.
pub(crate) fn node(
    _vendor: Vendor,
    real: impl Fn() -> i32,
    graph: *mut c_void,
    device: i32,
    bytes: u64,
    address: *const u64,
) -> i32 {
    if bytes == 0 || device == NO_DEVICE {
        return real();
    }
    call::after(real, |core| {
        // SAFETY: the place in the program's structure that the vendor's function wrote; the back end's function.
        unsafe { (core.graph_node)(graph, device, bytes, address.read_unaligned()) }
    })
}

/// A call that adds a node to a graph, which frees.
pub(crate) fn free_node(_vendor: Vendor, real: impl Fn() -> i32, graph: *mut c_void, address: u64) -> i32 {
    call::after(real, |core| {
        // SAFETY: the back end's function.
        unsafe { (core.graph_freed)(graph, core::ptr::null_mut(), address) }
    })
}

/// A call that moves the graph `child` into another one.
pub(crate) fn child(_vendor: Vendor, real: impl Fn() -> i32, child: *mut c_void, parent: *mut c_void) -> i32 {
    call::after(real, |core| {
        // SAFETY: the back end's function.
        unsafe { (core.graph_moved)(child, parent) }
    })
}

/// The beginning of a capture whose nodes take the places of those that a graph has.
pub(crate) fn recapture(vendor: Vendor, real: impl Fn() -> i32, graph: *mut c_void) -> i32 {
    call::after(
        || call::close(vendor, &real),
        |core| {
            // SAFETY: the back end's function.
            unsafe { (core.graph_gone)(graph) }
        },
    )
}

/// A call that makes a graph ready, as what the vendor's function writes to `out`.
pub(crate) fn ready(
    _vendor: Vendor,
    real: impl Fn() -> i32,
    graph: *mut c_void,
    out: *mut *mut c_void,
) -> i32 {
    call::after(real, |core| {
        // SAFETY: null, or the place that the vendor's function wrote.
        let Some(exec) = (unsafe { out.as_ref() }) else { return };
        // SAFETY: the back end's function.
        unsafe { (core.graph_ready)(graph, *exec) }
    })
}

/// The end of a graph, or of one that was made ready.
pub(crate) fn end(_vendor: Vendor, real: impl Fn() -> i32, handle: *mut c_void) -> i32 {
    let forgetting = || {
        // Before, since another graph may have the handle right after.
        call::tell(|core| {
            // SAFETY: the back end's function.
            unsafe { (core.graph_gone)(handle) }
        });
        real()
    };
    call::after(forgetting, |core| {
        // SAFETY: as above.
        unsafe { (core.graph_kept)(-1) }
    })
}

/// A call that gives back what is kept for graphs.
pub(crate) fn trim(_vendor: Vendor, real: impl Fn() -> i32, device: i32) -> i32 {
    call::after(real, |core| {
        // SAFETY: the back end's function.
        unsafe { (core.graph_kept)(device) }
    })
}

/// A launch of a graph: for its memory like an allocation, for its work like any other launch.
pub(crate) fn run(vendor: Vendor, real: impl Fn() -> i32, exec: *mut c_void, stream: *mut c_void) -> i32 {
    with_memory(vendor, || call::graph(vendor, &real, stream), exec, stream, true)
}

/// A call that brings a graph to the device before its first launch.
pub(crate) fn upload(vendor: Vendor, real: impl Fn() -> i32, exec: *mut c_void, stream: *mut c_void) -> i32 {
    with_memory(vendor, real, exec, stream, false)
}

fn with_memory(
    vendor: Vendor,
    real: impl Fn() -> i32,
    exec: *mut c_void,
    stream: *mut c_void,
    launches: bool,
) -> i32 {
    let mut tickets = GraphTickets::default();
    let mut verdict = Verdict::Pass;
    call::tell(|core| {
        // SAFETY: the back end's function with a valid place.
        let raw = unsafe { (core.graph_reserve)(exec, stream, &raw mut tickets) };
        verdict = Verdict::from_raw(raw);
    });
    match verdict {
        Verdict::Pass => real(),
        Verdict::Denied => vendor.out_of_memory(),
        Verdict::Granted => {
            let code = real();
            call::tell(|core| {
                let launched = u32::from(launches && code == 0);
                // SAFETY: the tickets of this launch, settled once.
                unsafe { (core.graph_settle)(exec, stream, &raw const tickets, launched) }
            });
            code
        }
    }
}
