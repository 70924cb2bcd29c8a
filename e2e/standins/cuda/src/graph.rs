//! Graphs: what a capture recorded, made ready and launched as one piece of work. A graph's kernels run one after the
//! other, whatever branches it has.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_char, c_int, c_uint, c_void};

use standin_protocol::Request;

use crate::memory::{Block, Kind, PAGE, take};
use crate::module::nanos_of;
use crate::process::{Process, pointer, process};
use crate::status::{Answer, INVALID_HANDLE, INVALID_VALUE, OUT_OF_MEMORY, code, put, put_if};
use crate::stream::{At, HostCall, Key, call_later, done, resolve, submit};

/// A node that takes memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// The same at each launch.
    pub address: u64,
    /// As asked for.
    pub bytes: u64,
    /// The GPU by the program's number.
    pub device: usize,
}

/// What nodes do with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Takes it.
    Take(Allocation),
    /// Gives back what is at an address.
    Give(u64),
}

/// What a graph does.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// How long its kernels take.
    pub nanos: u64,
    /// Host functions, called when the kernels are done.
    pub host: Vec<HostCall>,
    /// Memory that it takes and gives back when it is launched, one after the other.
    pub memory: Vec<Step>,
    /// How many nodes it has.
    pub nodes: usize,
}

impl Graph {
    /// What another does comes after it.
    pub fn append(&mut self, other: Self) {
        self.nanos += other.nanos;
        self.host.extend(other.host);
        self.memory.extend(other.memory);
        self.nodes += other.nodes;
    }

    /// Whether it has as many nodes as another, and the same of memory.
    pub fn is_like(&self, other: &Self) -> bool {
        self.nodes == other.nodes && self.memory == other.memory
    }

    /// Its nodes that take memory.
    pub fn allocations(&self) -> impl Iterator<Item = Allocation> + '_ {
        self.memory.iter().filter_map(|step| match step {
            Step::Take(allocation) => Some(*allocation),
            Step::Give(_) => None,
        })
    }

    fn frees(&self) -> impl Iterator<Item = u64> + '_ {
        self.memory.iter().filter_map(|step| match step {
            Step::Take(_) => None,
            Step::Give(address) => Some(*address),
        })
    }

    /// The most that it has at a time of what it frees itself, by device: nodes use again what those before them freed.
    fn inside(&self) -> BTreeMap<usize, u64> {
        let freed: BTreeSet<u64> = self.frees().collect();
        let (mut now, mut most) = (BTreeMap::<u64, Allocation>::new(), BTreeMap::<usize, u64>::new());
        for step in &self.memory {
            match step {
                Step::Take(taken) if freed.contains(&taken.address) => {
                    now.insert(taken.address, *taken);
                    let there = now.values().filter(|one| one.device == taken.device);
                    let sum = there.fold(0_u64, |sum, one| sum.saturating_add(one.bytes));
                    let peak = most.entry(taken.device).or_default();
                    *peak = sum.max(*peak);
                }
                Step::Take(_) => {}
                Step::Give(address) => drop(now.remove(address)),
            }
        }
        most
    }
}

/// Memory that a graph keeps between launches.
#[derive(Debug, Clone, Copy)]
struct Page {
    device: usize,
    bytes: u64,
    /// The driver's name of it.
    taken: u64,
}

/// A graph made ready.
#[derive(Debug, Default)]
struct Ready {
    graph: Graph,
    /// Memory of graph allocations that the graph also frees: kept from the first launch on, by device.
    kept: Vec<Page>,
    /// The stream of its last launch, and how far the device's queue is when that is done.
    last: Option<(Key, u64)>,
}

/// The process's graphs.
#[derive(Default)]
pub struct Graphs {
    /// Captured or built.
    pub made: BTreeMap<usize, Graph>,
    ready: BTreeMap<usize, Ready>,
}

impl Graphs {
    /// Whether graphs keep memory of the device between launches.
    pub fn keeps(&self, device: usize) -> bool {
        self.kept_on(device) > 0
    }

    /// Bytes of it.
    pub fn kept_on(&self, device: usize) -> u64 {
        let kept = self.ready.values().flat_map(|ready| &ready.kept);
        kept.filter(|page| page.device == device).map(|page| page.bytes).sum()
    }
}

fn instantiate(graph: *mut c_void) -> Answer<usize> {
    let mut process = process()?;
    let graph = process.graphs.made.get(&(graph as usize)).cloned().ok_or(INVALID_VALUE)?;
    let handle = process.handle();
    process.graphs.ready.insert(handle, Ready { graph, kept: Vec::new(), last: None });
    Ok(handle)
}

/// The memory of a launch: what the graph frees itself is taken once and kept, the rest becomes the program's. An upload
/// takes what is kept.
fn take_memory(process: &mut Process, exec: usize, at: &At, uploading: bool) -> Answer<()> {
    let ready = process.graphs.ready.get(&exec).ok_or(INVALID_VALUE)?;
    let (graph, kept) = (ready.graph.clone(), !ready.kept.is_empty());
    let freed: BTreeSet<u64> = graph.frees().collect();
    for (device, bytes) in graph.inside().into_iter().filter(|_| !kept) {
        let size = bytes.checked_next_multiple_of(PAGE).ok_or(OUT_OF_MEMORY)?;
        let mut pages = take_over(process, device, size, at)?;
        process.graphs.ready.get_mut(&exec).ok_or(INVALID_VALUE)?.kept.append(&mut pages);
    }
    if uploading {
        return Ok(());
    }
    for Allocation { address, bytes, device } in
        graph.allocations().filter(|one| !freed.contains(&one.address))
    {
        // Launched again before the program freed it: the vendor refuses.
        if process.memory.blocks.contains_key(&address) {
            return Err(INVALID_VALUE);
        }
        let size = bytes.checked_next_multiple_of(PAGE).ok_or(OUT_OF_MEMORY)?;
        let taken = Some(take_or_trim(process, device, size)?);
        let block = Block { context: at.context, device, bytes, taken, kind: Kind::Graph };
        process.memory.blocks.insert(address, block);
    }
    let inside: BTreeSet<u64> = graph.allocations().map(|allocation| allocation.address).collect();
    for address in freed.difference(&inside) {
        crate::memory::release(process, *address)?;
    }
    Ok(())
}

/// What others keep that do not run is given back where there is no room.
fn take_or_trim(process: &mut Process, device: usize, size: u64) -> Answer<u64> {
    match take(process, device, size) {
        Err(OUT_OF_MEMORY) => {
            trim(process, device)?;
            take(process, device, size)
        }
        taken => taken,
    }
}

impl Graphs {
    /// What graphs have kept that were launched in a stream last.
    fn kept_in(&self, stream: Key, device: usize) -> u64 {
        let same = self.ready.values().filter(|ready| ready.last.is_some_and(|(last, _)| last == stream));
        same.flat_map(|ready| &ready.kept).filter(|page| page.device == device).map(|page| page.bytes).sum()
    }
}

/// Graphs that are launched in the same stream never run at the same time, and share memory.
fn take_over(process: &mut Process, device: usize, size: u64, at: &At) -> Answer<Vec<Page>> {
    let mut pages = Vec::new();
    let mut more = |process: &mut Process| {
        let bytes = size.saturating_sub(process.graphs.kept_in(at.key, device));
        if bytes > 0 {
            let taken = take(process, device, bytes)?;
            pages.push(Page { device, bytes, taken });
        }
        Ok(())
    };
    match more(process) {
        Err(OUT_OF_MEMORY) => {
            trim(process, device)?;
            more(process)?;
        }
        done => done?,
    }
    for ready in process.graphs.ready.values_mut() {
        if ready.last.is_some_and(|(stream, _)| stream == at.key) {
            pages.extend(ready.kept.extract_if(.., |page| page.device == device));
        }
    }
    Ok(pages)
}

fn launch(exec: *mut c_void, stream: *mut c_void, per_thread: bool) -> Answer<()> {
    let mut process = process()?;
    let at = resolve(&process, stream as usize, per_thread)?;
    let exec = exec as usize;
    let graph = process.graphs.ready.get(&exec).map(|ready| ready.graph.clone()).ok_or(INVALID_VALUE)?;
    if let Some(outer) = process.captures.record(at.key) {
        outer?.append(graph);
        return Ok(());
    }
    process.forbid_implicit(&at)?;
    take_memory(&mut process, exec, &at, false)?;
    submit(&mut process, &at, graph.nanos)?;
    let end = process.devices.get(at.device).map_or(0, |device| device.submitted);
    process.graphs.ready.get_mut(&exec).ok_or(INVALID_VALUE)?.last = Some((at.key, end));
    graph.host.into_iter().try_for_each(|call| call_later(&mut process, &at, call))
}

fn forget(process: &mut Process, kept: Vec<Page>) -> Answer<()> {
    kept.into_iter().try_for_each(|page| process.ask(&Request::Free { address: page.taken }).map(|_| ()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    exec: *mut *mut c_void,
    graph: *mut c_void,
    _flags: u64,
) -> c_int {
    // SAFETY: the caller's out-pointer.
    code(instantiate(graph).and_then(|handle| unsafe { put(exec, pointer(handle)) }))
}

/// CUDA 11: with a buffer for what is wrong with the graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiate_v2(
    exec: *mut *mut c_void,
    graph: *mut c_void,
    node: *mut *mut c_void,
    log: *mut c_char,
    room: usize,
) -> c_int {
    // SAFETY: the caller's out-pointer, which may be null, and `room` bytes.
    unsafe {
        put_if(node, std::ptr::null_mut());
        if room > 0 {
            put_if(log, 0);
        }
    }
    // SAFETY: same contract.
    unsafe { cuGraphInstantiateWithFlags(exec, graph, 0) }
}

/// Before CUDA 11; the same arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiate(
    exec: *mut *mut c_void,
    graph: *mut c_void,
    node: *mut *mut c_void,
    log: *mut c_char,
    room: usize,
) -> c_int {
    // SAFETY: same contract.
    unsafe { cuGraphInstantiate_v2(exec, graph, node, log, room) }
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
pub struct InstantiateParameters {
    flags: u64,
    upload: *mut c_void,
    error_node: *mut c_void,
    result: c_int,
}

/// # Safety
/// The caller's out-pointer and structure.
unsafe fn instantiate_with(
    exec: *mut *mut c_void,
    graph: *mut c_void,
    parameters: *mut InstantiateParameters,
) -> c_int {
    // SAFETY: null, or the caller's structure.
    let Some(parameters) = (unsafe { parameters.as_mut() }) else { return INVALID_VALUE };
    // SAFETY: the caller's out-pointer.
    let made = unsafe { cuGraphInstantiateWithFlags(exec, graph, parameters.flags) };
    parameters.error_node = std::ptr::null_mut();
    // 1 is `CUDA_GRAPH_INSTANTIATE_ERROR`.
    parameters.result = c_int::from(made != 0);
    made
}

/// Replaces what a graph made ready does. `node` and `result` of old; CUDA 12 has one structure that begins with the
/// result.
fn update(exec: *mut c_void, graph: *mut c_void) -> Answer<()> {
    let mut process = process()?;
    let fresh = process.graphs.made.get(&(graph as usize)).cloned().ok_or(INVALID_VALUE)?;
    let ready = process.graphs.ready.get_mut(&(exec as usize)).ok_or(INVALID_VALUE)?;
    ready.graph = fresh;
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecUpdate(
    exec: *mut c_void,
    graph: *mut c_void,
    node: *mut *mut c_void,
    result: *mut c_int,
) -> c_int {
    let updated = update(exec, graph);
    // SAFETY: the caller's out-pointers, which may be null. 1 is `CU_GRAPH_EXEC_UPDATE_ERROR`.
    unsafe {
        put_if(node, std::ptr::null_mut());
        put_if(result, c_int::from(updated.is_err()));
    }
    code(updated)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecUpdate_v2(
    exec: *mut c_void,
    graph: *mut c_void,
    result: *mut c_int,
) -> c_int {
    let updated = update(exec, graph);
    // SAFETY: the caller's structure, which begins with the result.
    unsafe { put_if(result, c_int::from(updated.is_err())) };
    code(updated)
}

macro_rules! launches {
    ($($launch:ident, $upload:ident, $with:ident, $per_thread:literal;)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $launch(exec: *mut c_void, stream: *mut c_void) -> c_int {
            code(launch(exec, stream, $per_thread))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $upload(exec: *mut c_void, stream: *mut c_void) -> c_int {
            code(process().and_then(|mut process| {
                let at = resolve(&process, stream as usize, $per_thread)?;
                take_memory(&mut process, exec as usize, &at, true)
            }))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $with(
            exec: *mut *mut c_void,
            graph: *mut c_void,
            parameters: *mut InstantiateParameters,
        ) -> c_int {
            // SAFETY: same contract.
            unsafe { instantiate_with(exec, graph, parameters) }
        }
    )*};
}

launches! {
    cuGraphLaunch, cuGraphUpload, cuGraphInstantiateWithParams, false;
    cuGraphLaunch_ptsz, cuGraphUpload_ptsz, cuGraphInstantiateWithParams_ptsz, true;
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(exec: *mut c_void) -> c_int {
    code(process().and_then(|mut process| {
        let ready = process.graphs.ready.remove(&(exec as usize)).ok_or(INVALID_VALUE)?;
        forget(&mut process, ready.kept)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: *mut c_void) -> c_int {
    code(process().and_then(|mut process| {
        process.graphs.made.remove(&(graph as usize)).map(|_| ()).ok_or(INVALID_VALUE)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphCreate(graph: *mut *mut c_void, _flags: c_uint) -> c_int {
    let made = process().map(|mut process| {
        let handle = process.handle();
        process.graphs.made.insert(handle, Graph::default());
        handle
    });
    // SAFETY: the caller's out-pointer.
    code(made.and_then(|handle| unsafe { put(graph, pointer(handle)) }))
}

/// The number of nodes; their handles are not told.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphGetNodes(
    graph: *mut c_void,
    nodes: *mut *mut c_void,
    count: *mut usize,
) -> c_int {
    let found = process().and_then(|process| {
        process.graphs.made.get(&(graph as usize)).map(|graph| graph.nodes).ok_or(INVALID_VALUE)
    });
    if !nodes.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's out-pointer.
    code(found.and_then(|found| unsafe { put(count, found) }))
}

/// The beginning of `CUDA_KERNEL_NODE_PARAMS`: all that is looked at. A function may also be given as a kernel,
/// behind the end of the first version, which is not looked at.
#[repr(C)]
pub struct KernelNode {
    function: *mut c_void,
}

/// # Safety
/// `parameters` is null or the caller's structure.
unsafe fn add_kernel(
    node: *mut *mut c_void,
    graph: *mut c_void,
    parameters: *const KernelNode,
) -> Answer<()> {
    // SAFETY: null, or the caller's structure.
    let function = unsafe { parameters.as_ref() }.ok_or(INVALID_VALUE)?.function;
    let mut process = process()?;
    let nanos = nanos_of(&process, function as usize)?;
    let handle = process.handle();
    let graph = process.graphs.made.get_mut(&(graph as usize)).ok_or(INVALID_HANDLE)?;
    graph.nanos += nanos;
    graph.nodes += 1;
    // SAFETY: the caller's out-pointer.
    unsafe { put(node, pointer(handle)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddKernelNode(
    node: *mut *mut c_void,
    graph: *mut c_void,
    _dependencies: *const c_void,
    _count: usize,
    parameters: *const KernelNode,
) -> c_int {
    // SAFETY: same contract.
    code(unsafe { add_kernel(node, graph, parameters) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddKernelNode_v2(
    node: *mut *mut c_void,
    graph: *mut c_void,
    _dependencies: *const c_void,
    _count: usize,
    parameters: *const KernelNode,
) -> c_int {
    // SAFETY: same contract.
    code(unsafe { add_kernel(node, graph, parameters) })
}

fn trim(process: &mut Process, device: usize) -> Answer<()> {
    let done = done(process, device)?;
    let mut gone = Vec::new();
    for ready in process.graphs.ready.values_mut().filter(|one| one.last.is_none_or(|(_, end)| end <= done)) {
        gone.extend(ready.kept.extract_if(.., |page| page.device == device));
    }
    forget(process, gone)
}

/// Gives back what graphs keep between launches.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGraphMemTrim(device: c_int) -> c_int {
    code(process().and_then(|mut process| {
        process.device(device)?;
        trim(&mut process, device as usize)
    }))
}
