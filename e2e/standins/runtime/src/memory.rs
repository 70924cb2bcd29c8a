//! Device memory: the allocation and free families, memory information, copies.

use std::ffi::{c_char, c_void};

use standin_protocol::{Reply, Request};

use crate::capture;
use crate::device::{code, put};
use crate::process::{current_device, process};
use crate::status::{DONE, INVALID_DEVICE, MEMORY_ALLOCATION, PARAM_INVALID};

const HUGE_PAGE: u64 = 2 << 20;
const GIANT_PAGE: u64 = 1 << 30;
const SMALL_GRAIN: u64 = 512;
/// Up to here a huge-page-first request takes small pages.
const HUGE_FROM: u64 = 1 << 20;

/// What pages a request takes.
#[derive(Clone, Copy)]
enum Pages {
    HugeFirst,
    Huge,
    Giant,
    Small,
}

impl Pages {
    /// Of `rtMemType_t`: the policy bits beside the memory kind.
    fn of_type(kind: u32) -> Self {
        match kind {
            kind if kind & 0x1_0000 != 0 => Self::Giant,
            kind if kind & (0x800 | 0x4000) != 0 => Self::Huge,
            kind if kind & (0x1000 | 0x8000) != 0 => Self::Small,
            _ => Self::HugeFirst,
        }
    }

    /// Of `rtMallocPolicy`, which counts as `aclrtMemMallocPolicy` does.
    fn of_policy(policy: u32) -> Self {
        match policy {
            1 | 4 => Self::Huge,
            2 | 5 => Self::Small,
            6.. => Self::Giant,
            _ => Self::HugeFirst,
        }
    }

    fn round(self, bytes: u64) -> Option<u64> {
        let grain = match self {
            Self::Giant => GIANT_PAGE,
            Self::Huge => HUGE_PAGE,
            Self::HugeFirst if bytes > HUGE_FROM => HUGE_PAGE,
            Self::HugeFirst | Self::Small => SMALL_GRAIN,
        };
        bytes.checked_next_multiple_of(grain)
    }
}

fn allocate_on(device: i32, bytes: u64, pages: Pages) -> Result<u64, i32> {
    if bytes == 0 {
        return Err(PARAM_INVALID);
    }
    let bytes = pages.round(bytes).ok_or(MEMORY_ALLOCATION)?;
    let mut process = process();
    let phys_id = process.phys_id(device)?;
    match process.ask(&Request::Allocate { phys_id, bytes })? {
        Reply::Address { address, bytes } => {
            process.allocations.insert(address, (device, bytes));
            Ok(address)
        }
        Reply::OutOfMemory => Err(MEMORY_ALLOCATION),
        _ => Err(INVALID_DEVICE),
    }
}

/// # Safety
/// `to` is null or valid for a write.
unsafe fn allocate(to: *mut *mut c_void, bytes: u64, pages: Pages) -> i32 {
    if to.is_null() {
        return PARAM_INVALID;
    }
    let address = current_device().and_then(|device| allocate_on(device, bytes, pages));
    // SAFETY: the caller's out-pointer.
    code(address.and_then(|address| unsafe { put(to, address as *mut c_void) }))
}

fn release(address: u64) -> i32 {
    let mut process = process();
    process.allocations.remove(&address);
    match process.ask(&Request::Free { address }) {
        Ok(Reply::Done) => DONE,
        Ok(_) => PARAM_INVALID,
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtMalloc(to: *mut *mut c_void, size: u64, kind: u32, _module: u16) -> i32 {
    // SAFETY: same contract.
    unsafe { allocate(to, size, Pages::of_type(kind)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtMallocCached(to: *mut *mut c_void, size: u64, kind: u32, _module: u16) -> i32 {
    // SAFETY: same contract.
    unsafe { allocate(to, size, Pages::of_type(kind)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtsMalloc(
    to: *mut *mut c_void,
    size: u64,
    policy: u32,
    _advise: u32,
    _config: *mut c_void,
) -> i32 {
    // SAFETY: same contract.
    unsafe { allocate(to, size, Pages::of_policy(policy)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtMemAlloc(
    to: *mut *mut c_void,
    size: u64,
    policy: u32,
    _advise: u32,
    _config: *mut c_void,
) -> i32 {
    // SAFETY: same contract.
    unsafe { allocate(to, size, Pages::of_policy(policy)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtMemAllocManaged(to: *mut *mut c_void, size: u64, _flag: u32, _module: u16) -> i32 {
    // SAFETY: same contract.
    unsafe { allocate(to, size, Pages::HugeFirst) }
}

#[unsafe(no_mangle)]
pub extern "C" fn rtMemFreeManaged(pointer: *mut c_void) -> i32 {
    release(pointer as u64)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtDvppMalloc(to: *mut *mut c_void, size: u64, _module: u16) -> i32 {
    // SAFETY: same contract.
    unsafe { allocate(to, size, Pages::HugeFirst) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtDvppMallocWithFlag(
    to: *mut *mut c_void,
    size: u64,
    _flag: u32,
    _module: u16,
) -> i32 {
    // SAFETY: same contract.
    unsafe { allocate(to, size, Pages::HugeFirst) }
}

#[unsafe(no_mangle)]
pub extern "C" fn rtDvppFree(pointer: *mut c_void) -> i32 {
    release(pointer as u64)
}

#[unsafe(no_mangle)]
pub extern "C" fn rtFree(pointer: *mut c_void) -> i32 {
    release(pointer as u64)
}

#[unsafe(no_mangle)]
pub extern "C" fn rtFreeWithDevSync(pointer: *mut c_void) -> i32 {
    release(pointer as u64)
}

/// `rtDrvMemProp_t` of the vendor's header.
#[repr(C)]
pub struct PhysicalProperties {
    side: u32,
    device: u32,
    module: u32,
    page_type: u32,
    memory_type: u32,
    reserve: u64,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtMallocPhysical(
    handle: *mut *mut c_void,
    size: usize,
    properties: *const PhysicalProperties,
    _flags: u64,
) -> i32 {
    if handle.is_null() || properties.is_null() {
        return PARAM_INVALID;
    }
    // SAFETY: not null, and the caller's pointer to its properties.
    let (device, page_type) = unsafe { ((*properties).device, (*properties).page_type) };
    let pages = match page_type {
        0 => Pages::Small,
        1 => Pages::Huge,
        _ => Pages::Giant,
    };
    let address = allocate_on(device as i32, size as u64, pages);
    // SAFETY: the caller's out-pointer.
    code(address.and_then(|address| unsafe { put(handle, address as *mut c_void) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn rtFreePhysical(handle: *mut c_void) -> i32 {
    let imported = process().imported.remove(&(handle as u64));
    if imported.is_some() { DONE } else { release(handle as u64) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtReserveMemAddress(
    to: *mut *mut c_void,
    size: usize,
    _alignment: usize,
    _expected: *mut c_void,
    _flags: u64,
) -> i32 {
    if to.is_null() || size == 0 {
        return PARAM_INVALID;
    }
    let mut process = process();
    let address = process.next_reservation;
    process.next_reservation += (size as u64).next_multiple_of(GIANT_PAGE) + GIANT_PAGE;
    process.reserved.insert(address, size as u64);
    // SAFETY: the caller's out-pointer.
    code(unsafe { put(to, address as *mut c_void) })
}

#[unsafe(no_mangle)]
pub extern "C" fn rtReleaseMemAddress(pointer: *mut c_void) -> i32 {
    let known = process().reserved.remove(&(pointer as u64)).is_some();
    if known { DONE } else { PARAM_INVALID }
}

#[unsafe(no_mangle)]
pub extern "C" fn rtMapMem(
    pointer: *mut c_void,
    size: usize,
    _offset: usize,
    handle: *mut c_void,
    _flags: u64,
) -> i32 {
    let (start, handle) = (pointer as u64, handle as u64);
    let mut process = process();
    let inside = process
        .reserved
        .range(..=start)
        .next_back()
        .is_some_and(|(first, bytes)| start + size as u64 <= first + bytes);
    let known = process.allocations.contains_key(&handle) || process.imported.contains_key(&handle);
    if !inside || !known {
        return PARAM_INVALID;
    }
    process.mapped.insert(start, handle);
    DONE
}

#[unsafe(no_mangle)]
pub extern "C" fn rtUnmapMem(pointer: *mut c_void) -> i32 {
    let known = process().mapped.remove(&(pointer as u64)).is_some();
    if known { DONE } else { PARAM_INVALID }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtMemGetInfo(free: *mut usize, total: *mut usize) -> i32 {
    // SAFETY: same contract; 1 is HBM.
    unsafe { rtMemGetInfoEx(1, free, total) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtMemGetInfoEx(_kind: u32, free: *mut usize, total: *mut usize) -> i32 {
    let info = || {
        let device = current_device()?;
        let mut process = process();
        let phys_id = process.phys_id(device)?;
        match process.ask(&Request::MemoryInfo { phys_id })? {
            Reply::Memory { free: left, total: all } => {
                // SAFETY: the caller's out-pointers.
                unsafe { put(free, left as usize).and_then(|()| put(total, all as usize)) }
            }
            _ => Err(INVALID_DEVICE),
        }
    };
    code(info())
}

/// `rtMemUsageInfo_t`: one component's memory.
#[repr(C)]
pub struct MemoryUsage {
    name: [c_char; 32],
    current: u64,
    peak: u64,
    reserved: [usize; 8],
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtGetMemUsageInfo(
    device: u32,
    usage: *mut MemoryUsage,
    length: usize,
    count: *mut usize,
) -> i32 {
    if usage.is_null() || length == 0 {
        return PARAM_INVALID;
    }
    // Of all processes: the vendor's documentation leaves that open, and a tenant must not see it either way.
    let used = || {
        let mut process = process();
        let phys_id = process.phys_id(device as i32)?;
        match process.ask(&Request::MemoryInfo { phys_id })? {
            Reply::Memory { free, total } => Ok(total - free),
            _ => Err(INVALID_DEVICE),
        }
    };
    let bytes = match used() {
        Ok(bytes) => bytes,
        Err(code) => return code,
    };
    let mut name = [0; 32];
    for (to, from) in name.iter_mut().zip(b"APP") {
        *to = *from as c_char;
    }
    // SAFETY: the caller gives room for `length` >= 1 entries.
    unsafe { usage.write(MemoryUsage { name, current: bytes, peak: bytes, reserved: [0; 8] }) };
    // SAFETY: the caller's out-pointer.
    code(unsafe { put(count, 1) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtMallocHost(to: *mut *mut c_void, size: u64, _module: u16) -> i32 {
    if to.is_null() || size == 0 {
        return PARAM_INVALID;
    }
    let mut pointer = std::ptr::null_mut();
    // SAFETY: a valid out-pointer and a power-of-two alignment.
    if unsafe { libc::posix_memalign(&mut pointer, 4096, size as usize) } != 0 {
        return MEMORY_ALLOCATION;
    }
    // SAFETY: the caller's out-pointer.
    code(unsafe { put(to, pointer) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtFreeHost(pointer: *mut c_void) -> i32 {
    // SAFETY: the caller gives what `rtMallocHost` gave.
    unsafe { libc::free(pointer) };
    DONE
}

/// Copies: host to host is done; from a device the host gets zeros; the rest touches nothing.
///
/// # Safety
/// Host ranges of `count` bytes are valid.
unsafe fn copy(to: *mut c_void, room: u64, from: *const c_void, count: u64, kind: u32) -> i32 {
    if to.is_null() || from.is_null() || count > room {
        return PARAM_INVALID;
    }
    match kind {
        // SAFETY: the caller gives two host ranges of `count` bytes.
        0 => unsafe { to.cast::<u8>().copy_from(from.cast::<u8>(), count as usize) },
        // SAFETY: the caller gives a host range of at least `count` bytes.
        2 => unsafe { to.cast::<u8>().write_bytes(0, count as usize) },
        _ => {}
    }
    DONE
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtMemcpy(
    to: *mut c_void,
    room: u64,
    from: *const c_void,
    count: u64,
    kind: u32,
) -> i32 {
    if let Err(error) = capture::forbid() {
        return error;
    }
    // SAFETY: same contract.
    unsafe { copy(to, room, from, count, kind) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtMemcpyAsync(
    to: *mut c_void,
    room: u64,
    from: *const c_void,
    count: u64,
    kind: u32,
    _stream: *mut c_void,
) -> i32 {
    // SAFETY: same contract.
    unsafe { copy(to, room, from, count, kind) }
}

#[unsafe(no_mangle)]
pub extern "C" fn rtMemset(pointer: *mut c_void, room: u64, _value: u32, count: u64) -> i32 {
    if pointer.is_null() || count > room {
        return PARAM_INVALID;
    }
    code(capture::forbid())
}
