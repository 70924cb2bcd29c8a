//! Nodes that take and free memory, added to graphs by hand, and what is told about the memory of graphs.

use std::ffi::{c_int, c_void};

use crate::graph::{Allocation, Step};
use crate::memory::{Kind, PAGE};
use crate::pool::PoolProperties;
use crate::process::{pointer, process};
use crate::status::{Answer, INVALID_HANDLE, INVALID_VALUE, code, put};

/// `CUDA_MEM_ALLOC_NODE_PARAMS`.
#[repr(C)]
pub struct AllocationNode {
    pool: PoolProperties,
    access: *const c_void,
    access_count: usize,
    bytes: usize,
    address: u64,
}

/// `CUgraphNodeParams`, with the types that are modelled.
#[repr(C)]
pub struct NodeParameters {
    kind: c_int,
    reserved: [c_int; 3],
    rest: [u64; 30],
}

/// Numbers of `CUgraphNodeType`.
const ALLOCATION: c_int = 10;
const FREE: c_int = 11;

/// # Safety
/// The caller's out-pointer.
unsafe fn add_allocation(
    node: *mut *mut c_void,
    graph: *mut c_void,
    wish: &mut AllocationNode,
) -> Answer<()> {
    let mut process = process()?;
    process.device(wish.pool.location.id)?;
    if wish.pool.location.kind != 1 || wish.bytes == 0 {
        return Err(INVALID_VALUE);
    }
    let bytes = wish.bytes as u64;
    let (address, handle) = (process.memory.own_address(bytes), process.handle());
    let graph = process.graphs.made.get_mut(&(graph as usize)).ok_or(INVALID_HANDLE)?;
    let device = wish.pool.location.id as usize;
    graph.memory.push(Step::Take(Allocation { address, bytes, device }));
    graph.nodes += 1;
    wish.address = address;
    // SAFETY: the caller's out-pointer.
    unsafe { put(node, pointer(handle)) }
}

/// # Safety
/// The caller's out-pointer.
unsafe fn add_free(node: *mut *mut c_void, graph: *mut c_void, address: u64) -> Answer<()> {
    let mut process = process()?;
    let handle = process.handle();
    let graph = process.graphs.made.get_mut(&(graph as usize)).ok_or(INVALID_HANDLE)?;
    graph.memory.push(Step::Give(address));
    graph.nodes += 1;
    // SAFETY: the caller's out-pointer.
    unsafe { put(node, pointer(handle)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddMemAllocNode(
    node: *mut *mut c_void,
    graph: *mut c_void,
    _dependencies: *const c_void,
    _count: usize,
    parameters: *mut AllocationNode,
) -> c_int {
    // SAFETY: null, or the caller's structure.
    let Some(wish) = (unsafe { parameters.as_mut() }) else { return INVALID_VALUE };
    // SAFETY: same contract.
    code(unsafe { add_allocation(node, graph, wish) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddMemFreeNode(
    node: *mut *mut c_void,
    graph: *mut c_void,
    _dependencies: *const c_void,
    _count: usize,
    address: u64,
) -> c_int {
    // SAFETY: same contract.
    code(unsafe { add_free(node, graph, address) })
}

/// CUDA 12.2: of any type, of which those of memory are modelled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddNode(
    node: *mut *mut c_void,
    graph: *mut c_void,
    _dependencies: *const c_void,
    _count: usize,
    parameters: *mut NodeParameters,
) -> c_int {
    // SAFETY: null, or the caller's structure.
    let Some(parameters) = (unsafe { parameters.as_mut() }) else { return INVALID_VALUE };
    let [address, ..] = parameters.rest;
    code(match parameters.kind {
        // SAFETY: the union begins with the structure of the type, for which it has room and is aligned.
        ALLOCATION => unsafe { add_allocation(node, graph, &mut *(&raw mut parameters.rest).cast()) },
        // SAFETY: same contract.
        FREE => unsafe { add_free(node, graph, address) },
        _ => Err(INVALID_VALUE),
    })
}

/// CUDA 12.3: with data of edges.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddNode_v2(
    node: *mut *mut c_void,
    graph: *mut c_void,
    dependencies: *const c_void,
    _data: *const c_void,
    count: usize,
    parameters: *mut NodeParameters,
) -> c_int {
    // SAFETY: same contract.
    unsafe { cuGraphAddNode(node, graph, dependencies, count, parameters) }
}

/// CUDA 13.4: the same arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddNode_v3(
    node: *mut *mut c_void,
    graph: *mut c_void,
    dependencies: *const c_void,
    data: *const c_void,
    count: usize,
    parameters: *mut NodeParameters,
) -> c_int {
    // SAFETY: same contract.
    unsafe { cuGraphAddNode_v2(node, graph, dependencies, data, count, parameters) }
}

/// Bytes of the graphs' memory on a device: what is used, and what is kept besides.
fn memory(device: c_int) -> Answer<(u64, u64)> {
    let mut process = process()?;
    process.device(device)?;
    let device = device as usize;
    let blocks = process.memory.blocks.values();
    let used = blocks.filter(|block| block.device == device && block.kind == Kind::Graph);
    Ok((used.map(|block| block.bytes.next_multiple_of(PAGE)).sum(), process.graphs.kept_on(device)))
}

/// 0 and 1 are what is used, 2 and 3 what is reserved; the high marks (odd) are not kept apart.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetGraphMemAttribute(
    device: c_int,
    attribute: c_int,
    value: *mut c_void,
) -> c_int {
    let found = memory(device).and_then(|(used, kept)| match attribute {
        0 | 1 => Ok(used),
        2 | 3 => Ok(used + kept),
        _ => Err(INVALID_VALUE),
    });
    // SAFETY: the caller's out-pointer to 64 bits.
    code(found.and_then(|found| unsafe { put(value.cast(), found) }))
}
