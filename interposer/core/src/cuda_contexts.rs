//! Contexts of the CUDA driver, past our own hooks: which one a thread or a stream has, and how to be in one for a moment.

use std::ffi::{CStr, c_void};

use vnpu_quota_abi::table::FrontTable;

use crate::chips::resolve;
use crate::streams::PER_THREAD;

type Get = unsafe extern "C" fn(*mut *mut c_void) -> i32;
type Set = unsafe extern "C" fn(*mut c_void) -> i32;
type OfStream = unsafe extern "C" fn(*mut c_void, *mut *mut c_void) -> i32;

/// Handles up to this one name the default streams of whatever context is current: null, `CU_STREAM_LEGACY` and
/// `CU_STREAM_PER_THREAD`.
const LAST_DEFAULT: usize = PER_THREAD;

/// Whether a stream is one of whatever context is current.
pub(crate) fn is_default(stream: *mut c_void) -> bool {
    stream as usize <= LAST_DEFAULT
}

/// The functions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CudaContexts {
    current: Get,
    push: Set,
    pop: Get,
    of_stream: Option<OfStream>,
}

impl CudaContexts {
    /// `None` while the driver is not loaded.
    pub(crate) fn find(front: &FrontTable) -> Option<Self> {
        let find = |name: &CStr| resolve(front, &[name]);
        let current = find(c"cuCtxGetCurrent")?;
        let push = find(c"cuCtxPushCurrent_v2")?;
        let pop = find(c"cuCtxPopCurrent_v2")?;
        // Since CUDA 9.2.
        let of_stream = find(c"cuStreamGetCtx");
        // SAFETY: functions of these names have these C types (cuda.h).
        unsafe {
            Some(Self {
                current: std::mem::transmute::<*mut c_void, Get>(current),
                push: std::mem::transmute::<*mut c_void, Set>(push),
                pop: std::mem::transmute::<*mut c_void, Get>(pop),
                of_stream: of_stream.map(|f| std::mem::transmute::<*mut c_void, OfStream>(f)),
            })
        }
    }

    /// The calling thread's context; `None` when it has none.
    pub(crate) fn current(&self) -> Option<usize> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the vendor's function with a valid pointer.
        let code = unsafe { (self.current)(&raw mut context) };
        (code == 0 && !context.is_null()).then_some(context as usize)
    }

    /// The context of a stream that the program made and has not destroyed.
    pub(crate) fn of_stream(&self, stream: *mut c_void) -> Option<usize> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the program's own stream and a valid pointer.
        let code = unsafe { (self.of_stream?)(stream, &raw mut context) };
        (code == 0).then_some(context as usize)
    }

    /// Puts the calling thread into a context that has not ended, until what is returned is dropped; `None` where it cannot
    /// be there.
    pub(crate) fn enter(&self, context: usize) -> Option<Entered<'_>> {
        // SAFETY: the vendor's function; whoever destroys a context says so first, and it is not entered again.
        (unsafe { (self.push)(context as *mut c_void) } == 0).then_some(Entered(self))
    }
}

/// The calling thread is in a context.
pub(crate) struct Entered<'a>(&'a CudaContexts);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: the vendor's function with a valid pointer.
        unsafe { (self.0.pop)(&raw mut popped) };
    }
}
