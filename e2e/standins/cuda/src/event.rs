//! Events: marks in a device's queue, which report the device's own clock.

use std::ffi::{c_int, c_uint, c_void};
use std::time::Duration;

use standin_protocol::{Reply, Request};

use crate::capture::Place;
use crate::process::{pointer, process};
use crate::status::{Answer, CAPTURED_EVENT, INVALID_HANDLE, INVALID_VALUE, NOT_READY, UNKNOWN, code, put};
use crate::stream::{resolve, tail_of};

const DISABLE_TIMING: c_uint = 2;

#[derive(Debug, Clone, Copy)]
enum State {
    /// Counts as reached.
    Never,
    /// A mark in a device's queue, the device's clock once it was reached, and how much was submitted before it.
    Recorded { number: u32, mark: u64, at: Option<u64>, until: u64 },
    /// A place in a capture.
    Captured(Place),
}

/// One event.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// The context in which it was made.
    pub context: usize,
    timing: bool,
    state: State,
}

impl Event {
    /// The place in a capture, when it was recorded there last.
    pub fn place(&self) -> Option<Place> {
        if let State::Captured(place) = self.state { Some(place) } else { None }
    }

    /// How far the queue is when the work is done that it stands for, if it stands for any.
    pub fn until(&self) -> Option<u64> {
        if let State::Recorded { until, .. } = self.state { Some(until) } else { None }
    }
}

/// The event, asked for when it is not known to be reached.
fn look_at(event: *mut c_void) -> Answer<Event> {
    let mut process = process()?;
    let known = *process.streams.events.get(&(event as usize)).ok_or(INVALID_HANDLE)?;
    let State::Recorded { number, mark, at: None, until } = known.state else { return Ok(known) };
    let Reply::Time(at) = process.ask(&Request::Reached { phys_id: number, mark })? else {
        return Err(UNKNOWN);
    };
    let state = State::Recorded { number, mark, at, until };
    let event = process.streams.events.get_mut(&(event as usize)).ok_or(INVALID_HANDLE)?;
    event.state = state;
    Ok(*event)
}

/// Whether it was reached, for the calls that are unsafe during a capture.
fn reached(event: *mut c_void) -> Answer<bool> {
    let mut process = process()?;
    let known = *process.streams.events.get(&(event as usize)).ok_or(INVALID_HANDLE)?;
    if known.place().is_some() {
        return Err(CAPTURED_EVENT);
    }
    process.forbid_in_capture()?;
    drop(process);
    Ok(!matches!(look_at(event)?.state, State::Recorded { at: None, .. }))
}

fn record(event: *mut c_void, stream: *mut c_void, flags: c_uint, per_thread: bool) -> Answer<()> {
    /// `CU_EVENT_RECORD_EXTERNAL`: in a capture the record becomes a node of the graph.
    const EXTERNAL: c_uint = 1;
    let mut process = process()?;
    let at = resolve(&process, stream as usize, per_thread)?;
    if !process.streams.events.contains_key(&(event as usize)) {
        return Err(INVALID_HANDLE);
    }
    let captured = match process.captures.record(at.key) {
        Some(graph) => graph.map(|_| true)?,
        None => false,
    };
    let state = if captured {
        if flags & EXTERNAL != 0 {
            return Ok(());
        }
        State::Captured(process.captures.place(at.key).ok_or(UNKNOWN)?)
    } else {
        process.forbid_implicit(&at)?;
        let number = process.number(at.device)?;
        let Reply::Mark(mark) = process.ask(&Request::Record { phys_id: number })? else {
            return Err(UNKNOWN);
        };
        State::Recorded { number, mark, at: None, until: tail_of(&process, &at) }
    };
    process.streams.events.get_mut(&(event as usize)).ok_or(INVALID_HANDLE)?.state = state;
    Ok(())
}

/// Milliseconds between two events of one device.
fn elapsed(from: *mut c_void, to: *mut c_void) -> Answer<f32> {
    let when = |event: *mut c_void| {
        let event = look_at(event)?;
        match event.state {
            State::Recorded { number, at, .. } if event.timing => Ok((number, at.ok_or(NOT_READY)?)),
            State::Captured(_) => Err(CAPTURED_EVENT),
            _ => Err(INVALID_HANDLE),
        }
    };
    let ((device, begin), (other, end)) = (when(from)?, when(to)?);
    if device != other {
        return Err(INVALID_HANDLE);
    }
    Ok(((end as f64 - begin as f64) / 1e6) as f32)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, flags: c_uint) -> c_int {
    let create = || {
        let mut process = process()?;
        let (context, _) = process.current()?;
        if flags > 7 {
            return Err(INVALID_VALUE);
        }
        let handle = process.handle();
        let made = Event { context, timing: flags & DISABLE_TIMING == 0, state: State::Never };
        process.streams.events.insert(handle, made);
        Ok(handle)
    };
    // SAFETY: the caller's out-pointer.
    code(create().and_then(|handle| unsafe { put(event, pointer(handle)) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> c_int {
    code(process().and_then(|mut process| {
        process.streams.events.remove(&(event as usize)).map(|_| ()).ok_or(INVALID_HANDLE)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy(event: *mut c_void) -> c_int {
    cuEventDestroy_v2(event)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: *mut c_void) -> c_int {
    code(reached(event).and_then(|reached| if reached { Ok(()) } else { Err(NOT_READY) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: *mut c_void) -> c_int {
    loop {
        match reached(event) {
            Ok(true) => return 0,
            Ok(false) => std::thread::sleep(Duration::from_micros(20)),
            Err(error) => return error,
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(
    milliseconds: *mut f32,
    from: *mut c_void,
    to: *mut c_void,
) -> c_int {
    // SAFETY: the caller's out-pointer.
    code(elapsed(from, to).and_then(|elapsed| unsafe { put(milliseconds, elapsed) }))
}

/// CUDA 12.8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    from: *mut c_void,
    to: *mut c_void,
) -> c_int {
    // SAFETY: same contract.
    unsafe { cuEventElapsedTime(milliseconds, from, to) }
}

macro_rules! records {
    ($($record:ident, $with_flags:ident, $per_thread:literal;)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $record(event: *mut c_void, stream: *mut c_void) -> c_int {
            code(record(event, stream, 0, $per_thread))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $with_flags(event: *mut c_void, stream: *mut c_void, flags: c_uint) -> c_int {
            code(record(event, stream, flags, $per_thread))
        }
    )*};
}

records! {
    cuEventRecord, cuEventRecordWithFlags, false;
    cuEventRecord_ptsz, cuEventRecordWithFlags_ptsz, true;
}
