//! The table that the front end gets, and the C edge of every function in it: a panic of ours ends here, never
//! in the program.

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicPtr, Ordering};

use vnpu_quota_abi::gate::Load;
use vnpu_quota_abi::table::{
    CURRENT_DEVICE, ChipName, ChipNumbers, CoreTable, Ending, Fate, Forgotten, FrontTable, GraphTickets,
    KeyKind, NO_PHYS_ID, Ownership, ProcessNumbers, Request, TABLE_VERSION, Ticket, Vendor, Verdict,
};

use crate::lane::Lane;
use crate::numbers::Name;
use crate::process::Process;
use crate::{incarnation, log};

// No OnceLock: a child forked in the middle of one would wait for ever.
static FRONT: AtomicPtr<FrontTable> = AtomicPtr::new(std::ptr::null_mut());

static TABLE: CoreTable = CoreTable {
    version: TABLE_VERSION,
    size: size_of::<CoreTable>() as u32,
    attach,
    reserve,
    settle,
    forget,
    forgotten,
    memory_info,
    launch,
    launched,
    released,
    mark_all,
    drop_device,
    chip_numbers,
    drop_context,
    hold,
    mapped,
    unmap,
    unhooked,
    unmapped,
    primary,
    end,
    ended,
    pool,
    pool_kept,
    pool_ended,
    exported,
    imported,
    captured,
    graph_node,
    graph_moved,
    graph_ready,
    graph_gone,
    graph_reserve,
    graph_settle,
    graph_kept,
    graph_freed,
    pool_end,
};

/// Hands over the front end's table and gets ours; null when the front end is of another version.
///
/// # Safety
/// `front` is null or points to a table that stays valid for ever.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vnpu_core_entry(front: *const FrontTable) -> *const CoreTable {
    // SAFETY: by contract.
    let Some(front) = (unsafe { front.as_ref() }) else { return std::ptr::null() };
    if front.version != TABLE_VERSION || (front.size as usize) < size_of::<FrontTable>() {
        return std::ptr::null();
    }
    FRONT.store(std::ptr::from_ref(front).cast_mut(), Ordering::Release);
    #[cfg(feature = "fault")]
    crate::fault::arm();
    &raw const TABLE
}

fn process() -> Option<&'static Process> {
    // SAFETY: null, or a table that stays valid for ever.
    incarnation::current(unsafe { FRONT.load(Ordering::Acquire).as_ref() }?)
}

/// Runs `act`; `otherwise` when it panics.
fn guarded<T>(otherwise: T, act: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| {
        log::once(log::Kind::Internal, "internal error in libvnpu_core.so; please report it");
        otherwise
    })
}

fn kind_of(raw: u32) -> KeyKind {
    if raw == KeyKind::Handle as u32 { KeyKind::Handle } else { KeyKind::Address }
}

unsafe extern "C" fn attach() {
    guarded((), || {
        if let Some(process) = process() {
            process.retry();
        }
    });
}

unsafe extern "C" fn reserve(request: *const Request, ticket: *mut Ticket) -> u32 {
    // SAFETY: the front end's own request and ticket.
    let (Some(request), Some(ticket)) = (unsafe { (request.as_ref(), ticket.as_mut()) }) else {
        return Verdict::Denied as u32;
    };
    guarded(Verdict::Denied, || process().map_or(Verdict::Denied, |p| p.reserve(request, ticket))) as u32
}

unsafe extern "C" fn settle(ticket: *const Ticket, kind: u32, key: u64, ok: u32) {
    // SAFETY: the front end's own ticket.
    let Some(ticket) = (unsafe { ticket.as_ref() }) else { return };
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.settle(ticket, kind_of(kind), key, ok != 0);
        }
    });
}

unsafe extern "C" fn forget(kind: u32, key: u64, vendor: u32, ticket: *mut Ticket) -> u32 {
    // SAFETY: the front end's own ticket.
    let Some(ticket) = (unsafe { ticket.as_mut() }) else { return Forgotten::Unknown as u32 };
    // Not attached: this process (or forked child) has allocated nothing, so the key is not ours.
    guarded(Forgotten::Unknown, || {
        let Some(process) = incarnation::attached() else { return Forgotten::Unknown };
        process.forget(kind_of(kind), key, Vendor::from_raw(vendor), ticket)
    }) as u32
}

unsafe extern "C" fn forgotten(ticket: *const Ticket, kind: u32, ok: u32) {
    // SAFETY: the front end's own ticket.
    let Some(ticket) = (unsafe { ticket.as_ref() }) else { return };
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.forgotten(ticket, kind_of(kind), ok != 0);
        }
    });
}

unsafe extern "C" fn launch(vendor: u32, stream: *mut c_void, load: u32) -> *const c_void {
    let load = Load::from_raw(load);
    if load == Load::Kernel
        && let Some(lane) = incarnation::attached().and_then(|p| p.launch_at_once(Vendor::from_raw(vendor)))
    {
        return std::ptr::from_ref(lane).cast();
    }
    let _errno = Errno::save();
    guarded(std::ptr::null(), || {
        let lane = process().and_then(|process| process.launch(Vendor::from_raw(vendor), stream, load));
        lane.map_or(std::ptr::null(), |lane| std::ptr::from_ref(lane).cast())
    })
}

/// The program's `errno`, put back on drop.
struct Errno(i32);

impl Errno {
    fn save() -> Self {
        // SAFETY: the calling thread's own.
        Self(unsafe { *libc::__errno_location() })
    }
}

impl Drop for Errno {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = self.0 }
    }
}

unsafe extern "C" fn launched(lane: *const c_void, stream: *mut c_void) {
    // SAFETY: what `launch` returned to this thread: a process's lanes stay for as long as it does.
    if let Some(lane) = unsafe { lane.cast::<Lane>().as_ref() } {
        guarded((), || lane.leave(stream));
    }
}

unsafe extern "C" fn released(vendor: u32, device: i32) -> u32 {
    guarded(1, || {
        incarnation::attached().map_or(1, |p| u32::from(p.is_last_holder(Vendor::from_raw(vendor), device)))
    })
}

unsafe extern "C" fn mark_all(vendor: u32) {
    // Not attached: this process (or forked child) has launched nothing.
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.mark_all(Vendor::from_raw(vendor));
        }
    });
}

unsafe extern "C" fn drop_device(vendor: u32, device: i32) {
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.drop_device(Vendor::from_raw(vendor), device);
        }
    });
}

unsafe extern "C" fn drop_context(vendor: u32, context: *mut c_void) {
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.drop_context(Vendor::from_raw(vendor), context);
        }
    });
}

unsafe extern "C" fn hold(handle: u64) {
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            let _ = process.hold(handle);
        }
    });
}

unsafe extern "C" fn mapped(address: u64, size: u64, handle: u64) {
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.mapped(address, size, handle);
        }
    });
}

unsafe extern "C" fn unmap(address: u64, size: u64) -> u32 {
    guarded(0, || incarnation::attached().map_or(0, |process| u32::from(process.unmap(address, size))))
}

unsafe extern "C" fn unmapped(address: u64, size: u64, ok: u32) {
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.unmapped(address, size, ok != 0);
        }
    });
}

unsafe extern "C" fn primary(device: i32, context: *mut c_void) {
    guarded((), || {
        if let Some(process) = process() {
            process.note_primary(device, context);
        }
    });
}

unsafe extern "C" fn end(device: i32, context: *mut c_void, ending: *mut Ending) {
    // SAFETY: the front end's own place.
    let Some(ending) = (unsafe { ending.as_mut() }) else { return };
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            *ending = process.end_context(device, context);
        }
    });
}

unsafe extern "C" fn ended(device: i32, ending: *const Ending, fate: u32) {
    // SAFETY: as above.
    let Some(ending) = (unsafe { ending.as_ref() }) else { return };
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.ended(device, ending, Fate::from_raw(fate));
        }
    });
}

unsafe extern "C" fn pool(pool: *mut c_void, device: i32) {
    guarded((), || {
        if let Some(process) = process() {
            process.note_pool(pool, device);
        }
    });
}

unsafe extern "C" fn pool_kept(pool: *mut c_void) {
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.pool_kept(pool as u64);
        }
    });
}

unsafe extern "C" fn pool_end(pool: *mut c_void) -> i32 {
    guarded(CURRENT_DEVICE, || {
        incarnation::attached().map_or(CURRENT_DEVICE, |process| process.pool_end(pool as u64))
    })
}

unsafe extern "C" fn pool_ended(pool: *mut c_void, device: i32, ok: u32) {
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.pool_ended(pool as u64, device, ok != 0);
        }
    });
}

unsafe extern "C" fn exported(handle: u64, fd: i32) {
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.exported(handle, fd);
        }
    });
}

unsafe extern "C" fn imported(handle: u64, fd: i32) {
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.imported(handle, fd);
        }
    });
}

unsafe extern "C" fn captured(vendor: u32, stream: *mut c_void) -> u32 {
    guarded(0, || {
        let Some(process) = incarnation::attached() else { return 0 };
        u32::from(process.is_captured(Vendor::from_raw(vendor), stream))
    })
}

unsafe extern "C" fn graph_node(graph: *mut c_void, device: i32, bytes: u64, address: u64) {
    guarded((), || {
        if let Some(process) = process() {
            process.graph_node(graph as u64, device, bytes, address);
        }
    });
}

unsafe extern "C" fn graph_freed(graph: *mut c_void, stream: *mut c_void, address: u64) {
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.graph_freed(graph as u64, stream as u64, address);
        }
    });
}

unsafe extern "C" fn graph_moved(child: *mut c_void, parent: *mut c_void) {
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.graph_moved(child as u64, parent as u64);
        }
    });
}

unsafe extern "C" fn graph_ready(graph: *mut c_void, exec: *mut c_void) {
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.graph_ready(graph as u64, exec as u64);
        }
    });
}

unsafe extern "C" fn graph_gone(handle: *mut c_void) {
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.graph_gone(handle as u64);
        }
    });
}

unsafe extern "C" fn graph_reserve(
    exec: *mut c_void,
    stream: *mut c_void,
    tickets: *mut GraphTickets,
) -> u32 {
    // SAFETY: the front end's own place.
    let Some(tickets) = (unsafe { tickets.as_mut() }) else { return Verdict::Denied as u32 };
    // Not attached: this process has made no graph.
    guarded(Verdict::Denied, || {
        incarnation::attached().map_or(Verdict::Pass, |p| p.graph_reserve(exec as u64, stream, tickets))
    }) as u32
}

unsafe extern "C" fn graph_settle(
    exec: *mut c_void,
    stream: *mut c_void,
    tickets: *const GraphTickets,
    ok: u32,
) {
    // SAFETY: as above.
    let Some(tickets) = (unsafe { tickets.as_ref() }) else { return };
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.graph_settle(exec as u64, stream as u64, tickets, ok != 0);
        }
    });
}

unsafe extern "C" fn graph_kept(device: i32) {
    guarded((), || {
        if let Some(process) = incarnation::attached() {
            process.graph_kept(device);
        }
    });
}

unsafe extern "C" fn unhooked(_vendor: u32, name: *const c_char) {
    if name.is_null() {
        return;
    }
    guarded((), || {
        if let Some(process) = process() {
            // SAFETY: zero-terminated by the table's contract.
            process.unhooked(unsafe { CStr::from_ptr(name) });
        }
    });
}

unsafe extern "C" fn memory_info(vendor: u32, device: i32, free: *mut usize, total: *mut usize) -> u32 {
    // SAFETY: the program's own places, which the vendor's function has just written; the first may be null.
    let (free, Some(total)) = (unsafe { (free.as_mut(), total.as_mut()) }) else { return 0 };
    guarded(0, || {
        let Some(process) = process() else { return 0 };
        let vendor = Vendor::from_raw(vendor);
        let left = if let Some((free, all)) = process.memory_info(vendor, device) {
            *total = usize::try_from(all).unwrap_or(usize::MAX);
            usize::try_from(free).unwrap_or(usize::MAX)
        } else if process.is_shut(vendor, device) {
            0
        } else {
            return 0;
        };
        // No more than the device has left: others are on it too.
        if let Some(free) = free {
            *free = left.min(*free);
        }
        1
    })
}

unsafe extern "C" fn chip_numbers(
    name: *const ChipName,
    numbers: *mut ChipNumbers,
    processes: *mut ProcessNumbers,
    room: u32,
) -> u32 {
    // SAFETY: the front end's own structures.
    let (Some(name), Some(numbers)) = (unsafe { (name.as_ref(), numbers.as_mut()) }) else {
        return Ownership::Foreign as u32;
    };
    let room = if processes.is_null() { 0 } else { room };
    guarded(Ownership::Foreign, || {
        let Some(process) = process() else { return Ownership::Shut };
        // SAFETY: null or zero-terminated by the table's contract.
        let uuid = (!name.uuid.is_null()).then(|| unsafe { CStr::from_ptr(name.uuid) }.to_bytes());
        let phys_id = Some(name.phys_id).filter(|id| *id != NO_PHYS_ID);
        let (mut written, mut all) = (0_u32, 0_u32);
        let (ownership, found) = process.chip_numbers(Name { phys_id, uuid }, |one| {
            all = all.saturating_add(1);
            if written < room {
                // SAFETY: the caller gives room for `room` of them.
                unsafe { processes.add(written as usize).write(one) };
                written += 1;
            }
        });
        if ownership == Ownership::Claimed {
            *numbers = ChipNumbers { processes: written, processes_total: all, ..found };
        }
        ownership
    }) as u32
}
