//! The functions of the CUDA driver, of every version that `cuda.h` has had them in, and with either default stream
//! (`_ptsz`: the calling thread's). Imports of others' memory are not charged: the exporter has paid. Where a process
//! imports its own, that has a holder more.
//!
//! What the driver makes of a size is not documented: small ones are taken to be multiples of 512 bytes, and from 1 MiB
//! on of 2 MiB; rows of pitched memory and of arrays to begin at multiples of 512 bytes (all unverified; what is
//! certain is the granularity of `cuMemCreate`). What that gets wrong, contexts and modules are the node agent's to
//! find, from the driver's own numbers.

use core::ffi::c_void;

use vnpu_quota_abi::charge::{CUDA_BLOCKS, CUDA_POOL, HUGE_UNIT};
use vnpu_quota_abi::table::{CURRENT_DEVICE, KeyKind, NO_DEVICE, Vendor};

use crate::arrays::map_arrays;
use crate::call::{
    Supply, Wish, alloc, attach, close, context, free, free_in_order, info, launch, map, retain, total, unmap,
};
use crate::contexts::{destroy, primary, release, wipe};
use crate::exports::{export, import};
use crate::graphs::{child, end, free_node, node, ready, recapture, run, trim, upload};
use crate::pools::{end_pool, pool, trim_pool, wait};

pub(super) const VENDOR: Vendor = Vendor::Cuda;

type Out = *mut u64;
pub(super) type Opaque = *mut c_void;

/// The stream of calls that name none.
const LEGACY: Opaque = core::ptr::null_mut();
/// A context that we do not know by its handle: a green context has another handle than the context that it makes.
const ANY_CONTEXT: Opaque = core::ptr::null_mut();

/// `CU_STREAM_PER_THREAD`: what no stream means to the `_ptsz` functions.
fn own(stream: Opaque) -> Opaque {
    if stream.is_null() { core::ptr::without_provenance_mut(2) } else { stream }
}

pub(super) fn place(out: Out) -> *mut Opaque {
    out.cast()
}

pub(super) fn memory(size: u64) -> Wish {
    Wish {
        size,
        policy: CUDA_BLOCKS,
        device: CURRENT_DEVICE,
        kind: KeyKind::Address,
        exempt: false,
        supply: Supply::Context,
    }
}

fn ordered(size: usize, stream: Opaque) -> Wish {
    Wish { supply: Supply::Stream(stream), policy: CUDA_POOL, ..memory(size as u64) }
}

fn pooled(size: usize, pool: Opaque, stream: Opaque) -> Wish {
    Wish { supply: Supply::Pool(pool, stream), policy: CUDA_POOL, ..memory(size as u64) }
}

/// Memory that is also mapped on the host: whole pages.
fn managed(size: usize) -> Wish {
    memory((size as u64).checked_next_multiple_of(HUGE_UNIT).unwrap_or(u64::MAX))
}

/// Bytes of a row.
fn row(width: u64) -> u64 {
    width.checked_next_multiple_of(512).unwrap_or(u64::MAX)
}

pub(super) fn pitched(width: usize, height: usize) -> Wish {
    memory(row(width as u64).saturating_mul(height as u64))
}

/// `CU_MEM_ALLOCATION_TYPE_MANAGED`: memory that moves to where it is used, whatever place it was made for.
const MANAGED: i32 = 2;

/// Where memory of an allocation type is, by the place {type, id} that it is made for.
fn home(allocation: i32, place: i32, id: i32) -> i32 {
    match place {
        // `CU_MEM_LOCATION_TYPE_DEVICE`.
        1 => id,
        // `..._DEVICE_LOCALITY_DOMAIN`, a part of a device's memory: the device's number is a byte.
        6 => id & 0xff,
        // `..._HOST`, `..._HOST_NUMA` and `..._HOST_NUMA_CURRENT`.
        2..=4 if allocation != MANAGED => NO_DEVICE,
        _ => CURRENT_DEVICE,
    }
}

/// Of `CUmemAllocationProp` and `CUmemPoolProps`, which both begin with {type, handle types, location {type, id}}.
fn home_of(properties: *const c_void) -> i32 {
    if properties.is_null() {
        return CURRENT_DEVICE;
    }
    let word = |index: usize| {
        // SAFETY: the program's structure, larger than four words, readable.
        unsafe { properties.cast::<i32>().add(index).read_unaligned() }
    };
    home(word(0), word(2), word(3))
}

/// Of a `CUmemLocation`.
fn home_at(location: *const c_void, allocation: i32) -> i32 {
    if location.is_null() {
        return CURRENT_DEVICE;
    }
    // SAFETY: the program's structure of two words, readable.
    let [place, id] = unsafe { location.cast::<[i32; 2]>().read_unaligned() };
    home(allocation, place, id)
}

/// Memory of a handle.
fn physical(size: usize, properties: *const c_void) -> Wish {
    let device = home_of(properties);
    let (kind, exempt) = (KeyKind::Handle, device == NO_DEVICE);
    Wish { device, kind, exempt, supply: Supply::Device, ..memory(size as u64) }
}

/// Extents of an array.
struct Extents {
    width: u64,
    height: u64,
    depth: u64,
    format: u32,
    channels: u32,
    /// The depth counts layers, or faces of cubes: each level has all of them.
    layered: bool,
}

impl Extents {
    /// Bytes of `levels` levels, each half as large as the one before; the driver makes no more than there are.
    fn bytes(&self, levels: u32) -> u64 {
        // Side and bytes of the squares that a format is stored in, by the numbers of `CUarray_format`: 8, 16 and 32
        // bits of a channel, block-compressed ones whole, with all channels. The others (planar) are taken as 32 bits.
        let (side, unit) = match self.format {
            0x01 | 0x08 | 0xc0..=0xc2 | 0xc6..=0xc8 => (1, u64::from(self.channels)),
            0x02 | 0x09 | 0x10 | 0xc3..=0xc5 | 0xc9..=0xcb => (1, 2 * u64::from(self.channels)),
            0x91 | 0x92 | 0x97 | 0x98 => (4, 8),
            0x93..=0x96 | 0x99..=0x9e => (4, 16),
            _ => (1, 4 * u64::from(self.channels)),
        };
        let depth = if self.layered { 1 } else { self.depth };
        let longest = self.width.max(self.height).max(depth).max(1);
        (0..levels.clamp(1, 1 + longest.ilog2())).fold(0_u64, |sum, level| {
            let shrunk = |extent: u64| (extent >> level).max(1);
            let squares = |extent: u64| shrunk(extent).div_ceil(side);
            let flat = row(squares(self.width).saturating_mul(unit)).saturating_mul(squares(self.height));
            let planes = if self.layered { self.depth.max(1) } else { shrunk(self.depth) };
            sum.saturating_add(flat.saturating_mul(planes))
        })
    }
}

/// `CUDA_ARRAY3D_LAYERED` and `CUDA_ARRAY3D_CUBEMAP`.
const LAYERED: u32 = 0x05;

/// `CUDA_ARRAY3D_SPARSE` and `CUDA_ARRAY3D_DEFERRED_MAPPING`: memory of `cuMemCreate` is mapped into it later.
const WITHOUT_MEMORY: u32 = 0xc0;

/// `CUDA_ARRAY_DESCRIPTOR` and, with a depth, `CUDA_ARRAY3D_DESCRIPTOR`; `W` is `usize`, before CUDA 3.2 `u32`.
fn plane<W: Copy + Into<Wide>>(descriptor: *const c_void, deep: bool, levels: u32) -> Wish {
    if descriptor.is_null() {
        return memory(0);
    }
    let extents = if deep { 3 } else { 2 };
    let extent = |index: usize| {
        // SAFETY: the program's structure, which begins with so many extents, readable.
        let Wide(wide) = unsafe { descriptor.cast::<W>().add(index).read_unaligned() }.into();
        wide
    };
    let word = |index: usize| {
        // SAFETY: as above; two words follow the extents, three in a deep one.
        unsafe { descriptor.cast::<W>().add(extents).cast::<u32>().add(index).read_unaligned() }
    };
    let (depth, flags) = if deep { (extent(2), word(2)) } else { (0, 0) };
    let all = Extents {
        width: extent(0),
        height: extent(1),
        depth,
        format: word(0),
        channels: word(1),
        layered: flags & LAYERED != 0,
    };
    Wish { exempt: flags & WITHOUT_MEMORY != 0, ..memory(all.bytes(levels)) }
}

/// A number of either width.
struct Wide(u64);

impl From<usize> for Wide {
    fn from(number: usize) -> Self {
        Self(number as u64)
    }
}

impl From<u32> for Wide {
    fn from(number: u32) -> Self {
        Self(u64::from(number))
    }
}

/// The stream of a `CUlaunchConfig`: after seven words and a gap.
fn stream_of(config: *const c_void) -> Opaque {
    if config.is_null() {
        return LEGACY;
    }
    // SAFETY: the program's structure, larger than that, readable.
    unsafe { config.cast::<u8>().add(32).cast::<Opaque>().read_unaligned() }
}

/// The stream of the first `CUDA_LAUNCH_PARAMS`: after a function, seven words and a gap.
fn first_stream(list: *const c_void, count: u32) -> Opaque {
    if list.is_null() || count == 0 {
        return LEGACY;
    }
    // SAFETY: the program's list of structures that are larger than that, readable.
    unsafe { list.cast::<u8>().add(40).cast::<Opaque>().read_unaligned() }
}

/// Bytes of a `CUDA_MEM_ALLOC_NODE_PARAMS`: after a `CUmemPoolProps`, an address and a number.
fn size_of_node(parameters: *const c_void) -> u64 {
    if parameters.is_null() {
        return 0;
    }
    // SAFETY: the program's structure, larger than that, readable.
    unsafe { parameters.cast::<u8>().add(104).cast::<u64>().read_unaligned() }
}

/// Where the driver writes its address: after its size. Not looked at where there is no size.
fn address_of_node(parameters: *const c_void) -> *const u64 {
    parameters.cast::<u8>().wrapping_add(112).cast()
}

/// `CU_GRAPH_NODE_TYPE_GRAPH`, `CU_GRAPH_NODE_TYPE_MEM_ALLOC` and `CU_GRAPH_NODE_TYPE_MEM_FREE`.
const CHILD_GRAPH: i32 = 4;
const ALLOCATION: i32 = 10;
const FREE: i32 = 11;
/// `CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE`: only such a child may allocate.
const MOVED: i32 = 1;

/// A call that adds a node of any type, by a `CUgraphNodeParams`: its type, three words, and what is of the type.
fn added(vendor: Vendor, real: impl Fn() -> i32, graph: Opaque, parameters: *const c_void) -> i32 {
    if parameters.is_null() {
        return real();
    }
    // SAFETY: the program's structure of 256 bytes, readable.
    let (kind, rest) =
        unsafe { (parameters.cast::<i32>().read_unaligned(), parameters.cast::<u8>().add(16)) };
    match kind {
        ALLOCATION => {
            let rest = rest.cast();
            node(vendor, real, graph, home_of(rest), size_of_node(rest), address_of_node(rest))
        }
        // SAFETY: as above; an address.
        FREE => free_node(vendor, real, graph, unsafe { rest.cast::<u64>().read_unaligned() }),
        CHILD_GRAPH => {
            // SAFETY: as above; {graph, ownership}.
            let (moved, ownership) = unsafe {
                (rest.cast::<Opaque>().read_unaligned(), rest.add(8).cast::<i32>().read_unaligned())
            };
            if ownership == MOVED { child(vendor, real, moved, graph) } else { real() }
        }
        _ => real(),
    }
}

fn key(address: u64) -> Opaque {
    core::ptr::with_exposed_provenance_mut(address as usize)
}

hooks! {
    alloc cuMemAlloc_v2(out: Out, size: usize) => place(out), memory(size as u64);
    alloc cuMemAllocPitch_v2(out: Out, pitch: *mut usize, width: usize, height: usize, element: u32) => place(out), pitched(width, height);
    alloc cuMemAllocManaged(out: Out, size: usize, flags: u32) => place(out), managed(size);
    alloc cuMemAllocAsync(out: Out, size: usize, stream: Opaque) => place(out), ordered(size, stream);
    alloc cuMemAllocAsync_ptsz(out: Out, size: usize, stream: Opaque) => place(out), ordered(size, own(stream));
    alloc cuMemAllocFromPoolAsync(out: Out, size: usize, pool: Opaque, stream: Opaque) => place(out), pooled(size, pool, stream);
    alloc cuMemAllocFromPoolAsync_ptsz(out: Out, size: usize, pool: Opaque, stream: Opaque) => place(out), pooled(size, pool, own(stream));
    alloc cuMemCreate(handle: Out, size: usize, properties: *const c_void, flags: u64) => place(handle), physical(size, properties);
    alloc cuArrayCreate(array: *mut Opaque, descriptor: *const c_void) => array, plane::<u32>(descriptor, false, 1);
    alloc cuArrayCreate_v2(array: *mut Opaque, descriptor: *const c_void) => array, plane::<usize>(descriptor, false, 1);
    alloc cuArray3DCreate(array: *mut Opaque, descriptor: *const c_void) => array, plane::<u32>(descriptor, true, 1);
    alloc cuArray3DCreate_v2(array: *mut Opaque, descriptor: *const c_void) => array, plane::<usize>(descriptor, true, 1);
    alloc cuMipmappedArrayCreate(array: *mut Opaque, descriptor: *const c_void, levels: u32) => array, plane::<usize>(descriptor, true, levels);
    free cuMemFree(address: u32) => key(u64::from(address)), KeyKind::Address;
    free cuMemFree_v2(address: u64) => key(address), KeyKind::Address;
    free_in_order cuMemFreeAsync(address: u64, stream: Opaque) => key(address), stream;
    free_in_order cuMemFreeAsync_ptsz(address: u64, stream: Opaque) => key(address), own(stream);
    free cuMemRelease(handle: u64) => key(handle), KeyKind::Handle;
    free cuArrayDestroy(array: Opaque) => array, KeyKind::Address;
    free cuMipmappedArrayDestroy(array: Opaque) => array, KeyKind::Address;
    retain cuMemRetainAllocationHandle(handle: *mut u64, address: Opaque) => handle;
    import cuMemImportFromShareableHandle(handle: *mut u64, exported: Opaque, kind: i32) => handle, exported, kind;
    export cuMemExportToShareableHandle(out: Opaque, handle: u64, kind: i32, flags: u64) => out, handle, kind;
    map cuMemMap(address: u64, size: usize, offset: usize, handle: u64, flags: u64) => address, size as u64, handle;
    unmap cuMemUnmap(address: u64, size: usize) => address, size as u64;
    pool cuMemPoolCreate(out: *mut Opaque, properties: *const c_void) => out, home_of(properties);
    pool cuDeviceGetDefaultMemPool(out: *mut Opaque, device: i32) => out, device;
    pool cuDeviceGetMemPool(out: *mut Opaque, device: i32) => out, device;
    pool cuMemGetDefaultMemPool(out: *mut Opaque, location: *const c_void, allocation: i32) => out, home_at(location, allocation);
    pool cuMemGetMemPool(out: *mut Opaque, location: *const c_void, allocation: i32) => out, home_at(location, allocation);
    trim_pool cuMemPoolTrimTo(pool: Opaque, keep: usize) => pool;
    end_pool cuMemPoolDestroy(pool: Opaque) => pool;
    wait cuCtxSynchronize() => ;
    wait cuCtxSynchronize_v2(context: Opaque) => ;
    wait cuStreamSynchronize(stream: Opaque) => ;
    wait cuStreamSynchronize_ptsz(stream: Opaque) => ;
    wait cuEventSynchronize(event: Opaque) => ;
    map_arrays cuMemMapArrayAsync(list: *const c_void, count: u32, stream: Opaque) => list, count;
    map_arrays cuMemMapArrayAsync_ptsz(list: *const c_void, count: u32, stream: Opaque) => list, count;
    info cuMemGetInfo_v2(left: *mut usize, all: *mut usize) => left, all;
    total cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) => bytes, device;
    primary cuDevicePrimaryCtxRetain(context: *mut Opaque, device: i32) => context, device;
    attach cuCtxCreate(context: *mut Opaque, flags: u32, device: i32) => ;
    attach cuCtxCreate_v2(context: *mut Opaque, flags: u32, device: i32) => ;
    attach cuCtxCreate_v3(context: *mut Opaque, affinities: Opaque, count: i32, flags: u32, device: i32) => ;
    attach cuCtxCreate_v4(context: *mut Opaque, parameters: Opaque, flags: u32, device: i32) => ;
    destroy cuCtxDestroy(doomed: Opaque) => doomed;
    destroy cuCtxDestroy_v2(doomed: Opaque) => doomed;
    context cuCtxDetach(doomed: Opaque) => doomed;
    context cuGreenCtxDestroy(doomed: Opaque) => ANY_CONTEXT;
    release cuDevicePrimaryCtxRelease(device: i32) => device;
    release cuDevicePrimaryCtxRelease_v2(device: i32) => device;
    wipe cuDevicePrimaryCtxReset(device: i32) => device;
    wipe cuDevicePrimaryCtxReset_v2(device: i32) => device;
    close cuStreamDestroy(stream: Opaque) => ;
    close cuStreamDestroy_v2(stream: Opaque) => ;
    close cuStreamBeginCapture(stream: Opaque) => ;
    close cuStreamBeginCapture_ptsz(stream: Opaque) => ;
    close cuStreamBeginCapture_v2(stream: Opaque, mode: i32) => ;
    close cuStreamBeginCapture_v2_ptsz(stream: Opaque, mode: i32) => ;
    close cuStreamBeginCaptureToGraph(stream: Opaque, graph: Opaque, nodes: *const Opaque, edges: *const c_void, count: usize, mode: i32) => ;
    close cuStreamBeginCaptureToGraph_ptsz(stream: Opaque, graph: Opaque, nodes: *const Opaque, edges: *const c_void, count: usize, mode: i32) => ;
    recapture cuStreamBeginRecaptureToGraph(stream: Opaque, mode: i32, graph: Opaque, differs: *const c_void, data: Opaque) => graph;
    recapture cuStreamBeginRecaptureToGraph_ptsz(stream: Opaque, mode: i32, graph: Opaque, differs: *const c_void, data: Opaque) => graph;
    launch cuLaunch(function: Opaque) => LEGACY;
    launch cuLaunchGrid(function: Opaque, width: i32, height: i32) => LEGACY;
    launch cuLaunchGridAsync(function: Opaque, width: i32, height: i32, stream: Opaque) => stream;
    launch cuLaunchKernel(function: Opaque, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: Opaque, parameters: *mut Opaque, extra: *mut Opaque) => stream;
    launch cuLaunchKernel_ptsz(function: Opaque, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: Opaque, parameters: *mut Opaque, extra: *mut Opaque) => own(stream);
    launch cuLaunchKernelEx(config: *const c_void, function: Opaque, parameters: *mut Opaque, extra: *mut Opaque) => stream_of(config);
    launch cuLaunchKernelEx_ptsz(config: *const c_void, function: Opaque, parameters: *mut Opaque, extra: *mut Opaque) => own(stream_of(config));
    launch cuLaunchCooperativeKernel(function: Opaque, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: Opaque, parameters: *mut Opaque) => stream;
    launch cuLaunchCooperativeKernel_ptsz(function: Opaque, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: Opaque, parameters: *mut Opaque) => own(stream);
    launch cuLaunchCooperativeKernelMultiDevice(list: *const c_void, count: u32, flags: u32) => first_stream(list, count);
    run cuGraphLaunch(exec: Opaque, stream: Opaque) => exec, stream;
    run cuGraphLaunch_ptsz(exec: Opaque, stream: Opaque) => exec, own(stream);
    upload cuGraphUpload(exec: Opaque, stream: Opaque) => exec, stream;
    upload cuGraphUpload_ptsz(exec: Opaque, stream: Opaque) => exec, own(stream);
    node cuGraphAddMemAllocNode(made: *mut Opaque, graph: Opaque, before: *const c_void, count: usize, parameters: *const c_void) => graph, home_of(parameters), size_of_node(parameters), address_of_node(parameters);
    free_node cuGraphAddMemFreeNode(made: *mut Opaque, graph: Opaque, before: *const c_void, count: usize, address: u64) => graph, address;
    added cuGraphAddNode(made: *mut Opaque, graph: Opaque, before: *const c_void, count: usize, parameters: *const c_void) => graph, parameters;
    added cuGraphAddNode_v2(made: *mut Opaque, graph: Opaque, before: *const c_void, edges: *const c_void, count: usize, parameters: *const c_void) => graph, parameters;
    added cuGraphAddNode_v3(made: *mut Opaque, graph: Opaque, before: *const c_void, edges: *const c_void, count: usize, parameters: *const c_void) => graph, parameters;
    ready cuGraphInstantiate(exec: *mut Opaque, graph: Opaque, bad: *mut Opaque, text: Opaque, room: usize) => graph, exec;
    ready cuGraphInstantiate_v2(exec: *mut Opaque, graph: Opaque, bad: *mut Opaque, text: Opaque, room: usize) => graph, exec;
    ready cuGraphInstantiateWithFlags(exec: *mut Opaque, graph: Opaque, flags: u64) => graph, exec;
    ready cuGraphInstantiateWithParams(exec: *mut Opaque, graph: Opaque, parameters: Opaque) => graph, exec;
    ready cuGraphInstantiateWithParams_ptsz(exec: *mut Opaque, graph: Opaque, parameters: Opaque) => graph, exec;
    end cuGraphExecDestroy(exec: Opaque) => exec;
    end cuGraphDestroy(graph: Opaque) => graph;
    trim cuDeviceGraphMemTrim(device: i32) => device;
}
