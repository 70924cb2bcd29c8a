//! Everything that is not memory: life cycle, devices, contexts, streams, events, launches.

use std::ffi::{c_char, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::runtime::*;

/// `ACL_ERROR_REPEAT_INITIALIZE`.
const REPEAT_INITIALIZE: i32 = 100_002;
/// `ACL_ERROR_REPEAT_FINALIZE`.
const REPEAT_FINALIZE: i32 = 148_006;

static INITIALIZED: AtomicBool = AtomicBool::new(false);

#[unsafe(no_mangle)]
pub extern "C" fn aclInitImpl(_path: *const c_char) -> i32 {
    if INITIALIZED.swap(true, Ordering::SeqCst) { REPEAT_INITIALIZE } else { 0 }
}

#[unsafe(no_mangle)]
pub extern "C" fn aclFinalizeImpl() -> i32 {
    if INITIALIZED.swap(false, Ordering::SeqCst) { 0 } else { REPEAT_FINALIZE }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetDeviceCountImpl(count: *mut u32) -> i32 {
    // SAFETY: the same pointer; the runtime's count is never negative.
    unsafe { rtGetDeviceCount(count.cast()) }
}

/// 1: the program runs on the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetRunModeImpl(mode: *mut u32) -> i32 {
    if mode.is_null() {
        return 100_000;
    }
    // SAFETY: the caller's out-pointer.
    unsafe { mode.write(1) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn aclrtGetSocNameImpl() -> *const c_char {
    static NAME: OnceLock<[u8; 64]> = OnceLock::new();
    let name = NAME.get_or_init(|| {
        let mut name = [0u8; 64];
        // SAFETY: 64 bytes are there.
        unsafe { rtGetSocVersion(name.as_mut_ptr().cast(), 64) };
        name
    });
    name.as_ptr().cast()
}

/// Limits of cores per device and stream: accepted, nothing here has cores.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtSetDeviceResLimitImpl(_device: i32, _kind: u32, _value: u32) -> i32 {
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn aclrtSetStreamResLimitImpl(_stream: Opaque, _kind: u32, _value: u32) -> i32 {
    0
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
    aclrtSetDeviceImpl(device: i32) => rtSetDevice(device);
    aclrtResetDeviceImpl(device: i32) => rtDeviceReset(device);
    aclrtResetDeviceForceImpl(device: i32) => rtDeviceReset(device);
    aclrtGetDeviceImpl(device: *mut i32) => rtGetDevice(device);
    aclrtGetLogicDevIdByUserDevIdImpl(user: i32, logic: *mut i32) => rtsGetLogicDevIdByUserDevId(user, logic);
    aclrtGetUserDevIdByLogicDevIdImpl(logic: i32, user: *mut i32) => rtGetVisibleDeviceIdByLogicDeviceId(logic, user);
    aclrtGetPhyDevIdByLogicDevIdImpl(logic: i32, phys: *mut i32) => rtsGetPhyDevIdByLogicDevId(logic, phys);
    aclrtSynchronizeDeviceImpl() => rtDeviceSynchronize();
    aclrtSynchronizeDeviceWithTimeoutImpl(timeout: i32) => rtDeviceSynchronizeWithTimeout(timeout);
    aclrtCreateContextImpl(context: Out, device: i32) => rtCtxCreateEx(context, 0, device);
    aclrtDestroyContextImpl(context: Opaque) => rtCtxDestroyEx(context);
    aclrtSetCurrentContextImpl(context: Opaque) => rtCtxSetCurrent(context);
    aclrtGetCurrentContextImpl(context: Out) => rtCtxGetCurrent(context);
    aclrtCreateStreamImpl(stream: Out) => rtStreamCreate(stream, 0);
    aclrtCreateStreamWithConfigImpl(stream: Out, priority: u32, flag: u32) => rtStreamCreateWithFlags(stream, priority as i32, flag);
    aclrtDestroyStreamImpl(stream: Opaque) => rtStreamDestroy(stream);
    aclrtDestroyStreamForceImpl(stream: Opaque) => rtStreamDestroy(stream);
    aclrtSynchronizeStreamImpl(stream: Opaque) => rtStreamSynchronize(stream);
    aclrtSynchronizeStreamWithTimeoutImpl(stream: Opaque, timeout: i32) => rtStreamSynchronizeWithTimeout(stream, timeout);
    aclrtStreamWaitEventImpl(stream: Opaque, event: Opaque) => rtStreamWaitEvent(stream, event);
    aclrtCreateEventImpl(event: Out) => rtEventCreate(event);
    aclrtCreateEventWithFlagImpl(event: Out, flag: u32) => rtEventCreateWithFlag(event, flag);
    aclrtCreateEventExWithFlagImpl(event: Out, flag: u32) => rtEventCreateExWithFlag(event, flag);
    aclrtDestroyEventImpl(event: Opaque) => rtEventDestroy(event);
    aclrtRecordEventImpl(event: Opaque, stream: Opaque) => rtEventRecord(event, stream);
    aclrtQueryEventStatusImpl(event: Opaque, status: *mut u32) => rtEventQueryStatus(event, status);
    aclrtSynchronizeEventImpl(event: Opaque) => rtEventSynchronize(event);
    aclrtEventElapsedTimeImpl(milliseconds: *mut f32, from: Opaque, to: Opaque) => rtEventElapsedTime(milliseconds, from, to);
    aclrtEventGetTimestampImpl(event: Opaque, stamp: *mut u64) => rtEventGetTimeStamp(stamp, event);
    aclrtLaunchKernelImpl(function: Opaque, blocks: u32, arguments: *const c_void, _size: usize, stream: Opaque) => rtLaunchKernelByFuncHandleV3(function, blocks, arguments.cast_mut(), stream, std::ptr::null_mut());
    aclrtLaunchKernelWithConfigImpl(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: Opaque, reserve: Opaque) => rtsLaunchKernelWithConfig(function, blocks, stream, config, arguments, reserve);
    aclrtLaunchKernelV2Impl(function: Opaque, blocks: u32, arguments: *const c_void, size: usize, config: Opaque, stream: Opaque) => rtsLaunchKernelWithDevArgs(function, blocks, stream, config, arguments.cast_mut(), size as u32, std::ptr::null_mut());
    aclrtLaunchKernelWithHostArgsImpl(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: Opaque, size: usize, holders: Opaque, holder_count: usize) => rtsLaunchKernelWithHostArgs(function, blocks, stream, config, arguments, size as u32, holders, holder_count as u32);
    aclmdlRICaptureBeginImpl(stream: Opaque, mode: u32) => rtStreamBeginCapture(stream, mode);
    aclmdlRICaptureEndImpl(stream: Opaque, model: Out) => rtStreamEndCapture(stream, model);
    aclmdlRICaptureGetInfoImpl(stream: Opaque, status: *mut u32, model: Out) => rtStreamGetCaptureInfo(stream, status, model);
    aclmdlRICaptureThreadExchangeModeImpl(mode: *mut u32) => rtThreadExchangeCaptureMode(mode);
    aclmdlRIExecuteImpl(model: Opaque, timeout: i32) => rtsModelExecute(model, timeout);
    aclmdlRIExecuteAsyncImpl(model: Opaque, stream: Opaque) => rtsModelExecuteAsync(model, stream);
    aclmdlRIDestroyImpl(model: Opaque) => rtModelDestroy(model);
}
