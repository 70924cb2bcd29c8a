//! Streams, events, launches, captured models: enough that programs run. Work completes at once.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::device::{code, put};
use crate::process::current_device;
use crate::status::{DONE, PARAM_INVALID};

/// Next opaque handle; never dereferenced.
static NEXT_HANDLE: AtomicUsize = AtomicUsize::new(0x7100_0000);

/// When events were recorded.
static EVENTS: Mutex<BTreeMap<usize, Instant>> = Mutex::new(BTreeMap::new());

/// Stream in capture, or 0.
static CAPTURING: AtomicUsize = AtomicUsize::new(0);

fn handle() -> *mut c_void {
    NEXT_HANDLE.fetch_add(16, Ordering::Relaxed) as *mut c_void
}

/// # Safety
/// `to` is null or valid for a write.
unsafe fn make(to: *mut *mut c_void) -> i32 {
    // SAFETY: the caller's out-pointer.
    code(current_device().and_then(|_| unsafe { put(to, handle()) }))
}

fn launched() -> i32 {
    code(current_device().map(|_| ()))
}

macro_rules! makers {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(to: *mut *mut c_void $(, $argument: $kind)*) -> i32 {
            let _ = ($($argument,)*);
            // SAFETY: same contract.
            unsafe { make(to) }
        }
    )*};
}

macro_rules! work {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($argument: $kind),*) -> i32 {
            let _ = ($($argument,)*);
            launched()
        }
    )*};
}

type Opaque = *mut c_void;

makers! {
    rtStreamCreate(priority: i32);
    rtStreamCreateWithFlags(priority: i32, flags: u32);
    rtEventCreate();
    rtEventCreateWithFlag(flag: u32);
    rtEventCreateExWithFlag(flag: u32);
}

work! {
    rtStreamDestroy(stream: Opaque);
    rtStreamSynchronize(stream: Opaque);
    rtStreamSynchronizeWithTimeout(stream: Opaque, timeout: i32);
    rtStreamWaitEvent(stream: Opaque, event: Opaque);
    rtEventSynchronize(event: Opaque);
    rtKernelLaunch(stub: Opaque, blocks: u32, arguments: Opaque, size: u32, descriptor: Opaque, stream: Opaque);
    rtKernelLaunchWithFlag(stub: Opaque, blocks: u32, arguments: Opaque, descriptor: Opaque, stream: Opaque, flags: u32);
    rtKernelLaunchWithFlagV2(stub: Opaque, blocks: u32, arguments: Opaque, descriptor: Opaque, stream: Opaque, flags: u32, config: Opaque);
    rtKernelLaunchWithHandleV2(kernel: Opaque, tiling: u64, blocks: u32, arguments: Opaque, descriptor: Opaque, stream: Opaque, config: Opaque);
    rtAicpuKernelLaunchWithFlag(names: Opaque, blocks: u32, arguments: Opaque, descriptor: Opaque, stream: Opaque, flags: u32);
    rtAicpuKernelLaunchExWithArgs(kind: u32, name: Opaque, blocks: u32, arguments: Opaque, descriptor: Opaque, stream: Opaque, flags: u32);
    rtLaunchKernelByFuncHandleV3(function: Opaque, blocks: u32, arguments: Opaque, stream: Opaque, config: Opaque);
    rtsLaunchKernelWithConfig(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: Opaque, reserve: Opaque);
    rtsLaunchKernelWithDevArgs(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: Opaque, size: u32, reserve: Opaque);
    rtsLaunchKernelWithHostArgs(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: Opaque, size: u32, holders: Opaque, holder_count: u32);
    rtModelExecute(model: Opaque, stream: Opaque, flag: u32);
    rtModelExecuteSync(model: Opaque, stream: Opaque, flag: u32, timeout: i32);
    rtsModelExecute(model: Opaque, timeout: i32);
    rtsModelExecuteAsync(model: Opaque, stream: Opaque);
    rtModelDestroy(model: Opaque);
}

#[unsafe(no_mangle)]
pub extern "C" fn rtEventDestroy(event: *mut c_void) -> i32 {
    EVENTS.lock().unwrap_or_else(PoisonError::into_inner).remove(&(event as usize));
    DONE
}

#[unsafe(no_mangle)]
pub extern "C" fn rtEventRecord(event: *mut c_void, stream: *mut c_void) -> i32 {
    if event.is_null() {
        return PARAM_INVALID;
    }
    // A captured record is a node of the graph, it takes no time stamp now.
    if CAPTURING.load(Ordering::Relaxed) != stream as usize || stream.is_null() {
        EVENTS.lock().unwrap_or_else(PoisonError::into_inner).insert(event as usize, Instant::now());
    }
    launched()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtEventQueryStatus(event: *mut c_void, status: *mut u32) -> i32 {
    let recorded = EVENTS.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&(event as usize));
    // SAFETY: the caller's out-pointer. 1 is "recorded and complete".
    code(unsafe { put(status, u32::from(recorded)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtEventElapsedTime(
    milliseconds: *mut f32,
    from: *mut c_void,
    to: *mut c_void,
) -> i32 {
    let events = EVENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let both = events.get(&(from as usize)).zip(events.get(&(to as usize)));
    let elapsed = both.map(|(from, to)| to.saturating_duration_since(*from).as_secs_f32() * 1000.0);
    // SAFETY: the caller's out-pointer.
    code(elapsed.ok_or(PARAM_INVALID).and_then(|elapsed| unsafe { put(milliseconds, elapsed) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtEventGetTimeStamp(stamp: *mut u64, event: *mut c_void) -> i32 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    let events = EVENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let micros =
        events.get(&(event as usize)).map(|at| at.saturating_duration_since(start).as_micros() as u64);
    // SAFETY: the caller's out-pointer.
    code(micros.ok_or(PARAM_INVALID).and_then(|micros| unsafe { put(stamp, micros) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn rtStreamBeginCapture(stream: *mut c_void, _mode: u32) -> i32 {
    CAPTURING.store(stream as usize, Ordering::Relaxed);
    launched()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtStreamEndCapture(_stream: *mut c_void, model: *mut *mut c_void) -> i32 {
    CAPTURING.store(0, Ordering::Relaxed);
    // SAFETY: same contract.
    unsafe { make(model) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtStreamGetCaptureInfo(
    stream: *mut c_void,
    status: *mut u32,
    model: *mut *mut c_void,
) -> i32 {
    let active = !stream.is_null() && CAPTURING.load(Ordering::Relaxed) == stream as usize;
    // SAFETY: the caller's out-pointer.
    if !model.is_null() && unsafe { put(model, std::ptr::null_mut()) }.is_err() {
        return PARAM_INVALID;
    }
    // SAFETY: the caller's out-pointer.
    code(unsafe { put(status, u32::from(active)) })
}
