//! What this library calls of `libruntime.so`, across the library boundary.

use std::ffi::{c_char, c_void};

pub type Opaque = *mut c_void;
pub type Out = *mut *mut c_void;

/// `rtDrvMemProp_t`.
#[repr(C)]
pub struct DriverProperties {
    pub side: u32,
    pub device: u32,
    pub module: u32,
    pub page_type: u32,
    pub memory_type: u32,
    pub reserve: u64,
}

unsafe extern "C" {
    pub fn rtSetDevice(device: i32) -> i32;
    pub fn rtDeviceReset(device: i32) -> i32;
    pub fn rtGetDevice(device: *mut i32) -> i32;
    pub fn rtGetDeviceCount(count: *mut i32) -> i32;
    pub fn rtsGetLogicDevIdByUserDevId(user: i32, logic: *mut i32) -> i32;
    pub fn rtGetVisibleDeviceIdByLogicDeviceId(logic: i32, user: *mut i32) -> i32;
    pub fn rtsGetPhyDevIdByLogicDevId(logic: i32, phys: *mut i32) -> i32;
    pub fn rtDeviceSynchronize() -> i32;
    pub fn rtDeviceSynchronizeWithTimeout(timeout: i32) -> i32;
    pub fn rtGetSocVersion(version: *mut c_char, length: u32) -> i32;
    pub fn rtCtxCreateEx(context: Out, flags: u32, device: i32) -> i32;
    pub fn rtCtxDestroyEx(context: Opaque) -> i32;
    pub fn rtCtxSetCurrent(context: Opaque) -> i32;
    pub fn rtCtxGetCurrent(context: Out) -> i32;

    pub fn rtStreamCreate(stream: Out, priority: i32) -> i32;
    pub fn rtStreamCreateWithFlags(stream: Out, priority: i32, flags: u32) -> i32;
    pub fn rtStreamDestroy(stream: Opaque) -> i32;
    pub fn rtStreamSynchronize(stream: Opaque) -> i32;
    pub fn rtStreamSynchronizeWithTimeout(stream: Opaque, timeout: i32) -> i32;
    pub fn rtStreamWaitEvent(stream: Opaque, event: Opaque) -> i32;
    pub fn rtEventCreate(event: Out) -> i32;
    pub fn rtEventCreateWithFlag(event: Out, flag: u32) -> i32;
    pub fn rtEventCreateExWithFlag(event: Out, flag: u32) -> i32;
    pub fn rtEventDestroy(event: Opaque) -> i32;
    pub fn rtEventRecord(event: Opaque, stream: Opaque) -> i32;
    pub fn rtEventQueryStatus(event: Opaque, status: *mut u32) -> i32;
    pub fn rtEventSynchronize(event: Opaque) -> i32;
    pub fn rtEventElapsedTime(milliseconds: *mut f32, from: Opaque, to: Opaque) -> i32;
    pub fn rtEventGetTimeStamp(stamp: *mut u64, event: Opaque) -> i32;

    pub fn rtMalloc(to: Out, size: u64, kind: u32, module: u16) -> i32;
    pub fn rtMallocCached(to: Out, size: u64, kind: u32, module: u16) -> i32;
    pub fn rtsMalloc(to: Out, size: u64, policy: u32, advise: u32, config: Opaque) -> i32;
    pub fn rtMemAllocManaged(to: Out, size: u64, flag: u32, module: u16) -> i32;
    pub fn rtFree(pointer: Opaque) -> i32;
    pub fn rtFreeWithDevSync(pointer: Opaque) -> i32;
    pub fn rtMallocHost(to: Out, size: u64, module: u16) -> i32;
    pub fn rtFreeHost(pointer: Opaque) -> i32;
    pub fn rtMemcpy(to: Opaque, room: u64, from: *const c_void, count: u64, kind: u32) -> i32;
    pub fn rtMemcpyAsync(
        to: Opaque,
        room: u64,
        from: *const c_void,
        count: u64,
        kind: u32,
        stream: Opaque,
    ) -> i32;
    pub fn rtMemset(pointer: Opaque, room: u64, value: u32, count: u64) -> i32;
    pub fn rtMemGetInfoEx(kind: u32, free: *mut usize, total: *mut usize) -> i32;
    pub fn rtGetMemUsageInfo(device: u32, usage: Opaque, length: usize, count: *mut usize) -> i32;
    pub fn rtMallocPhysical(handle: Out, size: usize, properties: *const DriverProperties, flags: u64)
    -> i32;
    pub fn rtFreePhysical(handle: Opaque) -> i32;
    pub fn rtReserveMemAddress(to: Out, size: usize, alignment: usize, expected: Opaque, flags: u64) -> i32;
    pub fn rtReleaseMemAddress(pointer: Opaque) -> i32;
    pub fn rtMapMem(pointer: Opaque, size: usize, offset: usize, handle: Opaque, flags: u64) -> i32;
    pub fn rtUnmapMem(pointer: Opaque) -> i32;
    pub fn rtMemExportToShareableHandle(handle: Opaque, kind: u32, flags: u64, shareable: *mut u64) -> i32;
    pub fn rtMemImportFromShareableHandle(shareable: u64, device: i32, handle: Out) -> i32;
    pub fn rtIpcSetMemoryName(pointer: *const c_void, size: u64, name: *mut c_char, length: u32) -> i32;
    pub fn rtIpcOpenMemory(to: Out, name: *const c_char) -> i32;
    pub fn rtIpcDestroyMemoryName(name: *const c_char) -> i32;
    pub fn rtMemPoolCreate(pool: Out, properties: *const c_void) -> i32;
    pub fn rtMemPoolDestroy(pool: Opaque) -> i32;
    pub fn rtMemPoolMallocAsync(to: Out, size: u64, pool: Opaque, stream: Opaque) -> i32;
    pub fn rtMemPoolFreeAsync(pointer: Opaque, stream: Opaque) -> i32;

    pub fn rtLaunchKernelByFuncHandleV3(
        function: Opaque,
        blocks: u32,
        arguments: Opaque,
        stream: Opaque,
        config: Opaque,
    ) -> i32;
    pub fn rtsLaunchKernelWithConfig(
        function: Opaque,
        blocks: u32,
        stream: Opaque,
        config: Opaque,
        arguments: Opaque,
        reserve: Opaque,
    ) -> i32;
    pub fn rtsLaunchKernelWithDevArgs(
        function: Opaque,
        blocks: u32,
        stream: Opaque,
        config: Opaque,
        arguments: Opaque,
        size: u32,
        reserve: Opaque,
    ) -> i32;
    pub fn rtsLaunchKernelWithHostArgs(
        function: Opaque,
        blocks: u32,
        stream: Opaque,
        config: Opaque,
        arguments: Opaque,
        size: u32,
        holders: Opaque,
        holder_count: u32,
    ) -> i32;
    pub fn rtStreamBeginCapture(stream: Opaque, mode: u32) -> i32;
    pub fn rtStreamEndCapture(stream: Opaque, model: Out) -> i32;
    pub fn rtStreamGetCaptureInfo(stream: Opaque, status: *mut u32, model: Out) -> i32;
    pub fn rtThreadExchangeCaptureMode(mode: *mut u32) -> i32;
    pub fn rtsModelExecute(model: Opaque, timeout: i32) -> i32;
    pub fn rtsModelExecuteAsync(model: Opaque, stream: Opaque) -> i32;
    pub fn rtModelDestroy(model: Opaque) -> i32;
}
