//! The demo's commands that put work on the device.

use std::ffi::{c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::api::{Api, Opaque, Refused, call};
use crate::commands::say;
use crate::options::Options;

/// `CUlaunchConfig`.
#[repr(C)]
struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: Opaque,
    attributes: *mut c_void,
    attribute_count: u32,
}

static CALLED: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" fn count_call(by: *mut c_void) {
    CALLED.fetch_add(by as u64, Ordering::SeqCst);
}

/// Every way to launch, the elapsed time between events around it, a function of a module, and a host function.
pub fn launch(options: &Options, api: &mut Api) -> Result<(), Refused> {
    let nanos = options.micros * 1000;
    let stream = api.stream()?;
    let event = |api: &Api| -> Result<Opaque, Refused> {
        let mut event = null_mut();
        call!(api, "cuEventCreate", (*mut Opaque, u32), &mut event, 0)?;
        Ok(event)
    };
    let (from, to) = (event(api)?, event(api)?);
    let fresh = call!(api, "cuEventQuery", (Opaque), to);
    call!(api, "cuEventRecord", (Opaque, Opaque), from, stream)?;
    for _ in 0..options.count {
        api.launch(nanos, stream)?;
    }
    call!(api, "cuEventRecord", (Opaque, Opaque), to, stream)?;
    let pending = call!(api, "cuEventQuery", (Opaque), to);
    let busy = call!(api, "cuStreamQuery", (Opaque), stream);
    call!(
        api,
        "cuLaunchHostFunc",
        (Opaque, unsafe extern "C" fn(*mut c_void), *mut c_void),
        stream,
        count_call,
        7 as *mut c_void
    )?;
    call!(api, "cuEventSynchronize", (Opaque), to)?;
    api.synchronize(stream)?;
    let mut milliseconds = 0f32;
    call!(api, "cuEventElapsedTime", (*mut f32, Opaque, Opaque), &mut milliseconds, from, to)?;
    let number = |result: Result<(), Refused>| result.map_or_else(|refused| refused.code, |()| 0);
    say(&format!(
        "launched count={} milliseconds={milliseconds:.3} fresh={} pending={} busy={} called={}",
        options.count,
        number(fresh),
        number(pending),
        number(busy),
        CALLED.load(Ordering::SeqCst)
    ));
    extended(api, nanos, stream)?;
    let took = module(api, options.micros, stream, from, to)?;
    say(&format!("other cooperative=0 extended=0 module_milliseconds={took:.3}"));
    for event in [from, to] {
        call!(api, "cuEventDestroy", (Opaque), event)?;
    }
    Ok(())
}

fn extended(api: &Api, nanos: u64, stream: Opaque) -> Result<(), Refused> {
    let function = nanos as usize as Opaque;
    type U = u32;
    type P = *mut Opaque;
    let nothing: P = null_mut();
    call!(
        api,
        "cuLaunchCooperativeKernel",
        (Opaque, U, U, U, U, U, U, U, Opaque, P),
        function,
        1,
        1,
        1,
        32,
        1,
        1,
        0,
        stream,
        nothing
    )?;
    let config = LaunchConfig {
        grid: [1; 3],
        block: [32, 1, 1],
        shared: 0,
        stream,
        attributes: null_mut(),
        attribute_count: 0,
    };
    call!(api, "cuLaunchKernelEx", (*const LaunchConfig, Opaque, P, P), &config, function, nothing, nothing)?;
    api.synchronize(stream)
}

/// A function by its name, which says how long it takes.
fn module(api: &Api, micros: u64, stream: Opaque, from: Opaque, to: Opaque) -> Result<f32, Refused> {
    let (mut module, mut function) = (null_mut(), null_mut());
    let image = c"a stand-in needs no code";
    call!(api, "cuModuleLoadData", (*mut Opaque, *const c_void), &mut module, image.as_ptr().cast())?;
    let name = std::ffi::CString::new(format!("multiply_{micros}us")).unwrap_or_default();
    call!(
        api,
        "cuModuleGetFunction",
        (*mut Opaque, Opaque, *const std::ffi::c_char),
        &mut function,
        module,
        name.as_ptr()
    )?;
    call!(api, "cuEventRecord", (Opaque, Opaque), from, stream)?;
    api.launch(function as u64, stream)?;
    call!(api, "cuEventRecord", (Opaque, Opaque), to, stream)?;
    call!(api, "cuEventSynchronize", (Opaque), to)?;
    let mut milliseconds = 0f32;
    call!(api, "cuEventElapsedTime", (*mut f32, Opaque, Opaque), &mut milliseconds, from, to)?;
    call!(api, "cuModuleUnload", (Opaque), module)?;
    Ok(milliseconds)
}

/// Launches between two waits: a program that looks at its results now and then.
const BATCH: u64 = 32;

pub fn busy(options: &Options, api: &mut Api) -> Result<(), Refused> {
    let stream = api.stream()?;
    let begun = Instant::now();
    let (mut all, mut second, mut seconds) = (0, 0, 0);
    let mut from = begun;
    while seconds < options.seconds.unwrap_or(u64::MAX) {
        for _ in 0..BATCH {
            api.launch(options.micros * 1000, stream)?;
        }
        api.synchronize(stream)?;
        (all, second) = (all + BATCH, second + BATCH);
        let took = from.elapsed();
        if took >= Duration::from_secs(1) {
            seconds += 1;
            let percent = |launches: u64, time: Duration| {
                (launches * options.micros) as f64 / time.as_micros().max(1) as f64 * 100.0
            };
            say(&format!(
                "busy second={seconds} share={:.1} mean={:.1} launches={all}",
                percent(second, took),
                percent(all, begun.elapsed())
            ));
            (second, from) = (0, Instant::now());
        }
    }
    Ok(())
}

/// Kernels in a graph.
const KERNELS: u64 = 10;

pub fn graph(options: &Options, api: &mut Api) -> Result<(), Refused> {
    let stream = api.stream()?;
    let (mut graph, mut exec) = (null_mut(), null_mut());
    call!(api, "cuStreamBeginCapture", (Opaque, c_int), stream, 0)?;
    for _ in 0..KERNELS {
        api.launch(options.micros * 1000, stream)?;
    }
    // Memory that the graph takes and gives back.
    let taken = api.allocate("async", options.bytes)?;
    api.free("async", taken, options.bytes)?;
    call!(api, "cuStreamEndCapture", (Opaque, *mut Opaque), stream, &mut graph)?;
    let before = api.memory()?.free;
    call!(api, "cuGraphInstantiateWithFlags", (*mut Opaque, Opaque, u64), &mut exec, graph, 0)?;
    let ready = api.memory()?.free;
    let begun = Instant::now();
    for _ in 0..options.count {
        call!(api, "cuGraphLaunch", (Opaque, Opaque), exec, stream)?;
    }
    let launched = api.memory()?.free;
    api.synchronize(stream)?;
    let (work, took) = (options.count * KERNELS * options.micros, begun.elapsed());
    let share = work as f64 / took.as_micros().max(1) as f64 * 100.0;
    call!(api, "cuGraphExecDestroy", (Opaque), exec)?;
    call!(api, "cuGraphDestroy", (Opaque), graph)?;
    say(&format!(
        "executed count={} share={share:.1} ready={} launched={} destroyed={}",
        options.count,
        before - ready,
        before - launched,
        before - api.memory()?.free
    ));
    Ok(())
}

/// Capture modes.
const GLOBAL: c_int = 0;
const THREAD_LOCAL: c_int = 1;
const RELAXED: c_int = 2;

/// What a call by this or another thread does to a capture: its own result and that of the capture.
fn trial(
    api: &Api,
    mode: c_int,
    elsewhere: bool,
    thread_mode: c_int,
    act: impl Fn(&Api) -> Result<(), Refused> + Send + Sync,
) -> Result<(c_int, c_int), Refused> {
    let stream = api.new_stream()?;
    call!(api, "cuStreamBeginCapture", (Opaque, c_int), stream, mode)?;
    api.launch(1000, stream)?;
    let number = |result: Result<(), Refused>| result.map_or_else(|refused| refused.code, |()| 0);
    let attempt = |api: &Api| {
        let mut wanted = thread_mode;
        call!(api, "cuThreadExchangeStreamCaptureMode", (*mut c_int), &mut wanted)?;
        let acted = act(api);
        call!(api, "cuThreadExchangeStreamCaptureMode", (*mut c_int), &mut wanted)?;
        acted
    };
    let acted = if elsewhere {
        let shared = Shared(api);
        std::thread::scope(|scope| scope.spawn(|| attempt(shared.get())).join())
            .unwrap_or(Err(Refused { function: "thread", code: -1 }))
    } else {
        attempt(api)
    };
    let mut graph = null_mut();
    let ended = call!(api, "cuStreamEndCapture", (Opaque, *mut Opaque), stream, &mut graph);
    call!(api, "cuStreamDestroy", (Opaque), stream)?;
    Ok((number(acted), number(ended)))
}

/// The driver's functions may be called from any thread.
struct Shared<'a>(&'a Api);

// SAFETY: only shared reads of the addresses and handles in it.
unsafe impl Sync for Shared<'_> {}
// SAFETY: as above.
unsafe impl Send for Shared<'_> {}

impl Shared<'_> {
    fn get(&self) -> &Api {
        self.0
    }
}

pub fn capture(api: &mut Api) -> Result<(), Refused> {
    let mut event = null_mut();
    call!(api, "cuEventCreate", (*mut Opaque, u32), &mut event, 0)?;
    let event = event as usize;
    let query = move |api: &Api| call!(api, "cuEventQuery", (Opaque), event as Opaque);
    for (name, mode) in [("global", GLOBAL), ("local", THREAD_LOCAL), ("relaxed", RELAXED)] {
        for (place, elsewhere) in [("own", false), ("other", true)] {
            for (thread, thread_mode) in [("global", GLOBAL), ("relaxed", RELAXED)] {
                let (acted, ended) = trial(api, mode, elsewhere, thread_mode, query)?;
                say(&format!(
                    "capture mode={name} caller={place} caller_mode={thread} query={acted} end={ended}"
                ));
            }
        }
    }
    let legacy = |api: &Api| api.launch(1000, null::<c_void>().cast_mut());
    let (acted, ended) = trial(api, RELAXED, false, RELAXED, legacy)?;
    say(&format!("capture legacy_beside_nonblocking={acted} end={ended}"));
    let allocate = |api: &Api| {
        let mut address = 0;
        call!(api, "cuMemAlloc", (*mut u64, usize), &mut address, 512)
    };
    let (acted, ended) = trial(api, GLOBAL, false, GLOBAL, allocate)?;
    say(&format!("capture allocate={acted} end={ended}"));
    branches(api)
}

/// A second stream drawn into a capture by an event, joined and not joined.
fn branches(api: &Api) -> Result<(), Refused> {
    for joined in [true, false] {
        let (origin, other) = (api.new_stream()?, api.new_stream()?);
        let (mut fork, mut join, mut graph) = (null_mut(), null_mut(), null_mut());
        for event in [&mut fork, &mut join] {
            call!(api, "cuEventCreate", (*mut Opaque, u32), event, 2)?;
        }
        call!(api, "cuStreamBeginCapture", (Opaque, c_int), origin, RELAXED)?;
        call!(api, "cuEventRecord", (Opaque, Opaque), fork, origin)?;
        call!(api, "cuStreamWaitEvent", (Opaque, Opaque, u32), other, fork, 0)?;
        api.launch(1000, other)?;
        let mut status = -1;
        call!(api, "cuStreamIsCapturing", (Opaque, *mut c_int), other, &mut status)?;
        call!(api, "cuEventRecord", (Opaque, Opaque), join, other)?;
        if joined {
            call!(api, "cuStreamWaitEvent", (Opaque, Opaque, u32), origin, join, 0)?;
        }
        let ended = call!(api, "cuStreamEndCapture", (Opaque, *mut Opaque), origin, &mut graph);
        let query = call!(api, "cuEventQuery", (Opaque), fork);
        say(&format!(
            "branch joined={joined} capturing={status} end={} captured_event={}",
            ended.map_or_else(|refused| refused.code, |()| 0),
            query.map_or_else(|refused| refused.code, |()| 0)
        ));
    }
    Ok(())
}

/// Captures on one stream, one after the other and each a few milliseconds long, while another thread launches on
/// another stream and does nothing else: says how many were broken, and the launches' first failure.
pub fn beside(options: &Options, api: &mut Api) -> Result<(), Refused> {
    let (own, other) = (api.stream()?, api.new_stream()? as usize);
    let mut context = null_mut();
    call!(api, "cuCtxGetCurrent", (*mut Opaque), &mut context)?;
    let context = context as usize;
    let (done, shared) = (AtomicBool::new(false), Shared(api));
    let (broken, failed) = std::thread::scope(|scope| {
        let launching = scope.spawn(|| {
            let api = shared.get();
            call!(api, "cuCtxSetCurrent", (Opaque), context as Opaque)?;
            while !done.load(Ordering::Relaxed) {
                api.launch(options.micros * 1000, other as Opaque)?;
                // Fewer than the device can take.
                std::thread::sleep(Duration::from_micros(3 * options.micros));
            }
            Ok(())
        });
        let captured = capture_many(api, options, own);
        done.store(true, Ordering::Relaxed);
        let failed = launching.join().unwrap_or(Err(Refused { function: "thread", code: -1 }));
        Ok::<_, Refused>((captured?, failed.map_or_else(|refused| refused.code, |()| 0)))
    })?;
    say(&format!("beside captures={} broken={broken} code={failed}", options.count));
    Ok(())
}

/// How many captures of a few milliseconds were broken.
fn capture_many(api: &Api, options: &Options, stream: Opaque) -> Result<u64, Refused> {
    let mut broken = 0;
    for _ in 0..options.count {
        let mut graph = null_mut();
        call!(api, "cuStreamBeginCapture", (Opaque, c_int), stream, GLOBAL)?;
        let launched = api.launch(options.micros * 1000, stream);
        std::thread::sleep(Duration::from_millis(5));
        let ended = call!(api, "cuStreamEndCapture", (Opaque, *mut Opaque), stream, &mut graph);
        match launched.and(ended) {
            Ok(()) => call!(api, "cuGraphDestroy", (Opaque), graph)?,
            Err(_) => broken += 1,
        }
    }
    Ok(broken)
}
