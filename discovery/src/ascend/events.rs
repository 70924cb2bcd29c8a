//! Faults that the driver tells as they come and go. What a chip has is asked in the look that follows: here is only
//! that a look is due.

use std::ffi::{c_int, c_uint};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use super::raw::RawEvent;
use crate::heard::Heard;

/// Who wants to know. The vendor's callback has no argument of ours.
static LISTENERS: Mutex<Vec<Weak<dyn Fn() + Send + Sync>>> = Mutex::new(Vec::new());

/// An event that comes and goes at once: a look does not show it (`assertion` of the vendor's header).
const ONCE: u8 = 2;

fn listeners() -> MutexGuard<'static, Vec<Weak<dyn Fn() + Send + Sync>>> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on `heard` is told of every event, as long as somebody has it.
pub(super) fn add(heard: &Heard) {
    let mut listeners = listeners();
    listeners.retain(|listener| listener.strong_count() > 0);
    listeners.push(heard.faint());
}

/// The callback. It runs on the driver's thread.
pub(super) unsafe extern "C" fn told(event: *mut RawEvent) {
    // SAFETY: null, or the library's event, which lives until this returns.
    if let Some(event) = unsafe { event.as_ref() }
        && event.kind == FAULT
    {
        let fault = &event.fault;
        let id = format!("0x{:08x}", fault.event_id as c_uint);
        let (device, severity, assertion) = (fault.device_id, fault.severity, fault.assertion);
        if assertion == ONCE {
            tracing::warn!(device, id, severity, "the driver tells of something that happened once");
        } else {
            tracing::debug!(device, id, severity, assertion, "the driver tells of a fault");
        }
    }
    // Outside the lock: it may take others.
    let all: Vec<Heard> = listeners().iter().filter_map(Heard::again).collect();
    all.iter().for_each(Heard::tell);
}

/// `DCMI_DMS_FAULT_EVENT`.
const FAULT: c_int = 0;
