//! The memory functions.

use std::ffi::{c_char, c_void};

use crate::runtime::*;

/// `ACL_ERROR_INVALID_PARAM`.
const INVALID_PARAM: i32 = 100_000;
/// The module id under which applications allocate (`APP_MODE_ID_U16`); the number is of no consequence here.
const APPLICATION: u16 = 33;

/// The runtime's memory type of an ACL policy: kind 0 (default) with the policy's page bits.
fn kind_of(policy: u32) -> u32 {
    match policy {
        0 => 0x400,
        1 => 0x800,
        2 => 0x1000,
        3 => 0x2000,
        4 => 0x4000,
        5 => 0x8000,
        _ => 0x1_0000,
    }
}

/// Rounds up to 32 bytes and, where asked, adds 32.
fn aligned(size: usize, padding: bool) -> Option<u64> {
    let rounded = (size as u64).checked_next_multiple_of(32)?;
    if padding { rounded.checked_add(32) } else { Some(rounded) }
}

type Allocate = unsafe extern "C" fn(Out, u64, u32, u16) -> i32;

/// # Safety
/// `to` is null or valid for a write.
unsafe fn allocate(with: Allocate, to: Out, size: usize, policy: u32, padding: bool) -> i32 {
    // One-GiB pages are not padded: the padding would cost a page.
    let padding = padding && policy < 6;
    match aligned(size, padding) {
        // SAFETY: the runtime's function of this signature; the caller's out-pointer.
        Some(bytes) if size > 0 && !to.is_null() => unsafe { with(to, bytes, kind_of(policy), APPLICATION) },
        _ => INVALID_PARAM,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMallocImpl(to: Out, size: usize, policy: u32) -> i32 {
    // SAFETY: same contract.
    unsafe { allocate(rtMalloc, to, size, policy, true) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMallocAlign32Impl(to: Out, size: usize, policy: u32) -> i32 {
    // SAFETY: same contract.
    unsafe { allocate(rtMalloc, to, size, policy, false) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMallocCachedImpl(to: Out, size: usize, policy: u32) -> i32 {
    // SAFETY: same contract.
    unsafe { allocate(rtMallocCached, to, size, policy, true) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMallocWithCfgImpl(to: Out, size: usize, policy: u32, config: Opaque) -> i32 {
    // SAFETY: same contract. Advise 0 is none.
    unsafe { rtsMalloc(to, size as u64, policy, 0, config) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMallocForTaskSchedulerImpl(
    to: Out,
    size: usize,
    policy: u32,
    config: Opaque,
) -> i32 {
    // SAFETY: same contract. Advise 3 is the task scheduler's memory; the number is of no consequence here.
    unsafe { rtsMalloc(to, size as u64, policy, 3, config) }
}

/// `aclrtPhysicalMemProp`.
#[repr(C)]
pub struct PhysicalProperties {
    handle_type: u32,
    allocation_type: u32,
    attribute: u32,
    location_id: u32,
    location_type: u32,
    reserve: u64,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMallocPhysicalImpl(
    handle: Out,
    size: usize,
    properties: *const PhysicalProperties,
    flags: u64,
) -> i32 {
    if properties.is_null() {
        return INVALID_PARAM;
    }
    // SAFETY: not null, and the caller's pointer to its properties.
    let (attribute, device) = unsafe { ((*properties).attribute, (*properties).location_id) };
    // ACL_*_NORMAL: small pages; ACL_*_HUGE1G: 10 and 11; the rest huge pages.
    let page_type = match attribute {
        3 | 5 | 7 | 9 => 0,
        10.. => 2,
        _ => 1,
    };
    let driver = DriverProperties {
        side: 1,
        device,
        module: u32::from(APPLICATION),
        page_type,
        memory_type: 0,
        reserve: 0,
    };
    // SAFETY: the caller's out-pointer, our properties.
    unsafe { rtMallocPhysical(handle, size, &driver, flags) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemGetAllocationGranularityImpl(
    _properties: *const PhysicalProperties,
    _option: u32,
    granularity: *mut usize,
) -> i32 {
    if granularity.is_null() {
        return INVALID_PARAM;
    }
    // SAFETY: the caller's out-pointer.
    unsafe { granularity.write(2 << 20) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemPoolMallocAsyncImpl(
    to: Out,
    size: usize,
    pool: Opaque,
    stream: Opaque,
) -> i32 {
    if to.is_null() || pool.is_null() || stream.is_null() {
        return INVALID_PARAM;
    }
    if size == 0 {
        return 0;
    }
    // SAFETY: same contract.
    unsafe { rtMemPoolMallocAsync(to, size as u64, pool, stream) }
}

macro_rules! forward {
    ($($name:ident($($argument:ident: $kind:ty),*) => $inner:ident($($value:expr),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind),*) -> i32 {
            // SAFETY: the caller's own promises.
            unsafe { $inner($($value),*) }
        }
    )*};
}

forward! {
    aclrtMemAllocManagedImpl(to: Out, size: u64, flag: u32) => rtMemAllocManaged(to, size, flag, APPLICATION);
    aclrtFreeImpl(pointer: Opaque) => rtFree(pointer);
    aclrtFreeWithDevSyncImpl(pointer: Opaque) => rtFreeWithDevSync(pointer);
    aclrtMallocHostImpl(to: Out, size: usize) => rtMallocHost(to, size as u64, APPLICATION);
    aclrtFreeHostImpl(pointer: Opaque) => rtFreeHost(pointer);
    aclrtMemcpyImpl(to: Opaque, room: usize, from: *const c_void, count: usize, kind: u32) => rtMemcpy(to, room as u64, from, count as u64, kind);
    aclrtMemcpyAsyncImpl(to: Opaque, room: usize, from: *const c_void, count: usize, kind: u32, stream: Opaque) => rtMemcpyAsync(to, room as u64, from, count as u64, kind, stream);
    aclrtMemsetImpl(pointer: Opaque, room: usize, value: i32, count: usize) => rtMemset(pointer, room as u64, value as u32, count as u64);
    aclrtGetMemInfoImpl(attribute: u32, free: *mut usize, total: *mut usize) => rtMemGetInfoEx(attribute, free, total);
    aclrtGetMemUsageInfoImpl(device: i32, usage: Opaque, length: usize, count: *mut usize) => rtGetMemUsageInfo(device as u32, usage, length, count);
    aclrtFreePhysicalImpl(handle: Opaque) => rtFreePhysical(handle);
    aclrtReserveMemAddressImpl(to: Out, size: usize, alignment: usize, expected: Opaque, flags: u64) => rtReserveMemAddress(to, size, alignment, expected, flags);
    aclrtReleaseMemAddressImpl(pointer: Opaque) => rtReleaseMemAddress(pointer);
    aclrtMapMemImpl(pointer: Opaque, size: usize, offset: usize, handle: Opaque, flags: u64) => rtMapMem(pointer, size, offset, handle, flags);
    aclrtUnmapMemImpl(pointer: Opaque) => rtUnmapMem(pointer);
    aclrtMemExportToShareableHandleImpl(handle: Opaque, kind: u32, flags: u64, shareable: *mut u64) => rtMemExportToShareableHandle(handle, kind, flags, shareable);
    aclrtMemImportFromShareableHandleImpl(shareable: u64, device: i32, handle: Out) => rtMemImportFromShareableHandle(shareable, device, handle);
    aclrtIpcMemGetExportKeyImpl(pointer: Opaque, size: usize, key: *mut c_char, length: usize, _flags: u64) => rtIpcSetMemoryName(pointer, size as u64, key, length as u32);
    aclrtIpcMemImportByKeyImpl(to: Out, key: *const c_char, _flags: u64) => rtIpcOpenMemory(to, key);
    aclrtIpcMemCloseImpl(key: *const c_char) => rtIpcDestroyMemoryName(key);
    aclrtMemPoolCreateImpl(pool: Out, properties: *const c_void) => rtMemPoolCreate(pool, properties);
    aclrtMemPoolDestroyImpl(pool: Opaque) => rtMemPoolDestroy(pool);
    aclrtMemPoolFreeAsyncImpl(pointer: Opaque, stream: Opaque) => rtMemPoolFreeAsync(pointer, stream);
}
