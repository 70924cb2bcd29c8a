//! What this process has of the driver: the connection, its visible GPUs, its objects, each thread's contexts.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use standin_protocol::{Client, DEVICE_VARIABLE, GpuView, GpusView, Reply, Request, gpu_number};

use crate::capture::Captures;
use crate::graph::Graphs;
use crate::memory::{Kind, Memory};
use crate::module::Modules;
use crate::pool::Pools;
use crate::status::{Answer, INVALID_CONTEXT, INVALID_DEVICE, NO_DEVICE, NOT_INITIALIZED, UNKNOWN};
use crate::stream::Streams;
use crate::virtual_memory::Virtual;

/// Handles are numbers of this range, never dereferenced. What is below it names nothing of ours.
pub const FIRST_HANDLE: usize = 0x7e00_0000_0000;

/// One visible GPU.
#[derive(Debug)]
pub struct Device {
    /// How the driver calls it.
    pub number: u32,
    /// As it was at `cuInit`.
    pub view: GpuView,
    /// The primary context and how often it is retained.
    pub primary: Option<(usize, u32)>,
    /// Flags of the primary context.
    pub primary_flags: u32,
    /// Work submitted by this process so far, nanoseconds.
    pub submitted: u64,
}

/// One context.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// The GPU by the program's number.
    pub device: usize,
    /// Whether it is the device's primary one.
    pub primary: bool,
    /// Flags given at its making.
    pub flags: u32,
}

/// The process's side of the driver.
#[derive(Default)]
pub struct Process {
    client: Client,
    /// Version and configuration of the driver.
    pub driver: Option<GpusView>,
    /// The visible GPUs, by the program's numbers.
    pub devices: Vec<Device>,
    /// Contexts by handle.
    pub contexts: BTreeMap<usize, Context>,
    /// Device memory.
    pub memory: Memory,
    /// Reserved addresses and physical handles.
    pub space: Virtual,
    /// Memory pools.
    pub pools: Pools,
    /// Streams, their tails, and events.
    pub streams: Streams,
    /// Captures under way.
    pub captures: Captures,
    /// Captured and instantiated graphs.
    pub graphs: Graphs,
    /// Modules, libraries, functions.
    pub modules: Modules,
    next_handle: usize,
}

static PROCESS: LazyLock<Mutex<Process>> =
    LazyLock::new(|| Mutex::new(Process { next_handle: FIRST_HANDLE, ..Process::default() }));

/// The process that called `cuInit`; 0 before.
static OWNER: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static STACK: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    static MODE: Cell<c_int> = const { Cell::new(0) };
}

/// The process's objects, locked. The lock is never held across a wait.
pub type Guard = MutexGuard<'static, Process>;

/// The objects of an initialised process. A forked child of one has none and gets none, as with the vendor's
/// driver; it is told before the lock, which the parent may have held at the fork.
pub fn process() -> Answer<Guard> {
    if OWNER.load(Ordering::Acquire) != std::process::id() {
        return Err(NOT_INITIALIZED);
    }
    Ok(locked())
}

/// The driver's configuration, which can be asked for before `cuInit`.
pub fn driver() -> Answer<GpusView> {
    match OWNER.load(Ordering::Acquire) {
        0 => {}
        owner if owner == std::process::id() => {}
        _ => return Err(NOT_INITIALIZED),
    }
    let mut process = locked();
    if process.driver.is_none() {
        let driver = process.ask_about("cuDriverGetVersion")?;
        process.driver = Some(driver);
    }
    process.driver.clone().ok_or(UNKNOWN)
}

fn locked() -> Guard {
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `cuInit`.
pub fn initialise() -> Answer<()> {
    match OWNER.load(Ordering::Acquire) {
        0 => {}
        owner if owner == std::process::id() => return Ok(()),
        _ => return Err(NOT_INITIALIZED),
    }
    let mut process = locked();
    // A driver that cannot be reached is a machine without one.
    let driver =
        process.ask_about("cuInit").map_err(|error| if error == UNKNOWN { NO_DEVICE } else { error })?;
    let nodes = device_nodes();
    let present = driver.gpus.iter().filter(|view| nodes.contains(&view.gpu.minor)).cloned().collect();
    process.devices = visible(present)
        .into_iter()
        .map(|view| Device {
            number: gpu_number(view.gpu.minor),
            view,
            primary: None,
            primary_flags: 0,
            submitted: 0,
        })
        .collect();
    if process.devices.is_empty() {
        return Err(NO_DEVICE);
    }
    process.driver = Some(driver);
    OWNER.store(std::process::id(), Ordering::Release);
    Ok(())
}

impl Process {
    /// Asks the driver.
    pub fn ask(&mut self, request: &Request) -> Answer<Reply> {
        self.client.call(request).map_err(|error| {
            eprintln!("libcuda (stand-in): {}", error.0);
            UNKNOWN
        })
    }

    fn ask_about(&mut self, function: &str) -> Answer<GpusView> {
        match self.ask(&Request::Gpus { function: function.to_owned(), minor: None })? {
            Reply::Gpus(view) => Ok(*view),
            // An NVML number: the machine has no GPUs.
            Reply::Code(9) => Err(NO_DEVICE),
            Reply::Code(code) => Err(code),
            _ => Err(UNKNOWN),
        }
    }

    /// A handle that was never given before.
    pub fn handle(&mut self) -> usize {
        self.next_handle += 16;
        self.next_handle
    }

    /// A device by the program's number.
    pub fn device(&mut self, device: c_int) -> Answer<&mut Device> {
        usize::try_from(device).ok().and_then(|device| self.devices.get_mut(device)).ok_or(INVALID_DEVICE)
    }

    /// The driver's number of a device.
    pub fn number(&self, device: usize) -> Answer<u32> {
        self.devices.get(device).map(|device| device.number).ok_or(INVALID_DEVICE)
    }

    /// The calling thread's context, if it still exists.
    pub fn current(&self) -> Answer<(usize, Context)> {
        let handle = current_handle().ok_or(INVALID_CONTEXT)?;
        self.contexts.get(&handle).map(|context| (handle, *context)).ok_or(INVALID_CONTEXT)
    }

    /// Whether a device has memory that goes with no context.
    pub fn outlives_contexts(&self, device: usize) -> bool {
        let graphs = || {
            self.memory.blocks.values().any(|block| block.device == device && block.kind == Kind::Graph)
                || self.graphs.keeps(device)
        };
        self.pools.reserves(device) || self.space.has(device) || graphs()
    }

    /// The calling thread's device: its program's and its driver's number.
    pub fn current_device(&self) -> Answer<(usize, u32)> {
        let (_, context) = self.current()?;
        Ok((context.device, self.number(context.device)?))
    }
}

/// The top of the calling thread's stack of contexts.
pub fn current_handle() -> Option<usize> {
    STACK.with_borrow(|stack| stack.last().copied())
}

/// Works on the calling thread's stack of contexts.
pub fn with_stack<T>(act: impl FnOnce(&mut Vec<usize>) -> T) -> T {
    STACK.with_borrow_mut(act)
}

/// The calling thread's capture mode.
pub fn capture_mode() -> c_int {
    MODE.get()
}

/// Sets it.
pub fn set_capture_mode(mode: c_int) {
    MODE.set(mode);
}

/// A number of the calling thread that no other of the process has.
pub fn thread() -> u64 {
    // SAFETY: no arguments; always succeeds.
    unsafe { libc::syscall(libc::SYS_gettid) as u64 }
}

/// As a C handle.
pub fn pointer(handle: usize) -> *mut c_void {
    handle as *mut c_void
}

/// The minor numbers of the `nvidiaN` nodes that the process has.
fn device_nodes() -> BTreeSet<u32> {
    let directory = std::env::var_os(DEVICE_VARIABLE).map_or_else(|| PathBuf::from("/dev"), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(directory) else { return BTreeSet::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("nvidia")?.parse().ok())
        .collect()
}

/// Those that `CUDA_VISIBLE_DEVICES` picks, in its order: numbers, or beginnings of identities. The list ends at the
/// first entry that is neither, as the vendor documents.
fn visible(present: Vec<GpuView>) -> Vec<GpuView> {
    let Ok(list) = std::env::var("CUDA_VISIBLE_DEVICES") else { return present };
    list.split(',')
        .map_while(|entry| {
            let entry = entry.trim();
            match entry.parse::<usize>() {
                Ok(number) => present.get(number).cloned(),
                Err(_) if entry.starts_with("GPU-") => {
                    present.iter().find(|view| view.gpu.uuid.starts_with(entry)).cloned()
                }
                Err(_) => None,
            }
        })
        .collect()
}
