//! `libascendcl.so`: the public ACL functions. Each calls its `Impl` in `libacl_rt_impl.so` across the library
//! boundary, as in CANN 8.5 to 9.1, so that a preloaded library can stand between.
// The exported names and what they do are the vendor's.
#![allow(
    non_snake_case,
    missing_docs,
    clippy::missing_safety_doc,
    clippy::not_unsafe_ptr_arg_deref,
    clippy::too_many_arguments
)]

use std::ffi::{c_char, c_void};

type Opaque = *mut c_void;
type Out = *mut *mut c_void;

macro_rules! forward {
    ($($name:ident => $inner:ident($($argument:ident: $kind:ty),*);)*) => {
        unsafe extern "C" {
            $(fn $inner($($argument: $kind),*) -> i32;)*
        }
        $(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $kind),*) -> i32 {
                // SAFETY: same signature, the caller's own promises.
                unsafe { $inner($($argument),*) }
            }
        )*
    };
}

forward! {
    aclInit => aclInitImpl(path: *const c_char);
    aclFinalize => aclFinalizeImpl();

    aclrtSetDevice => aclrtSetDeviceImpl(device: i32);
    aclrtResetDevice => aclrtResetDeviceImpl(device: i32);
    aclrtResetDeviceForce => aclrtResetDeviceForceImpl(device: i32);
    aclrtGetDevice => aclrtGetDeviceImpl(device: *mut i32);
    aclrtGetDeviceCount => aclrtGetDeviceCountImpl(count: *mut u32);
    aclrtGetRunMode => aclrtGetRunModeImpl(mode: *mut u32);
    aclrtGetLogicDevIdByUserDevId => aclrtGetLogicDevIdByUserDevIdImpl(user: i32, logic: *mut i32);
    aclrtGetUserDevIdByLogicDevId => aclrtGetUserDevIdByLogicDevIdImpl(logic: i32, user: *mut i32);
    aclrtGetPhyDevIdByLogicDevId => aclrtGetPhyDevIdByLogicDevIdImpl(logic: i32, phys: *mut i32);
    aclrtSynchronizeDevice => aclrtSynchronizeDeviceImpl();
    aclrtSynchronizeDeviceWithTimeout => aclrtSynchronizeDeviceWithTimeoutImpl(timeout: i32);
    aclrtSetDeviceResLimit => aclrtSetDeviceResLimitImpl(device: i32, kind: u32, value: u32);
    aclrtSetStreamResLimit => aclrtSetStreamResLimitImpl(stream: Opaque, kind: u32, value: u32);

    aclrtCreateContext => aclrtCreateContextImpl(context: Out, device: i32);
    aclrtDestroyContext => aclrtDestroyContextImpl(context: Opaque);
    aclrtSetCurrentContext => aclrtSetCurrentContextImpl(context: Opaque);
    aclrtGetCurrentContext => aclrtGetCurrentContextImpl(context: Out);

    aclrtCreateStream => aclrtCreateStreamImpl(stream: Out);
    aclrtCreateStreamWithConfig => aclrtCreateStreamWithConfigImpl(stream: Out, priority: u32, flag: u32);
    aclrtDestroyStream => aclrtDestroyStreamImpl(stream: Opaque);
    aclrtDestroyStreamForce => aclrtDestroyStreamForceImpl(stream: Opaque);
    aclrtSynchronizeStream => aclrtSynchronizeStreamImpl(stream: Opaque);
    aclrtSynchronizeStreamWithTimeout => aclrtSynchronizeStreamWithTimeoutImpl(stream: Opaque, timeout: i32);
    aclrtStreamWaitEvent => aclrtStreamWaitEventImpl(stream: Opaque, event: Opaque);

    aclrtCreateEvent => aclrtCreateEventImpl(event: Out);
    aclrtCreateEventWithFlag => aclrtCreateEventWithFlagImpl(event: Out, flag: u32);
    aclrtCreateEventExWithFlag => aclrtCreateEventExWithFlagImpl(event: Out, flag: u32);
    aclrtDestroyEvent => aclrtDestroyEventImpl(event: Opaque);
    aclrtRecordEvent => aclrtRecordEventImpl(event: Opaque, stream: Opaque);
    aclrtQueryEventStatus => aclrtQueryEventStatusImpl(event: Opaque, status: *mut u32);
    aclrtSynchronizeEvent => aclrtSynchronizeEventImpl(event: Opaque);
    aclrtEventElapsedTime => aclrtEventElapsedTimeImpl(milliseconds: *mut f32, from: Opaque, to: Opaque);
    aclrtEventGetTimestamp => aclrtEventGetTimestampImpl(event: Opaque, stamp: *mut u64);

    aclrtMalloc => aclrtMallocImpl(to: Out, size: usize, policy: u32);
    aclrtMallocAlign32 => aclrtMallocAlign32Impl(to: Out, size: usize, policy: u32);
    aclrtMallocCached => aclrtMallocCachedImpl(to: Out, size: usize, policy: u32);
    aclrtMallocWithCfg => aclrtMallocWithCfgImpl(to: Out, size: usize, policy: u32, config: Opaque);
    aclrtMallocForTaskScheduler => aclrtMallocForTaskSchedulerImpl(to: Out, size: usize, policy: u32, config: Opaque);
    aclrtMemAllocManaged => aclrtMemAllocManagedImpl(to: Out, size: u64, flag: u32);
    aclrtFree => aclrtFreeImpl(pointer: Opaque);
    aclrtFreeWithDevSync => aclrtFreeWithDevSyncImpl(pointer: Opaque);
    aclrtMallocHost => aclrtMallocHostImpl(to: Out, size: usize);
    aclrtFreeHost => aclrtFreeHostImpl(pointer: Opaque);
    aclrtMemcpy => aclrtMemcpyImpl(to: Opaque, room: usize, from: *const c_void, count: usize, kind: u32);
    aclrtMemcpyAsync => aclrtMemcpyAsyncImpl(to: Opaque, room: usize, from: *const c_void, count: usize, kind: u32, stream: Opaque);
    aclrtMemset => aclrtMemsetImpl(pointer: Opaque, room: usize, value: i32, count: usize);

    aclrtGetMemInfo => aclrtGetMemInfoImpl(attribute: u32, free: *mut usize, total: *mut usize);
    aclrtGetMemUsageInfo => aclrtGetMemUsageInfoImpl(device: i32, usage: Opaque, length: usize, count: *mut usize);

    aclrtMallocPhysical => aclrtMallocPhysicalImpl(handle: Out, size: usize, properties: *const c_void, flags: u64);
    aclrtFreePhysical => aclrtFreePhysicalImpl(handle: Opaque);
    aclrtReserveMemAddress => aclrtReserveMemAddressImpl(to: Out, size: usize, alignment: usize, expected: Opaque, flags: u64);
    aclrtReleaseMemAddress => aclrtReleaseMemAddressImpl(pointer: Opaque);
    aclrtMapMem => aclrtMapMemImpl(pointer: Opaque, size: usize, offset: usize, handle: Opaque, flags: u64);
    aclrtUnmapMem => aclrtUnmapMemImpl(pointer: Opaque);
    aclrtMemGetAllocationGranularity => aclrtMemGetAllocationGranularityImpl(properties: *const c_void, option: u32, granularity: *mut usize);

    aclrtMemExportToShareableHandle => aclrtMemExportToShareableHandleImpl(handle: Opaque, kind: u32, flags: u64, shareable: *mut u64);
    aclrtMemImportFromShareableHandle => aclrtMemImportFromShareableHandleImpl(shareable: u64, device: i32, handle: Out);
    aclrtIpcMemGetExportKey => aclrtIpcMemGetExportKeyImpl(pointer: Opaque, size: usize, key: *mut c_char, length: usize, flags: u64);
    aclrtIpcMemImportByKey => aclrtIpcMemImportByKeyImpl(to: Out, key: *const c_char, flags: u64);
    aclrtIpcMemClose => aclrtIpcMemCloseImpl(key: *const c_char);
    aclrtMemPoolCreate => aclrtMemPoolCreateImpl(pool: Out, properties: *const c_void);
    aclrtMemPoolDestroy => aclrtMemPoolDestroyImpl(pool: Opaque);
    aclrtMemPoolMallocAsync => aclrtMemPoolMallocAsyncImpl(to: Out, size: usize, pool: Opaque, stream: Opaque);
    aclrtMemPoolFreeAsync => aclrtMemPoolFreeAsyncImpl(pointer: Opaque, stream: Opaque);

    aclrtLaunchKernel => aclrtLaunchKernelImpl(function: Opaque, blocks: u32, arguments: *const c_void, size: usize, stream: Opaque);
    aclrtLaunchKernelWithConfig => aclrtLaunchKernelWithConfigImpl(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: Opaque, reserve: Opaque);
    aclrtLaunchKernelV2 => aclrtLaunchKernelV2Impl(function: Opaque, blocks: u32, arguments: *const c_void, size: usize, config: Opaque, stream: Opaque);
    aclrtLaunchKernelWithHostArgs => aclrtLaunchKernelWithHostArgsImpl(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: Opaque, size: usize, holders: Opaque, holder_count: usize);
    aclmdlRICaptureBegin => aclmdlRICaptureBeginImpl(stream: Opaque, mode: u32);
    aclmdlRICaptureEnd => aclmdlRICaptureEndImpl(stream: Opaque, model: Out);
    aclmdlRICaptureGetInfo => aclmdlRICaptureGetInfoImpl(stream: Opaque, status: *mut u32, model: Out);
    aclmdlRICaptureThreadExchangeMode => aclmdlRICaptureThreadExchangeModeImpl(mode: *mut u32);
    aclmdlRIExecute => aclmdlRIExecuteImpl(model: Opaque, timeout: i32);
    aclmdlRIExecuteAsync => aclmdlRIExecuteAsyncImpl(model: Opaque, stream: Opaque);
    aclmdlRIDestroy => aclmdlRIDestroyImpl(model: Opaque);
}

unsafe extern "C" {
    fn aclrtGetSocNameImpl() -> *const c_char;
}

#[unsafe(no_mangle)]
pub extern "C" fn aclrtGetSocName() -> *const c_char {
    // SAFETY: takes nothing, answers a string that lives for ever.
    unsafe { aclrtGetSocNameImpl() }
}
