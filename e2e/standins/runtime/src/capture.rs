//! Streams in capture: what is recorded, which other streams are drawn in, what breaks it, and the models that come of
//! it.
//!
//! The rule for calls that are unsafe while a capture runs is that of `aclmdlRICaptureThreadExchangeMode` (the vendor's
//! documentation): a thread in relaxed mode may do anything; else it must not while it captures itself (not relaxed),
//! and in global mode, which is where threads begin, not while any other thread captures in global mode. Such a call
//! fails and breaks the captures that forbid it. Documented as unsafe are copies and memset; that waiting for work and
//! asking about an event are, too, is taken over from CUDA and unverified, so that this stand-in is on the strict side.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::device::{code, put};
use crate::launch::handle;
use crate::process::current_device;
use crate::status::{
    CAPTURE_MODE_NOT_SUPPORT, DONE, EVENT_CAPTURED, PARAM_INVALID, STREAM_CAPTURE_INVALIDATED,
    STREAM_CAPTURE_UNMATCHED, STREAM_CAPTURE_WRONG_THREAD, STREAM_CAPTURED, STREAM_NOT_CAPTURED,
    STREAM_UNJOINED,
};

/// Captures and threads: every thread's concern.
const GLOBAL: u32 = 0;
/// Nobody's.
const RELAXED: u32 = 2;

thread_local! {
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

#[derive(Default)]
struct Branch {
    /// How much was put into the stream.
    ops: u64,
    /// How much of it another stream of the capture waits for.
    joined: u64,
}

/// One capture under way.
struct Capture {
    mode: u32,
    thread: u64,
    origin: usize,
    valid: bool,
    nanos: u64,
    branches: BTreeMap<usize, Branch>,
}

/// A recorded event that is a place in a capture.
#[derive(Clone, Copy)]
struct Place {
    capture: u64,
    stream: usize,
    ops: u64,
}

struct Captures {
    running: BTreeMap<u64, Capture>,
    next: u64,
    events: BTreeMap<usize, Place>,
    /// What each captured model takes, in nanoseconds.
    models: BTreeMap<usize, u64>,
}

static CAPTURES: Mutex<Captures> = Mutex::new(Captures {
    running: BTreeMap::new(),
    next: 0,
    events: BTreeMap::new(),
    models: BTreeMap::new(),
});

fn captures() -> MutexGuard<'static, Captures> {
    CAPTURES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number of the calling thread that no other of the process has.
fn thread() -> u64 {
    // SAFETY: no arguments; always succeeds.
    unsafe { libc::syscall(libc::SYS_gettid) as u64 }
}

impl Captures {
    fn of(&mut self, stream: *mut c_void) -> Option<(u64, &mut Capture)> {
        let key = stream as usize;
        self.running
            .iter_mut()
            .find(|(_, capture)| capture.branches.contains_key(&key))
            .map(|(id, capture)| (*id, capture))
    }

    fn put(&mut self, stream: *mut c_void, nanos: u64) -> Option<Result<Place, i32>> {
        let (id, capture) = self.of(stream)?;
        if !capture.valid {
            return Some(Err(STREAM_CAPTURE_INVALIDATED));
        }
        capture.nanos += nanos;
        let branch = capture.branches.entry(stream as usize).or_default();
        branch.ops += 1;
        Some(Ok(Place { capture: id, stream: stream as usize, ops: branch.ops }))
    }
}

/// Puts a kernel into a stream that is in capture; `None` where it is not.
pub fn record(stream: *mut c_void, nanos: u64) -> Option<Result<(), i32>> {
    captures().put(stream, nanos).map(|put| put.map(|_| ()))
}

/// As [`record`], an event: it becomes a place in the capture and is reached by nothing else.
pub fn record_event(stream: *mut c_void, event: *mut c_void) -> Option<Result<(), i32>> {
    let mut captures = captures();
    let put = captures.put(stream, 0);
    match put {
        Some(Ok(place)) => {
            captures.events.insert(event as usize, place);
        }
        Some(Err(_)) => {}
        None => {
            captures.events.remove(&(event as usize));
        }
    }
    put.map(|put| put.map(|_| ()))
}

/// A stream waits for an event: where that is a place in a capture, the stream is drawn in, or the place's is joined.
pub fn wait(stream: *mut c_void, event: *mut c_void) -> Result<(), i32> {
    let mut captures = captures();
    let own = captures.of(stream).map(|(id, _)| id);
    let Some(place) = captures.events.get(&(event as usize)).copied() else {
        // Work outside of a capture is nothing that a graph can wait for.
        return match captures.of(stream) {
            Some((_, capture)) => {
                capture.valid = false;
                Err(STREAM_CAPTURE_INVALIDATED)
            }
            None => Ok(()),
        };
    };
    if own.is_some_and(|own| own != place.capture) {
        return Err(STREAM_CAPTURED);
    }
    let capture = captures.running.get_mut(&place.capture).ok_or(EVENT_CAPTURED)?;
    if !capture.valid {
        return Err(STREAM_CAPTURE_INVALIDATED);
    }
    capture.branches.entry(stream as usize).or_default().ops += 1;
    if stream as usize != place.stream
        && let Some(branch) = capture.branches.get_mut(&place.stream)
    {
        branch.joined = branch.joined.max(place.ops);
    }
    Ok(())
}

/// To be called first by every call that is unsafe during a capture.
pub fn forbid() -> Result<(), i32> {
    let mode = MODE.get();
    let mut captures = captures();
    if captures.running.is_empty() || mode == RELAXED {
        return Ok(());
    }
    let me = thread();
    let mut forbidden = false;
    for capture in captures.running.values_mut() {
        let mine = capture.thread == me && capture.mode != RELAXED;
        let others = capture.thread != me && capture.mode == GLOBAL && mode == GLOBAL;
        if mine || others {
            capture.valid = false;
            forbidden = true;
        }
    }
    if forbidden { Err(CAPTURE_MODE_NOT_SUPPORT) } else { Ok(()) }
}

/// To be called by every call that must not be made on a stream in capture: it breaks it, in whatever mode.
pub fn forbid_on(stream: *mut c_void) -> Result<(), i32> {
    match captures().of(stream) {
        Some((_, capture)) => {
            capture.valid = false;
            Err(STREAM_CAPTURED)
        }
        None => Ok(()),
    }
}

/// Fails for an event that is a place in a capture under way.
pub fn forbid_event(event: *mut c_void) -> Result<(), i32> {
    let captures = captures();
    let place = captures.events.get(&(event as usize));
    let running = place.is_some_and(|place| captures.running.contains_key(&place.capture));
    if running { Err(EVENT_CAPTURED) } else { Ok(()) }
}

/// What a captured model takes.
pub fn model_nanos(model: *mut c_void) -> u64 {
    captures().models.get(&(model as usize)).copied().unwrap_or(0)
}

fn begin(stream: *mut c_void, mode: u32) -> Result<(), i32> {
    current_device()?;
    if stream.is_null() || mode > RELAXED {
        return Err(PARAM_INVALID);
    }
    let mut captures = captures();
    if captures.of(stream).is_some() {
        return Err(STREAM_CAPTURED);
    }
    captures.next += 1;
    let id = captures.next;
    let capture = Capture {
        mode,
        thread: thread(),
        origin: stream as usize,
        valid: true,
        nanos: 0,
        branches: BTreeMap::from([(stream as usize, Branch::default())]),
    };
    captures.running.insert(id, capture);
    Ok(())
}

fn end(stream: *mut c_void) -> Result<*mut c_void, i32> {
    let mut captures = captures();
    let (id, capture) = captures.of(stream).ok_or(STREAM_NOT_CAPTURED)?;
    if capture.origin != stream as usize {
        capture.valid = false;
        return Err(STREAM_CAPTURE_UNMATCHED);
    }
    if capture.mode != RELAXED && capture.thread != thread() {
        return Err(STREAM_CAPTURE_WRONG_THREAD);
    }
    let capture = captures.running.remove(&id).ok_or(STREAM_NOT_CAPTURED)?;
    if !capture.valid {
        return Err(STREAM_CAPTURE_INVALIDATED);
    }
    let joined =
        |(stream, branch): (&usize, &Branch)| *stream == capture.origin || branch.joined >= branch.ops;
    if !capture.branches.iter().all(joined) {
        return Err(STREAM_UNJOINED);
    }
    let model = handle();
    captures.models.insert(model as usize, capture.nanos);
    Ok(model)
}

#[unsafe(no_mangle)]
pub extern "C" fn rtStreamBeginCapture(stream: *mut c_void, mode: u32) -> i32 {
    code(begin(stream, mode))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtStreamEndCapture(stream: *mut c_void, model: *mut *mut c_void) -> i32 {
    // SAFETY: the caller's out-pointer.
    code(end(stream).and_then(|made| unsafe { put(model, made) }))
}

/// 0: not in capture, 1: in capture, 2: in one that is broken.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtStreamGetCaptureInfo(
    stream: *mut c_void,
    status: *mut u32,
    model: *mut *mut c_void,
) -> i32 {
    // SAFETY: the caller's out-pointer.
    if !model.is_null() && unsafe { put(model, std::ptr::null_mut()) }.is_err() {
        return PARAM_INVALID;
    }
    let found = captures().of(stream).map_or(0, |(_, capture)| if capture.valid { 1 } else { 2 });
    // SAFETY: the caller's out-pointer.
    code(unsafe { put(status, found) })
}

/// Sets the calling thread's mode and tells the one before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtThreadExchangeCaptureMode(mode: *mut u32) -> i32 {
    if mode.is_null() {
        return PARAM_INVALID;
    }
    // SAFETY: the caller's in/out pointer.
    let wanted = unsafe { mode.read() };
    if wanted > RELAXED {
        return PARAM_INVALID;
    }
    // SAFETY: as above.
    code(unsafe { put(mode, MODE.replace(wanted)) })
}

#[unsafe(no_mangle)]
pub extern "C" fn rtModelDestroy(model: *mut c_void) -> i32 {
    captures().models.remove(&(model as usize));
    DONE
}
