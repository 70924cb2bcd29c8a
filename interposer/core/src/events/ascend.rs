//! Events of the Ascend runtime.

use std::ffi::{CStr, c_void};

use vnpu_quota_abi::table::FrontTable;

use super::{Event, Site};
use crate::chips::resolve;

type Create = unsafe extern "C" fn(*mut *mut c_void, u32) -> i32;
type Destroy = unsafe extern "C" fn(*mut c_void) -> i32;
type Record = unsafe extern "C" fn(*mut c_void, *mut c_void) -> i32;
type Query = unsafe extern "C" fn(*mut c_void, *mut u32) -> i32;
type Elapsed = unsafe extern "C" fn(*mut f32, *mut c_void, *mut c_void) -> i32;
type Capture = unsafe extern "C" fn(*mut c_void, *mut u32, *mut *mut c_void) -> i32;
type Exchange = unsafe extern "C" fn(*mut i32) -> i32;
type SetDevice = unsafe extern "C" fn(i32) -> i32;
type GetDevice = unsafe extern "C" fn(*mut i32) -> i32;

/// The functions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Events {
    create: Create,
    destroy: Option<Destroy>,
    record: Record,
    query: Query,
    elapsed: Elapsed,
    capture: Option<Capture>,
    exchange: Option<Exchange>,
    set_device: SetDevice,
    get_device: GetDevice,
}

/// Events that carry a time stamp (`ACL_EVENT_TIME_LINE`).
const TIME_LINE: u32 = 8;

impl Events {
    pub(super) fn find(front: &FrontTable) -> Option<Self> {
        let first = |names: [&CStr; 2]| resolve(front, &names);
        let create = first([c"rtEventCreateWithFlag", c"aclrtCreateEventWithFlagImpl"])?;
        let destroy = first([c"rtEventDestroy", c"aclrtDestroyEventImpl"]);
        let record = first([c"rtEventRecord", c"aclrtRecordEventImpl"])?;
        let query = first([c"rtEventQueryStatus", c"aclrtQueryEventStatusImpl"])?;
        let elapsed = first([c"rtEventElapsedTime", c"aclrtEventElapsedTimeImpl"])?;
        let capture = first([c"rtStreamGetCaptureInfo", c"aclmdlRICaptureGetInfoImpl"]);
        let exchange = first([c"rtThreadExchangeCaptureMode", c"aclmdlRICaptureThreadExchangeModeImpl"]);
        let set_device = first([c"rtSetDevice", c"aclrtSetDeviceImpl"])?;
        let get_device = first([c"rtGetDevice", c"aclrtGetDeviceImpl"])?;
        // SAFETY: functions of these names have these C types (CANN's acl_rt.h and runtime headers).
        unsafe {
            Some(Self {
                create: std::mem::transmute::<*mut c_void, Create>(create),
                destroy: destroy.map(|f| std::mem::transmute::<*mut c_void, Destroy>(f)),
                record: std::mem::transmute::<*mut c_void, Record>(record),
                query: std::mem::transmute::<*mut c_void, Query>(query),
                elapsed: std::mem::transmute::<*mut c_void, Elapsed>(elapsed),
                capture: capture.map(|f| std::mem::transmute::<*mut c_void, Capture>(f)),
                exchange: exchange.map(|f| std::mem::transmute::<*mut c_void, Exchange>(f)),
                set_device: std::mem::transmute::<*mut c_void, SetDevice>(set_device),
                get_device: std::mem::transmute::<*mut c_void, GetDevice>(get_device),
            })
        }
    }

    pub(super) fn create(&self) -> Option<usize> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the vendor's function with a valid pointer.
        let code = unsafe { (self.create)(&raw mut event, TIME_LINE) };
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
        let mut status = 0;
        // SAFETY: an event of ours and a valid pointer.
        let code = unsafe { (self.query)(event.handle(), &raw mut status) };
        code != 0 || status == 1
    }

    pub(super) fn milliseconds(&self, from: Event, to: Event) -> Option<f32> {
        let mut milliseconds = 0.0;
        // SAFETY: events of ours and a valid pointer.
        let code = unsafe { (self.elapsed)(&raw mut milliseconds, from.handle(), to.handle()) };
        (code == 0).then_some(milliseconds)
    }

    pub(super) fn is_capturing(&self, stream: *mut c_void) -> bool {
        let (Some(capture), false) = (self.capture, stream.is_null()) else { return false };
        let mut status = 0;
        let mut model = std::ptr::null_mut();
        // SAFETY: the program's own stream and valid pointers.
        unsafe { capture(stream, &raw mut status, &raw mut model) == 0 && status == 1 }
    }

    pub(super) fn exchange(&self, mut mode: i32) -> Option<i32> {
        // SAFETY: the vendor's function with a valid pointer.
        (unsafe { self.exchange?(&raw mut mode) } == 0).then_some(mode)
    }

    pub(super) fn enter(&self, Site(device): Site) -> bool {
        // SAFETY: the vendor's function.
        i32::try_from(device).is_ok_and(|device| unsafe { (self.set_device)(device) == 0 })
    }

    pub(super) fn site(&self) -> Option<Site> {
        let mut device = -1;
        // SAFETY: the vendor's function with a valid pointer.
        let code = unsafe { (self.get_device)(&raw mut device) };
        if code == 0 { usize::try_from(device).ok().map(Site) } else { None }
    }
}
