//! The vendor's events, past our own hooks: how device time is measured. Nothing here waits for a stream.

use std::ffi::{CStr, c_void};

use vnpu_quota_abi::table::FrontTable;

/// An event of the vendor's runtime, ours alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event(usize);

type Create = unsafe extern "C" fn(*mut *mut c_void, u32) -> i32;
type Record = unsafe extern "C" fn(*mut c_void, *mut c_void) -> i32;
type Query = unsafe extern "C" fn(*mut c_void, *mut u32) -> i32;
type Elapsed = unsafe extern "C" fn(*mut f32, *mut c_void, *mut c_void) -> i32;
type Capture = unsafe extern "C" fn(*mut c_void, *mut u32, *mut *mut c_void) -> i32;
type SetDevice = unsafe extern "C" fn(i32) -> i32;
type GetDevice = unsafe extern "C" fn(*mut i32) -> i32;

/// The functions of one runtime.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Events {
    create: Create,
    record: Record,
    query: Query,
    elapsed: Elapsed,
    capture: Option<Capture>,
    set_device: SetDevice,
    get_device: GetDevice,
}

/// Events that carry a time stamp (`ACL_EVENT_TIME_LINE`).
const TIME_LINE: u32 = 8;

impl Events {
    /// Finds them; `None` while the runtime is not loaded, or has them under other names.
    pub(crate) fn find(front: &FrontTable) -> Option<Self> {
        let first = |names: [&CStr; 2]| {
            names.into_iter().find_map(|name| {
                // SAFETY: the front end's function with a zero-terminated name.
                let address = unsafe { (front.resolve)(name.as_ptr()) };
                (!address.is_null()).then_some(address)
            })
        };
        let create = first([c"rtEventCreateWithFlag", c"aclrtCreateEventWithFlagImpl"])?;
        let record = first([c"rtEventRecord", c"aclrtRecordEventImpl"])?;
        let query = first([c"rtEventQueryStatus", c"aclrtQueryEventStatusImpl"])?;
        let elapsed = first([c"rtEventElapsedTime", c"aclrtEventElapsedTimeImpl"])?;
        let capture = first([c"rtStreamGetCaptureInfo", c"aclmdlRICaptureGetInfoImpl"]);
        let set_device = first([c"rtSetDevice", c"aclrtSetDeviceImpl"])?;
        let get_device = first([c"rtGetDevice", c"aclrtGetDeviceImpl"])?;
        // SAFETY: functions of these names have these C types (CANN's acl_rt.h and runtime headers).
        unsafe {
            Some(Self {
                create: std::mem::transmute::<*mut c_void, Create>(create),
                record: std::mem::transmute::<*mut c_void, Record>(record),
                query: std::mem::transmute::<*mut c_void, Query>(query),
                elapsed: std::mem::transmute::<*mut c_void, Elapsed>(elapsed),
                capture: capture.map(|f| std::mem::transmute::<*mut c_void, Capture>(f)),
                set_device: std::mem::transmute::<*mut c_void, SetDevice>(set_device),
                get_device: std::mem::transmute::<*mut c_void, GetDevice>(get_device),
            })
        }
    }

    /// A new event, on the calling thread's device.
    pub(crate) fn create(&self) -> Option<Event> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the vendor's function with a valid pointer.
        let code = unsafe { (self.create)(&raw mut event, TIME_LINE) };
        (code == 0 && !event.is_null()).then_some(Event(event as usize))
    }

    /// Puts it behind what is in `stream`; whether that worked.
    pub(crate) fn record(&self, event: Event, stream: *mut c_void) -> bool {
        // SAFETY: an event of ours, and the program's own stream.
        unsafe { (self.record)(event.0 as *mut c_void, stream) == 0 }
    }

    /// Whether the chip has come to it. One that cannot be asked about counts as finished: nobody waits for ever.
    pub(crate) fn is_finished(&self, event: Event) -> bool {
        let mut status = 0;
        // SAFETY: an event of ours and a valid pointer.
        let code = unsafe { (self.query)(event.0 as *mut c_void, &raw mut status) };
        code != 0 || status == 1
    }

    /// Device time between two finished events.
    pub(crate) fn nanoseconds(&self, from: Event, to: Event) -> Option<u64> {
        let mut milliseconds = 0.0_f32;
        // SAFETY: events of ours and a valid pointer.
        let code =
            unsafe { (self.elapsed)(&raw mut milliseconds, from.0 as *mut c_void, to.0 as *mut c_void) };
        (code == 0 && milliseconds.is_finite() && milliseconds >= 0.0)
            .then(|| (f64::from(milliseconds) * 1e6) as u64)
    }

    /// Whether work on `stream` is recorded into a graph: nothing of it runs now, and no event may be put there.
    pub(crate) fn is_capturing(&self, stream: *mut c_void) -> bool {
        let (Some(capture), false) = (self.capture, stream.is_null()) else { return false };
        let mut status = 0;
        let mut model = std::ptr::null_mut();
        // SAFETY: the program's own stream and valid pointers.
        unsafe { capture(stream, &raw mut status, &raw mut model) == 0 && status == 1 }
    }

    /// Gives the calling thread a device.
    pub(crate) fn set_device(&self, device: i32) -> bool {
        // SAFETY: the vendor's function.
        unsafe { (self.set_device)(device) == 0 }
    }

    /// The calling thread's device by the program's number.
    pub(crate) fn device(&self) -> Option<i32> {
        let mut device = -1;
        // SAFETY: the vendor's function with a valid pointer.
        let code = unsafe { (self.get_device)(&raw mut device) };
        (code == 0 && device >= 0).then_some(device)
    }
}
