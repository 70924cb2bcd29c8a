//! Streams, waiting for them, and host functions in them. All streams of a process on a device share the device's one
//! queue of that process, in the order of submission; each knows how far of it is its own.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_void};
use std::time::Duration;

use standin_protocol::{Reply, Request};

use crate::event::Event;
use crate::process::{Process, pointer, process, thread};
use crate::status::{Answer, INVALID_CONTEXT, INVALID_HANDLE, INVALID_VALUE, NOT_READY, UNKNOWN, code, put};

/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`.
const LEGACY: usize = 1;
const PER_THREAD: usize = 2;

const NON_BLOCKING: c_uint = 1;

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The old default stream of a context.
    Legacy(usize),
    /// A thread's default stream of a context.
    PerThread(usize, u64),
    /// One that the program made.
    Made(usize),
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    context: usize,
    flags: c_uint,
    priority: c_int,
}

/// The process's streams and events.
#[derive(Default)]
pub struct Streams {
    made: BTreeMap<usize, Stream>,
    /// What of the device's queue, counted in submitted nanoseconds, was there when a stream got its last work.
    tails: BTreeMap<Key, u64>,
    /// Events by handle.
    pub events: BTreeMap<usize, Event>,
    /// Host functions that have not returned, by device.
    calling: BTreeMap<usize, usize>,
}

impl Streams {
    /// A context ends.
    pub fn forget(&mut self, context: usize) {
        self.made.retain(|_, stream| stream.context != context);
        self.events.retain(|_, event| event.context != context);
    }

    /// Whether the legacy stream of this context waits for the stream.
    pub fn is_blocking_in(&self, key: Key, context: usize) -> bool {
        match key {
            Key::Legacy(_) => false,
            Key::PerThread(of, _) => of == context,
            Key::Made(handle) => self
                .made
                .get(&handle)
                .is_some_and(|stream| stream.context == context && stream.flags & NON_BLOCKING == 0),
        }
    }
}

/// A stream and where it runs.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// The stream.
    pub key: Key,
    /// Its context.
    pub context: usize,
    /// The GPU by the program's number.
    pub device: usize,
}

/// What a handle means in a call of the usual or the per-thread kind.
pub fn resolve(process: &Process, stream: usize, per_thread: bool) -> Answer<At> {
    let default = match stream {
        0 if per_thread => Some(PER_THREAD),
        0 => Some(LEGACY),
        LEGACY | PER_THREAD => Some(stream),
        _ => None,
    };
    if let Some(default) = default {
        let (context, found) = process.current()?;
        let key = if default == LEGACY { Key::Legacy(context) } else { Key::PerThread(context, thread()) };
        return Ok(At { key, context, device: found.device });
    }
    let made = process.streams.made.get(&stream).ok_or(INVALID_HANDLE)?;
    let context = process.contexts.get(&made.context).ok_or(INVALID_CONTEXT)?;
    Ok(At { key: Key::Made(stream), context: made.context, device: context.device })
}

/// Puts a kernel into a stream that is not in capture.
pub fn submit(process: &mut Process, at: &At, nanos: u64) -> Answer<()> {
    process.forbid_implicit(at)?;
    let phys_id = process.number(at.device)?;
    match process.ask(&Request::Launch { phys_id, nanos })? {
        Reply::Done => {}
        _ => return Err(UNKNOWN),
    }
    let device = process.devices.get_mut(at.device).ok_or(UNKNOWN)?;
    device.submitted += nanos;
    let submitted = device.submitted;
    process.streams.tails.insert(at.key, submitted);
    Ok(())
}

/// How much of the device's queue must still run until it has come to `until`, counted in submitted nanoseconds.
fn left(process: &mut Process, device: usize, until: u64) -> Answer<u64> {
    let phys_id = process.number(device)?;
    let Reply::Work(queued) = process.ask(&Request::Queued { phys_id })? else { return Err(UNKNOWN) };
    let submitted = process.devices.get(device).map_or(0, |device| device.submitted);
    Ok(queued.saturating_sub(submitted.saturating_sub(until)))
}

/// How much of the device's queue is done, counted in submitted nanoseconds.
pub fn done(process: &mut Process, device: usize) -> Answer<u64> {
    let queued = left(process, device, u64::MAX)?;
    Ok(process.devices.get(device).map_or(0, |device| device.submitted).saturating_sub(queued))
}

/// How far it is when all is done that is in a stream.
pub fn tail_of(process: &Process, at: &At) -> u64 {
    match at.key {
        // It waits for all the others.
        Key::Legacy(_) => process.devices.get(at.device).map_or(0, |device| device.submitted),
        key => process.streams.tails.get(&key).copied().unwrap_or(0),
    }
}

/// Waits until the device's queue has come so far and no host function is under way.
fn wait(device: usize, until: u64) -> Answer<()> {
    loop {
        let mut process = process()?;
        let left = left(&mut process, device, until)?;
        let calling = process.streams.calling.get(&device).is_some_and(|calling| *calling > 0);
        if left == 0 && !calling {
            let done = done(&mut process, device)?;
            process
                .pools
                .shrink_unused(device, done)
                .into_iter()
                .try_for_each(|address| process.ask(&Request::Free { address }).map(|_| ()))?;
            return Ok(());
        }
        drop(process);
        // Others may have their turns in between: what is left is the least that it takes.
        std::thread::sleep(Duration::from_nanos(left.clamp(10_000, 1_000_000)));
    }
}

/// Waits for all work of this process on a device.
pub fn synchronise(device: usize) -> Answer<()> {
    let mut process = process()?;
    process.forbid_in_capture()?;
    let until = process.devices.get(device).map_or(0, |device| device.submitted);
    drop(process);
    wait(device, until)
}

/// Waits for all work on the calling thread's device.
pub fn synchronise_device() -> Answer<()> {
    let (_, context) = process()?.current()?;
    synchronise(context.device)
}

fn tail(stream: *mut c_void, per_thread: bool) -> Answer<(usize, u64)> {
    let mut process = process()?;
    let at = resolve(&process, stream as usize, per_thread)?;
    process.captures.forbid_on(at.key)?;
    process.forbid_implicit(&at)?;
    process.forbid_in_capture()?;
    Ok((at.device, tail_of(&process, &at)))
}

fn query(stream: *mut c_void, per_thread: bool) -> Answer<()> {
    let (device, until) = tail(stream, per_thread)?;
    if left(&mut *process()?, device, until)? == 0 { Ok(()) } else { Err(NOT_READY) }
}

fn wait_event(stream: *mut c_void, event: *mut c_void, flags: c_uint, per_thread: bool) -> Answer<()> {
    /// `CU_EVENT_WAIT_EXTERNAL`: the wait becomes a node of the graph.
    const EXTERNAL: c_uint = 1;
    let mut process = process()?;
    let at = resolve(&process, stream as usize, per_thread)?;
    let event = *process.streams.events.get(&(event as usize)).ok_or(INVALID_HANDLE)?;
    if let Some(place) = event.place() {
        return process.captures.wait(at.key, place);
    }
    if flags & EXTERNAL != 0 {
        return match process.captures.record(at.key) {
            Some(graph) => graph.map(|_| ()),
            None => Ok(()),
        };
    }
    let Some(until) = event.until() else { return process.forbid_implicit(&at) };
    process.captures.wait_for_outside(at.key)?;
    // One queue: what was recorded before is before.
    process.forbid_implicit(&at)?;
    let tail = process.streams.tails.entry(at.key).or_default();
    *tail = until.max(*tail);
    Ok(())
}

/// `CUhostFn`.
pub type HostFunction = unsafe extern "C" fn(*mut c_void);

/// A host function with its argument, which the program promises to be good in another thread.
#[derive(Debug, Clone, Copy)]
pub struct HostCall {
    /// The function.
    pub function: HostFunction,
    /// Its argument, as a number.
    pub data: usize,
}

/// Calls it when the device's queue has come to here, from a thread of its own. Later kernels do not wait for it;
/// those who wait for the stream or the device do.
pub fn call_later(process: &mut Process, at: &At, call: HostCall) -> Answer<()> {
    let phys_id = process.number(at.device)?;
    let Reply::Mark(mark) = process.ask(&Request::Record { phys_id })? else { return Err(UNKNOWN) };
    let device = at.device;
    *process.streams.calling.entry(device).or_default() += 1;
    std::thread::spawn(move || {
        loop {
            let reached = super::process::process()
                .and_then(|mut process| process.ask(&Request::Reached { phys_id, mark }));
            match reached {
                Ok(Reply::Time(None)) => std::thread::sleep(Duration::from_micros(50)),
                Ok(Reply::Time(Some(_))) => break,
                _ => return,
            }
        }
        // SAFETY: the program gave both for this call.
        unsafe { (call.function)(pointer(call.data)) };
        if let Ok(mut process) = super::process::process() {
            *process.streams.calling.entry(device).or_insert(1) -= 1;
        }
    });
    Ok(())
}

fn launch_host_function(
    stream: *mut c_void,
    function: Option<HostFunction>,
    data: *mut c_void,
    per_thread: bool,
) -> Answer<()> {
    let call = HostCall { function: function.ok_or(INVALID_VALUE)?, data: data as usize };
    let mut process = process()?;
    let at = resolve(&process, stream as usize, per_thread)?;
    if let Some(graph) = process.captures.record(at.key) {
        graph?.host.push(call);
        return Ok(());
    }
    process.forbid_implicit(&at)?;
    call_later(&mut process, &at, call)
}

fn create(flags: c_uint, priority: c_int) -> Answer<usize> {
    let mut process = process()?;
    let (context, _) = process.current()?;
    if flags > NON_BLOCKING {
        return Err(INVALID_VALUE);
    }
    let handle = process.handle();
    process.streams.made.insert(handle, Stream { context, flags, priority });
    Ok(handle)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, flags: c_uint) -> c_int {
    // SAFETY: the caller's out-pointer.
    code(create(flags, 0).and_then(|handle| unsafe { put(stream, pointer(handle)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(
    stream: *mut *mut c_void,
    flags: c_uint,
    priority: c_int,
) -> c_int {
    // Numbers beyond the range are moved into it, as the vendor documents.
    let created = create(flags, priority.clamp(-5, 0));
    // SAFETY: the caller's out-pointer.
    code(created.and_then(|handle| unsafe { put(stream, pointer(handle)) }))
}

/// Work that is in the stream is done all the same.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: *mut c_void) -> c_int {
    let destroy = || {
        let mut process = process()?;
        let handle = stream as usize;
        let at = resolve(&process, handle, false)?;
        if !matches!(at.key, Key::Made(_)) {
            return Err(INVALID_HANDLE);
        }
        process.captures.forbid_on(at.key)?;
        process.streams.made.remove(&handle);
        process.streams.tails.remove(&at.key);
        Ok(())
    };
    code(destroy())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy(stream: *mut c_void) -> c_int {
    cuStreamDestroy_v2(stream)
}

macro_rules! streams {
    ($($synchronize:ident, $query:ident, $wait:ident, $host:ident, $flags:ident, $priority:ident, $context:ident, $device:ident, $per_thread:literal;)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $synchronize(stream: *mut c_void) -> c_int {
            code(tail(stream, $per_thread).and_then(|(device, until)| wait(device, until)))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $query(stream: *mut c_void) -> c_int {
            code(query(stream, $per_thread))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $wait(stream: *mut c_void, event: *mut c_void, flags: c_uint) -> c_int {
            code(wait_event(stream, event, flags, $per_thread))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $host(
            stream: *mut c_void,
            function: Option<HostFunction>,
            data: *mut c_void,
        ) -> c_int {
            code(launch_host_function(stream, function, data, $per_thread))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $flags(stream: *mut c_void, flags: *mut c_uint) -> c_int {
            let found = about(stream, $per_thread);
            // SAFETY: the caller's out-pointer.
            code(found.and_then(|found| unsafe { put(flags, found.flags) }))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $priority(stream: *mut c_void, priority: *mut c_int) -> c_int {
            let found = about(stream, $per_thread);
            // SAFETY: the caller's out-pointer.
            code(found.and_then(|found| unsafe { put(priority, found.priority) }))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $context(stream: *mut c_void, context: *mut *mut c_void) -> c_int {
            let found = about(stream, $per_thread);
            // SAFETY: the caller's out-pointer.
            code(found.and_then(|found| unsafe { put(context, pointer(found.context)) }))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $device(stream: *mut c_void, device: *mut c_int) -> c_int {
            let found = process().and_then(|process| resolve(&process, stream as usize, $per_thread));
            // SAFETY: the caller's out-pointer.
            code(found.and_then(|found| unsafe { put(device, found.device as c_int) }))
        }
    )*};
}

fn about(stream: *mut c_void, per_thread: bool) -> Answer<Stream> {
    let process = process()?;
    let at = resolve(&process, stream as usize, per_thread)?;
    let default = Stream { context: at.context, flags: 0, priority: 0 };
    Ok(process.streams.made.get(&(stream as usize)).copied().unwrap_or(default))
}

streams! {
    cuStreamSynchronize, cuStreamQuery, cuStreamWaitEvent, cuLaunchHostFunc, cuStreamGetFlags, cuStreamGetPriority,
        cuStreamGetCtx, cuStreamGetDevice, false;
    cuStreamSynchronize_ptsz, cuStreamQuery_ptsz, cuStreamWaitEvent_ptsz, cuLaunchHostFunc_ptsz, cuStreamGetFlags_ptsz,
        cuStreamGetPriority_ptsz, cuStreamGetCtx_ptsz, cuStreamGetDevice_ptsz, true;
}
