//! Events of the CUDA driver. They belong to the context that was current when they were made.

use std::ffi::{CStr, c_void};

use vnpu_quota_abi::table::FrontTable;

use super::{Event, Site};
use crate::chips::resolve;
use crate::cuda_contexts::{CudaContexts, is_default};

type Create = unsafe extern "C" fn(*mut *mut c_void, u32) -> i32;
type Destroy = unsafe extern "C" fn(*mut c_void) -> i32;
type Record = unsafe extern "C" fn(*mut c_void, *mut c_void) -> i32;
type Query = unsafe extern "C" fn(*mut c_void) -> i32;
type Elapsed = unsafe extern "C" fn(*mut f32, *mut c_void, *mut c_void) -> i32;
type Capturing = unsafe extern "C" fn(*mut c_void, *mut i32) -> i32;
type Exchange = unsafe extern "C" fn(*mut i32) -> i32;
type SetContext = unsafe extern "C" fn(*mut c_void) -> i32;

/// The functions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Events {
    create: Create,
    destroy: Option<Destroy>,
    record: Record,
    query: Query,
    elapsed: Elapsed,
    capturing: Option<Capturing>,
    exchange: Option<Exchange>,
    set_context: SetContext,
    contexts: CudaContexts,
}

/// `CU_EVENT_DEFAULT`: with a time stamp.
const TIMED: u32 = 0;
/// `CU_STREAM_LEGACY`: waits for all per-thread streams of the context, and they for it (CUDA runtime API, "Stream
/// synchronization behavior").
pub(super) const LEGACY: usize = 1;
/// `CUDA_ERROR_NOT_READY`.
const NOT_READY: i32 = 600;

impl Events {
    pub(super) fn find(front: &FrontTable) -> Option<Self> {
        let find = |name: &CStr| resolve(front, &[name]);
        let create = find(c"cuEventCreate")?;
        let destroy = find(c"cuEventDestroy_v2");
        let record = find(c"cuEventRecord")?;
        let query = find(c"cuEventQuery")?;
        let elapsed = find(c"cuEventElapsedTime")?;
        // Since CUDA 10.0 and 10.1: before, there is nothing to capture, or no mode of it.
        let capturing = find(c"cuStreamIsCapturing");
        let exchange = find(c"cuThreadExchangeStreamCaptureMode");
        let set_context = find(c"cuCtxSetCurrent")?;
        let contexts = CudaContexts::find(front)?;
        // SAFETY: functions of these names have these C types (cuda.h).
        unsafe {
            Some(Self {
                create: std::mem::transmute::<*mut c_void, Create>(create),
                destroy: destroy.map(|f| std::mem::transmute::<*mut c_void, Destroy>(f)),
                record: std::mem::transmute::<*mut c_void, Record>(record),
                query: std::mem::transmute::<*mut c_void, Query>(query),
                elapsed: std::mem::transmute::<*mut c_void, Elapsed>(elapsed),
                capturing: capturing.map(|f| std::mem::transmute::<*mut c_void, Capturing>(f)),
                exchange: exchange.map(|f| std::mem::transmute::<*mut c_void, Exchange>(f)),
                set_context: std::mem::transmute::<*mut c_void, SetContext>(set_context),
                contexts,
            })
        }
    }

    pub(super) fn create(&self) -> Option<usize> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the vendor's function with a valid pointer.
        let code = unsafe { (self.create)(&raw mut event, TIMED) };
        (code == 0 && !event.is_null()).then_some(event as usize)
    }

    pub(super) fn destroy(&self, event: Event) {
        if let Some(destroy) = self.destroy {
            // SAFETY: an event of ours, which nobody uses any more.
            unsafe { destroy(event.handle()) };
        }
    }

    pub(super) fn record(&self, event: Event, stream: *mut c_void) -> bool {
        // SAFETY: an event of ours, and the program's own stream.
        unsafe { (self.record)(event.handle(), stream) == 0 }
    }

    pub(super) fn is_finished(&self, event: Event) -> bool {
        // SAFETY: an event of ours.
        unsafe { (self.query)(event.handle()) != NOT_READY }
    }

    pub(super) fn milliseconds(&self, from: Event, to: Event) -> Option<f32> {
        let mut milliseconds = 0.0;
        // SAFETY: events of ours and a valid pointer.
        let code = unsafe { (self.elapsed)(&raw mut milliseconds, from.handle(), to.handle()) };
        (code == 0).then_some(milliseconds)
    }

    /// Also where the driver does not want to say: it answers with an error for the default stream while one that waits
    /// for it is in capture, and an event there would break that.
    pub(super) fn is_capturing(&self, stream: *mut c_void) -> bool {
        let Some(capturing) = self.capturing else { return false };
        let mut status = 0;
        // SAFETY: the program's own stream and a valid pointer.
        unsafe { capturing(stream, &raw mut status) != 0 || status != 0 }
    }

    pub(super) fn exchange(&self, mut mode: i32) -> Option<i32> {
        // SAFETY: the vendor's function with a valid pointer.
        (unsafe { self.exchange?(&raw mut mode) } == 0).then_some(mode)
    }

    pub(super) fn enter(&self, Site(context): Site) -> bool {
        // SAFETY: the vendor's function; whoever destroys a context says so first, and it is not entered again.
        unsafe { (self.set_context)(context as *mut c_void) == 0 }
    }

    pub(super) fn site(&self) -> Option<Site> {
        self.contexts.current().map(Site)
    }

    /// The context of a stream; 0 where there is none.
    pub(super) fn home(&self, stream: *mut c_void) -> usize {
        let of_its_own = if is_default(stream) { None } else { self.contexts.of_stream(stream) };
        of_its_own.or_else(|| self.contexts.current()).unwrap_or(0)
    }

    pub(super) fn within<T>(&self, home: usize, act: impl FnOnce() -> T) -> T {
        let is_there = home == 0 || self.contexts.current() == Some(home);
        let _entered = if is_there { None } else { self.contexts.enter(home) };
        act()
    }
}
