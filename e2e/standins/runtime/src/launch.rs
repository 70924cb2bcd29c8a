//! Streams, events, launches. Kernels are put into the chip's queue and run there for as long as their
//! function handle says: **in this stand-in a function handle is the kernel's duration in nanoseconds**, null for one
//! that takes no time.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use standin_protocol::{Reply, Request};

use crate::capture;
use crate::device::{code, put};
use crate::process::{current_device, process};
use crate::status::{DONE, DRIVER_INTERNAL, INVALID_DEVICE, PARAM_INVALID};

/// Next opaque handle; never dereferenced.
static NEXT_HANDLE: AtomicUsize = AtomicUsize::new(0x7100_0000);

/// One recorded event.
#[derive(Debug, Clone, Copy)]
struct Event {
    phys_id: u32,
    mark: u64,
    /// The device's clock, once it was reached.
    at: Option<u64>,
}

static EVENTS: Mutex<BTreeMap<usize, Event>> = Mutex::new(BTreeMap::new());

/// Kernels behind no function handle: AI CPU operators.
const UNNAMED_KERNEL: usize = 10_000;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new opaque handle.
pub fn handle() -> *mut c_void {
    NEXT_HANDLE.fetch_add(16, Ordering::Relaxed) as *mut c_void
}

/// The physical id of the thread's device.
fn current_chip() -> Result<u32, i32> {
    let device = current_device()?;
    process().phys_id(device)
}

fn launch(nanos: u64, stream: *mut c_void) -> Result<(), i32> {
    let phys_id = current_chip()?;
    if let Some(recorded) = capture::record(stream, nanos) {
        return recorded;
    }
    match process().ask(&Request::Launch { phys_id, nanos })? {
        Reply::Done => Ok(()),
        _ => Err(INVALID_DEVICE),
    }
}

/// Waits until nothing of this process is queued on the thread's device.
pub fn drain() -> Result<(), i32> {
    let phys_id = current_chip()?;
    loop {
        let Reply::Work(left) = process().ask(&Request::Queued { phys_id })? else {
            return Err(DRIVER_INTERNAL);
        };
        if left == 0 {
            return Ok(());
        }
        // Others may have their turns in between: what is left is the least that it takes.
        std::thread::sleep(Duration::from_nanos(left.clamp(10_000, 1_000_000)));
    }
}

/// # Safety
/// `to` is null or valid for a write.
unsafe fn make(to: *mut *mut c_void) -> i32 {
    // SAFETY: the caller's out-pointer.
    code(current_device().and_then(|_| unsafe { put(to, handle()) }))
}

/// The event, asked for when it is not known to be reached.
fn look_at(event: *mut c_void) -> Result<Event, i32> {
    let known = locked(&EVENTS).get(&(event as usize)).copied().ok_or(PARAM_INVALID)?;
    if known.at.is_some() {
        return Ok(known);
    }
    let reply = process().ask(&Request::Reached { phys_id: known.phys_id, mark: known.mark })?;
    let Reply::Time(at) = reply else { return Err(DRIVER_INTERNAL) };
    let mut events = locked(&EVENTS);
    let event = events.get_mut(&(event as usize)).ok_or(PARAM_INVALID)?;
    // Another thread may have been told; it is told once.
    if event.mark == known.mark && at.is_some() {
        event.at = at;
    }
    Ok(*event)
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
    ($($name:ident($($argument:ident: $kind:ty),*) => $nanos:expr, $stream:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($argument: $kind),*) -> i32 {
            let _ = ($($argument,)*);
            code(launch($nanos as usize as u64, $stream))
        }
    )*};
}

macro_rules! waits {
    ($($name:ident($stream:ident: $stream_kind:ty $(, $argument:ident: $kind:ty)*);)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($stream: $stream_kind $(, $argument: $kind)*) -> i32 {
            let _ = ($($argument,)*);
            code(capture::forbid_on($stream).and_then(|()| capture::forbid()).and_then(|()| drain()))
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

waits! {
    rtStreamDestroy(stream: Opaque);
    rtStreamSynchronize(stream: Opaque);
    rtStreamSynchronizeWithTimeout(stream: Opaque, timeout: i32);
}

work! {
    rtKernelLaunch(stub: Opaque, blocks: u32, arguments: Opaque, size: u32, descriptor: Opaque, stream: Opaque) => stub, stream;
    rtKernelLaunchWithFlag(stub: Opaque, blocks: u32, arguments: Opaque, descriptor: Opaque, stream: Opaque, flags: u32) => stub, stream;
    rtKernelLaunchWithFlagV2(stub: Opaque, blocks: u32, arguments: Opaque, descriptor: Opaque, stream: Opaque, flags: u32, config: Opaque) => stub, stream;
    rtKernelLaunchWithHandleV2(kernel: Opaque, tiling: u64, blocks: u32, arguments: Opaque, descriptor: Opaque, stream: Opaque, config: Opaque) => kernel, stream;
    rtAicpuKernelLaunchWithFlag(names: Opaque, blocks: u32, arguments: Opaque, descriptor: Opaque, stream: Opaque, flags: u32) => UNNAMED_KERNEL, stream;
    rtAicpuKernelLaunchExWithArgs(kind: u32, name: Opaque, blocks: u32, arguments: Opaque, descriptor: Opaque, stream: Opaque, flags: u32) => UNNAMED_KERNEL, stream;
    rtLaunchKernelByFuncHandleV3(function: Opaque, blocks: u32, arguments: Opaque, stream: Opaque, config: Opaque) => function, stream;
    rtsLaunchKernelWithConfig(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: Opaque, reserve: Opaque) => function, stream;
    rtsLaunchKernelWithDevArgs(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: Opaque, size: u32, reserve: Opaque) => function, stream;
    rtsLaunchKernelWithHostArgs(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: Opaque, size: u32, holders: Opaque, holder_count: u32) => function, stream;
    rtModelExecute(model: Opaque, stream: Opaque, flag: u32) => capture::model_nanos(model), stream;
    rtsModelExecuteAsync(model: Opaque, stream: Opaque) => capture::model_nanos(model), stream;
}

fn execute_and_wait(model: *mut c_void) -> i32 {
    code(
        capture::forbid()
            .and_then(|()| launch(capture::model_nanos(model), std::ptr::null_mut()))
            .and_then(|()| drain()),
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn rtModelExecuteSync(model: *mut c_void, _stream: Opaque, _flag: u32, _timeout: i32) -> i32 {
    execute_and_wait(model)
}

#[unsafe(no_mangle)]
pub extern "C" fn rtsModelExecute(model: *mut c_void, _timeout: i32) -> i32 {
    execute_and_wait(model)
}

/// The process's streams share one queue, so whatever was recorded before is before.
#[unsafe(no_mangle)]
pub extern "C" fn rtStreamWaitEvent(stream: *mut c_void, event: *mut c_void) -> i32 {
    code(current_device().and_then(|_| capture::wait(stream, event)))
}

#[unsafe(no_mangle)]
pub extern "C" fn rtEventDestroy(event: *mut c_void) -> i32 {
    locked(&EVENTS).remove(&(event as usize));
    DONE
}

#[unsafe(no_mangle)]
pub extern "C" fn rtEventRecord(event: *mut c_void, stream: *mut c_void) -> i32 {
    let record = || {
        if event.is_null() {
            return Err(PARAM_INVALID);
        }
        let phys_id = current_chip()?;
        // A captured record is a node of the graph, it takes no time stamp now.
        if let Some(recorded) = capture::record_event(stream, event) {
            return recorded;
        }
        let Reply::Mark(mark) = process().ask(&Request::Record { phys_id })? else {
            return Err(DRIVER_INTERNAL);
        };
        locked(&EVENTS).insert(event as usize, Event { phys_id, mark, at: None });
        Ok(())
    };
    code(record())
}

#[unsafe(no_mangle)]
pub extern "C" fn rtEventSynchronize(event: *mut c_void) -> i32 {
    if let Err(error) = capture::forbid_event(event).and_then(|()| capture::forbid()) {
        return error;
    }
    loop {
        match look_at(event) {
            Ok(Event { at: Some(_), .. }) => return DONE,
            Ok(_) => std::thread::sleep(Duration::from_micros(20)),
            // An event that was never recorded is complete.
            Err(PARAM_INVALID) => return code(current_device().map(|_| ())),
            Err(error) => return error,
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtEventQueryStatus(event: *mut c_void, status: *mut u32) -> i32 {
    let asked = capture::forbid_event(event).and_then(|()| capture::forbid());
    let reached = match asked.and_then(|()| look_at(event)) {
        Ok(event) => Ok(event.at.is_some()),
        Err(PARAM_INVALID) => Ok(false),
        Err(error) => Err(error),
    };
    // SAFETY: the caller's out-pointer. 1 is "recorded and complete".
    code(reached.and_then(|reached| unsafe { put(status, u32::from(reached)) }))
}

fn reached_at(event: *mut c_void) -> Result<u64, i32> {
    look_at(event)?.at.ok_or(PARAM_INVALID)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtEventElapsedTime(
    milliseconds: *mut f32,
    from: *mut c_void,
    to: *mut c_void,
) -> i32 {
    let elapsed = || Ok(reached_at(to)?.saturating_sub(reached_at(from)?) as f32 / 1e6);
    // SAFETY: the caller's out-pointer.
    code(elapsed().and_then(|elapsed| unsafe { put(milliseconds, elapsed) }))
}

/// Microseconds of the device's clock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtEventGetTimeStamp(stamp: *mut u64, event: *mut c_void) -> i32 {
    // SAFETY: the caller's out-pointer.
    code(reached_at(event).and_then(|at| unsafe { put(stamp, at / 1000) }))
}
