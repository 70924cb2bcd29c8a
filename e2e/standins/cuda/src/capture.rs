//! Streams in capture: what is recorded, which other streams are drawn in, and what breaks it.
//!
//! The rule for calls that are unsafe while a capture runs is that of `cuThreadExchangeStreamCaptureMode`: a thread in
//! relaxed mode may do anything; else it must not while it captures itself (not relaxed), and in global mode, which is
//! where threads begin, not while any other thread captures in global mode. Such a call fails and breaks the captures
//! that forbid it.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

use crate::graph::Graph;
use crate::process::{Process, capture_mode, pointer, process, set_capture_mode, thread};
use crate::status::{
    Answer, GRAPH_RECAPTURE_FAILURE, ILLEGAL_STATE, INVALID_VALUE, STREAM_CAPTURE_IMPLICIT,
    STREAM_CAPTURE_INVALIDATED, STREAM_CAPTURE_ISOLATION, STREAM_CAPTURE_MERGE, STREAM_CAPTURE_UNJOINED,
    STREAM_CAPTURE_UNMATCHED, STREAM_CAPTURE_UNSUPPORTED, STREAM_CAPTURE_WRONG_THREAD, code, put, put_if,
};
use crate::stream::{At, Key, resolve};

/// Captures and threads: every thread's concern.
const GLOBAL: c_int = 0;
/// Nobody's.
const RELAXED: c_int = 2;

#[derive(Debug, Default)]
struct Branch {
    /// How much was put into the stream.
    ops: u64,
    /// How much of it another stream of the capture waits for.
    joined: u64,
}

/// One capture under way.
#[derive(Debug)]
struct Capture {
    mode: c_int,
    thread: u64,
    origin: Key,
    valid: bool,
    /// What it becomes.
    graph: usize,
    /// Whether it takes the place of what the graph was, whose addresses of memory it gives again.
    again: bool,
    content: Graph,
    branches: BTreeMap<Key, Branch>,
}

/// The process's captures.
#[derive(Default)]
pub struct Captures {
    running: BTreeMap<u64, Capture>,
    next: u64,
}

/// A recorded event that is a place in a capture.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    capture: u64,
    key: Key,
    ops: u64,
}

impl Captures {
    fn of(&self, key: Key) -> Option<u64> {
        self.running.iter().find(|(_, capture)| capture.branches.contains_key(&key)).map(|(id, _)| *id)
    }

    /// The capture that a stream is in, to put something there; an error when it is broken.
    pub fn record(&mut self, key: Key) -> Option<Answer<&mut Graph>> {
        let id = self.of(key)?;
        let capture = self.running.get_mut(&id)?;
        if !capture.valid {
            return Some(Err(STREAM_CAPTURE_INVALIDATED));
        }
        capture.branches.entry(key).or_default().ops += 1;
        capture.content.nodes += 1;
        Some(Ok(&mut capture.content))
    }

    /// The graph that a stream records anew, and how many allocations of it it has recorded.
    pub fn again(&self, key: Key) -> Option<(usize, usize)> {
        let capture = self.running.get(&self.of(key)?)?;
        capture.again.then(|| (capture.graph, capture.content.allocations().count()))
    }

    /// Whether a stream is in capture, for calls that must not be made on one: they break it.
    pub fn forbid_on(&mut self, key: Key) -> Answer<()> {
        let Some(id) = self.of(key) else { return Ok(()) };
        if let Some(capture) = self.running.get_mut(&id) {
            capture.valid = false;
        }
        Err(STREAM_CAPTURE_UNSUPPORTED)
    }

    /// The place where a stream in capture is now.
    pub fn place(&self, key: Key) -> Option<Place> {
        let capture = self.of(key)?;
        let ops = self.running.get(&capture)?.branches.get(&key)?.ops;
        Some(Place { capture, key, ops })
    }

    /// A stream waits for a place in a capture: it is drawn in, or the place's stream is joined.
    pub fn wait(&mut self, key: Key, place: Place) -> Answer<()> {
        let own = self.of(key);
        if own.is_some_and(|own| own != place.capture) {
            return Err(STREAM_CAPTURE_MERGE);
        }
        // The capture has ended meanwhile, and a graph's inside is not to be waited for.
        let capture = self.running.get_mut(&place.capture).ok_or(STREAM_CAPTURE_ISOLATION)?;
        if !capture.valid {
            return Err(STREAM_CAPTURE_INVALIDATED);
        }
        capture.branches.entry(key).or_default().ops += 1;
        if key != place.key
            && let Some(branch) = capture.branches.get_mut(&place.key)
        {
            branch.joined = branch.joined.max(place.ops);
        }
        Ok(())
    }

    /// A stream in capture waits for work outside of it: not allowed.
    pub fn wait_for_outside(&mut self, key: Key) -> Answer<()> {
        let Some(id) = self.of(key) else { return Ok(()) };
        if let Some(capture) = self.running.get_mut(&id) {
            capture.valid = false;
        }
        Err(STREAM_CAPTURE_ISOLATION)
    }

    fn unsafe_call(&mut self) -> Answer<()> {
        if self.running.is_empty() || capture_mode() == RELAXED {
            return Ok(());
        }
        let (me, global) = (thread(), capture_mode() == GLOBAL);
        let mut forbidden = false;
        for capture in self.running.values_mut() {
            let mine = capture.thread == me && capture.mode != RELAXED;
            let others = capture.thread != me && capture.mode == GLOBAL && global;
            if mine || others {
                capture.valid = false;
                forbidden = true;
            }
        }
        if forbidden { Err(STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }
}

impl Process {
    /// To be called first by every call that is unsafe during a capture.
    pub fn forbid_in_capture(&mut self) -> Answer<()> {
        self.captures.unsafe_call()
    }

    /// To be called before work is put into a stream: the legacy stream waits for all blocking ones, so it must not
    /// be used while one of them is in capture.
    pub fn forbid_implicit(&mut self, at: &At) -> Answer<()> {
        let bound = self.implicitly_bound(at);
        for id in &bound {
            if let Some(capture) = self.captures.running.get_mut(id) {
                capture.valid = false;
            }
        }
        if bound.is_empty() { Ok(()) } else { Err(STREAM_CAPTURE_IMPLICIT) }
    }

    /// The captures of blocking streams that work in this stream would wait for.
    fn implicitly_bound(&self, at: &At) -> Vec<u64> {
        let Key::Legacy(context) = at.key else { return Vec::new() };
        let binds =
            |capture: &Capture| capture.branches.keys().any(|key| self.streams.is_blocking_in(*key, context));
        self.captures.running.iter().filter(|(_, capture)| binds(capture)).map(|(id, _)| *id).collect()
    }
}

/// `into`: the graph that is added to or, `again`, recorded anew; 0 for a new one.
fn begin(stream: *mut c_void, per_thread: bool, mode: c_int, into: usize, again: bool) -> Answer<()> {
    let mut process = process()?;
    let at = resolve(&process, stream as usize, per_thread)?;
    if !(GLOBAL..=RELAXED).contains(&mode) {
        return Err(INVALID_VALUE);
    }
    if matches!(at.key, Key::Legacy(_)) {
        return Err(STREAM_CAPTURE_UNSUPPORTED);
    }
    if process.captures.of(at.key).is_some() {
        return Err(ILLEGAL_STATE);
    }
    let graph = match into {
        0 => process.handle(),
        known if process.graphs.made.contains_key(&known) => known,
        _ => return Err(INVALID_VALUE),
    };
    let captures = &mut process.captures;
    captures.next += 1;
    let capture = Capture {
        mode,
        thread: thread(),
        origin: at.key,
        valid: true,
        graph,
        again,
        content: Graph::default(),
        branches: BTreeMap::from([(at.key, Branch::default())]),
    };
    captures.running.insert(captures.next, capture);
    Ok(())
}

fn end(stream: *mut c_void, per_thread: bool) -> Answer<usize> {
    let mut process = process()?;
    let at = resolve(&process, stream as usize, per_thread)?;
    let id = process.captures.of(at.key).ok_or(ILLEGAL_STATE)?;
    let capture = process.captures.running.get_mut(&id).ok_or(ILLEGAL_STATE)?;
    if capture.origin != at.key {
        capture.valid = false;
        return Err(STREAM_CAPTURE_UNMATCHED);
    }
    if capture.mode != RELAXED && capture.thread != thread() {
        return Err(STREAM_CAPTURE_WRONG_THREAD);
    }
    let unjoined = capture.branches.iter().any(|(key, branch)| *key != at.key && branch.joined < branch.ops);
    let capture = process.captures.running.remove(&id).ok_or(ILLEGAL_STATE)?;
    if !capture.valid {
        return Err(STREAM_CAPTURE_INVALIDATED);
    }
    if unjoined {
        return Err(STREAM_CAPTURE_UNJOINED);
    }
    let graph = process.graphs.made.entry(capture.graph).or_default();
    if capture.again {
        if !graph.is_like(&capture.content) {
            return Err(GRAPH_RECAPTURE_FAILURE);
        }
        *graph = Graph::default();
    }
    graph.append(capture.content);
    Ok(capture.graph)
}

/// The stream's status (0 none, 1 active, 2 broken), the capture's number and its graph.
fn look(stream: *mut c_void, per_thread: bool) -> Answer<(c_int, u64, usize)> {
    let process = process()?;
    let at = resolve(&process, stream as usize, per_thread)?;
    // Told, but nothing is broken by asking, as the vendor documents.
    if !process.implicitly_bound(&at).is_empty() {
        return Err(STREAM_CAPTURE_IMPLICIT);
    }
    let Some(id) = process.captures.of(at.key) else { return Ok((0, 0, 0)) };
    let capture = process.captures.running.get(&id).ok_or(ILLEGAL_STATE)?;
    Ok((if capture.valid { 1 } else { 2 }, id, capture.graph))
}

/// # Safety
/// `status` and `graph` are the caller's out-pointers.
unsafe fn end_into(stream: *mut c_void, per_thread: bool, graph: *mut *mut c_void) -> c_int {
    let ended = end(stream, per_thread);
    // SAFETY: the caller's out-pointer; null on failure, as the vendor documents.
    unsafe { put_if(graph, pointer(ended.unwrap_or(0))) };
    code(ended.map(|_| ()))
}

macro_rules! captures {
    ($($begin_old:ident, $begin:ident, $to_graph:ident, $recapture:ident, $end:ident, $is:ident, $info:ident, $info2:ident, $info3:ident, $per_thread:literal;)*) => {$(
        /// Before CUDA 10.1: always global.
        #[unsafe(no_mangle)]
        pub extern "C" fn $begin_old(stream: *mut c_void) -> c_int {
            code(begin(stream, $per_thread, GLOBAL, 0, false))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $begin(stream: *mut c_void, mode: c_int) -> c_int {
            code(begin(stream, $per_thread, mode, 0, false))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $to_graph(
            stream: *mut c_void,
            graph: *mut c_void,
            _dependencies: *const c_void,
            _data: *const c_void,
            _count: usize,
            mode: c_int,
        ) -> c_int {
            code(begin(stream, $per_thread, mode, graph as usize, false))
        }

        /// CUDA 13.3. What differs from the graph as it was is not told to the callback.
        #[unsafe(no_mangle)]
        pub extern "C" fn $recapture(
            stream: *mut c_void,
            mode: c_int,
            graph: *mut c_void,
            _callback: *const c_void,
            _data: *mut c_void,
        ) -> c_int {
            let known = if graph.is_null() { Err(INVALID_VALUE) } else { Ok(graph as usize) };
            code(known.and_then(|graph| begin(stream, $per_thread, mode, graph, true)))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $end(stream: *mut c_void, graph: *mut *mut c_void) -> c_int {
            // SAFETY: same contract.
            unsafe { end_into(stream, $per_thread, graph) }
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $is(stream: *mut c_void, status: *mut c_int) -> c_int {
            // SAFETY: the caller's out-pointer.
            code(look(stream, $per_thread).and_then(|found| unsafe { put(status, found.0) }))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $info(stream: *mut c_void, status: *mut c_int, id: *mut u64) -> c_int {
            // SAFETY: the caller's out-pointers; the number may be null.
            code(look(stream, $per_thread).and_then(|found| unsafe {
                put_if(id, found.1);
                put(status, found.0)
            }))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $info2(
            stream: *mut c_void,
            status: *mut c_int,
            id: *mut u64,
            graph: *mut *mut c_void,
            dependencies: *mut *const c_void,
            count: *mut usize,
        ) -> c_int {
            // SAFETY: the caller's out-pointers; all but the status may be null.
            code(look(stream, $per_thread).and_then(|found| unsafe {
                put_if(id, found.1);
                put_if(graph, pointer(found.2));
                put_if(dependencies, std::ptr::null());
                put_if(count, 0);
                put(status, found.0)
            }))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $info3(
            stream: *mut c_void,
            status: *mut c_int,
            id: *mut u64,
            graph: *mut *mut c_void,
            dependencies: *mut *const c_void,
            edges: *mut *const c_void,
            count: *mut usize,
        ) -> c_int {
            // SAFETY: the caller's out-pointer, which may be null.
            unsafe { put_if(edges, std::ptr::null()) };
            // SAFETY: same contract.
            unsafe { $info2(stream, status, id, graph, dependencies, count) }
        }
    )*};
}

captures! {
    cuStreamBeginCapture, cuStreamBeginCapture_v2, cuStreamBeginCaptureToGraph,
        cuStreamBeginRecaptureToGraph, cuStreamEndCapture, cuStreamIsCapturing,
        cuStreamGetCaptureInfo, cuStreamGetCaptureInfo_v2, cuStreamGetCaptureInfo_v3, false;
    cuStreamBeginCapture_ptsz, cuStreamBeginCapture_v2_ptsz, cuStreamBeginCaptureToGraph_ptsz,
        cuStreamBeginRecaptureToGraph_ptsz, cuStreamEndCapture_ptsz,
        cuStreamIsCapturing_ptsz, cuStreamGetCaptureInfo_ptsz, cuStreamGetCaptureInfo_v2_ptsz,
        cuStreamGetCaptureInfo_v3_ptsz, true;
}

/// Sets the calling thread's mode and tells the one before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut c_int) -> c_int {
    if mode.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's in/out pointer.
    let wanted = unsafe { mode.read() };
    if !(GLOBAL..=RELAXED).contains(&wanted) {
        return INVALID_VALUE;
    }
    let before = capture_mode();
    set_capture_mode(wanted);
    // SAFETY: the caller's in/out pointer.
    code(unsafe { put(mode, before) })
}
