//! The functions of the Ascend runtime.
//!
//! `aclrt*Impl` sees every ACL call of all CANN generations, `rt*` and `rts*` see the direct users of libruntime
//! (contracts: layering of CANN). Imports of others' memory are not hooked: the exporter has paid.
//!
//! Two things count too little or too much. A block that goes back to a memory pool is credited although the
//! pool keeps its pages until it is trimmed. What a reset of the device frees is not credited before the process
//! ends, because it is not certain that the runtime gives the memory back then (unverified); crediting memory
//! that is still taken would hand out more than the chip has.

use core::ffi::c_void;

use vnpu_quota_abi::charge::{padded_for, policy_of_type};
use vnpu_quota_abi::table::{CURRENT_DEVICE, KeyKind, Vendor};

use crate::call::{Supply, Wish, alloc, attach, close, components, free, graph, info, launch, reset};

const VENDOR: Vendor = Vendor::Ascend;

type Out = *mut *mut c_void;
type Opaque = *mut c_void;

/// The page policy of calls that state none.
const HUGE_FIRST: u32 = 0;

fn memory(size: u64, policy: u32) -> Wish {
    Wish {
        size,
        policy,
        device: CURRENT_DEVICE,
        kind: KeyKind::Address,
        exempt: false,
        supply: Supply::Device,
    }
}

/// Memory of an `rtMemType_t`.
fn typed(size: u64, kind: u32) -> Wish {
    memory(size, policy_of_type(kind))
}

/// Memory of a function that pads.
fn padding(size: usize, policy: u32) -> Wish {
    memory(padded_for(size as u64, policy), policy)
}

/// Where a structure that describes physical memory says what.
struct Physical {
    /// Offset of the side: 1 is the device, all else (0 host, 2 and 4 others of the host) not.
    side: usize,
    /// Offset of the device.
    device: usize,
    /// Offset of the kind of pages.
    pages: usize,
    /// The policy of a kind of pages.
    policy: fn(u32) -> u32,
}

/// `aclrtPhysicalMemProp`: {handleType, allocationType, memAttr, location {id, type}, reserve}.
const ACL: Physical = Physical { side: 16, device: 12, pages: 8, policy: policy_of_attribute };
/// `rtDrvMemProp_t`: {side, devid, module_id, pg_type, mem_type, reserve}.
const DRV: Physical = Physical { side: 0, device: 4, pages: 12, policy: policy_of_pages };

/// Of `aclrtMemAttr`: the odd ones from 3 to 9 are normal pages, 10 and 11 of 1 GiB.
fn policy_of_attribute(attribute: u32) -> u32 {
    match attribute {
        3 | 5 | 7 | 9 => 2,
        10 | 11 => 6,
        _ => 1,
    }
}

/// Of the driver's page types: 0 normal, 1 huge, 2 of 1 GiB.
fn policy_of_pages(pages: u32) -> u32 {
    match pages {
        0 => 2,
        2 => 6,
        _ => 1,
    }
}

fn physical(size: usize, prop: *const c_void, at: &Physical) -> Wish {
    let word = |offset: usize| {
        // SAFETY: the vendor's structure, larger than all offsets, readable.
        unsafe { prop.cast::<u8>().add(offset).cast::<u32>().read_unaligned() }
    };
    let known = !prop.is_null();
    Wish {
        size: size as u64,
        policy: if known { (at.policy)(word(at.pages)) } else { HUGE_FIRST },
        device: if known { word(at.device) as i32 } else { CURRENT_DEVICE },
        kind: KeyKind::Handle,
        exempt: known && word(at.side) != 1,
        supply: Supply::Device,
    }
}

/// The stream of calls that name none.
const DEFAULT_STREAM: Opaque = core::ptr::null_mut();

fn handle_of(out: *mut c_void) -> Out {
    out.cast()
}

hooks! {
    alloc aclrtMallocImpl(out: Out, size: usize, policy: u32) => out, padding(size, policy);
    alloc aclrtMallocAlign32Impl(out: Out, size: usize, policy: u32) => out, memory(size as u64, policy);
    alloc aclrtMallocCachedImpl(out: Out, size: usize, policy: u32) => out, padding(size, policy);
    alloc aclrtMallocWithCfgImpl(out: Out, size: usize, policy: u32, config: Opaque) => out, memory(size as u64, policy);
    alloc aclrtMallocForTaskSchedulerImpl(out: Out, size: usize, policy: u32, config: Opaque) => out, memory(size as u64, policy);
    alloc aclrtMemAllocManagedImpl(out: Out, size: u64, flag: u32) => out, memory(size, HUGE_FIRST);
    alloc aclrtMallocPhysicalImpl(handle: Opaque, size: usize, prop: *const c_void, flags: u64) => handle_of(handle), physical(size, prop, &ACL);
    alloc aclrtMemPoolMallocAsyncImpl(out: Out, size: usize, pool: Opaque, stream: Opaque) => out, memory(size as u64, HUGE_FIRST);
    free aclrtFreeImpl(pointer: Opaque) => pointer, KeyKind::Address;
    free aclrtFreeWithDevSyncImpl(pointer: Opaque) => pointer, KeyKind::Address;
    free aclrtMemFreeManagedImpl(pointer: Opaque) => pointer, KeyKind::Address;
    free aclrtFreePhysicalImpl(handle: Opaque) => handle, KeyKind::Handle;
    free aclrtMemPoolFreeAsyncImpl(pointer: Opaque, stream: Opaque) => pointer, KeyKind::Address;
    info aclrtGetMemInfoImpl(attr: u32, free: *mut usize, total: *mut usize) => free, total;
    components aclrtGetMemUsageInfoImpl(device: i32, list: Opaque, room: usize, count: *mut usize) => list, room, count, device;
    attach aclrtSetDeviceImpl(device: i32) => ;
    reset aclrtResetDeviceImpl(device: i32) => device;
    reset aclrtResetDeviceForceImpl(device: i32) => device;
    close aclrtDestroyStreamImpl(stream: Opaque) => ;
    close aclrtDestroyStreamForceImpl(stream: Opaque) => ;
    close aclmdlRICaptureBeginImpl(stream: Opaque, mode: i32) => ;
    launch aclrtLaunchKernelImpl(function: Opaque, blocks: u32, arguments: *const c_void, size: usize, stream: Opaque) => stream;
    launch aclrtLaunchKernelWithConfigImpl(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: Opaque, reserve: Opaque) => stream;
    launch aclrtLaunchKernelV2Impl(function: Opaque, blocks: u32, arguments: *const c_void, size: usize, config: Opaque, stream: Opaque) => stream;
    launch aclrtLaunchKernelWithHostArgsImpl(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: Opaque, size: usize, holders: Opaque, holder_count: usize) => stream;
    launch aclrtLaunchKernelWithArgsArrayImpl(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: *mut Opaque) => stream;
    graph aclmdlRIExecuteImpl(model: Opaque, timeout: i32) => DEFAULT_STREAM;
    graph aclmdlRIExecuteAsyncImpl(model: Opaque, stream: Opaque) => stream;

    alloc rtMalloc(out: Out, size: u64, kind: u32, module: u16) => out, typed(size, kind);
    alloc rtMallocCached(out: Out, size: u64, kind: u32, module: u16) => out, typed(size, kind);
    alloc rtDvppMalloc(out: Out, size: u64, module: u16) => out, memory(size, HUGE_FIRST);
    alloc rtDvppMallocWithFlag(out: Out, size: u64, flag: u32, module: u16) => out, typed(size, flag);
    alloc rtMemAllocManaged(out: Out, size: u64, flag: u32, module: u16) => out, memory(size, HUGE_FIRST);
    alloc rtMemAlloc(out: Out, size: u64, policy: u32, advise: u32, config: Opaque) => out, memory(size, policy);
    alloc rtsMalloc(out: Out, size: u64, policy: u32, advise: u32, config: Opaque) => out, memory(size, policy);
    alloc rtMallocPhysical(handle: Opaque, size: usize, prop: *mut c_void, flags: u64) => handle_of(handle), physical(size, prop, &DRV);
    alloc rtsMallocPhysical(handle: Opaque, size: usize, prop: *mut c_void, flags: u64) => handle_of(handle), physical(size, prop, &DRV);
    alloc rtMemPoolMallocAsync(out: Out, size: u64, pool: Opaque, stream: Opaque) => out, memory(size, HUGE_FIRST);
    free rtFree(pointer: Opaque) => pointer, KeyKind::Address;
    free rtsFree(pointer: Opaque) => pointer, KeyKind::Address;
    free rtFreeWithDevSync(pointer: Opaque) => pointer, KeyKind::Address;
    free rtDvppFree(pointer: Opaque) => pointer, KeyKind::Address;
    free rtMemFreeManaged(pointer: Opaque) => pointer, KeyKind::Address;
    free rtFreePhysical(handle: Opaque) => handle, KeyKind::Handle;
    free rtsFreePhysical(handle: Opaque) => handle, KeyKind::Handle;
    free rtMemPoolFreeAsync(pointer: Opaque, stream: Opaque) => pointer, KeyKind::Address;
    info rtMemGetInfo(free: *mut usize, total: *mut usize) => free, total;
    info rtMemGetInfoEx(kind: u32, free: *mut usize, total: *mut usize) => free, total;
    info rtsMemGetInfo(kind: u32, free: *mut usize, total: *mut usize) => free, total;
    components rtGetMemUsageInfo(device: u32, list: Opaque, room: usize, count: *mut usize) => list, room, count, device as i32;
    attach rtSetDevice(device: i32) => ;
    attach rtsSetDevice(device: i32) => ;
    reset rtDeviceReset(device: i32) => device;
    reset rtDeviceResetForce(device: i32) => device;
    reset rtsDeviceReset(device: i32) => device;
    close rtStreamDestroy(stream: Opaque) => ;
    close rtStreamDestroyForce(stream: Opaque) => ;
    close rtStreamBeginCapture(stream: Opaque, mode: i32) => ;
    close rtsStreamDestroy(stream: Opaque, flags: u64) => ;
    launch rtKernelLaunch(stub: *const c_void, blocks: u32, arguments: Opaque, size: u32, descriptor: Opaque, stream: Opaque) => stream;
    launch rtKernelLaunchWithFlag(stub: *const c_void, blocks: u32, arguments: Opaque, descriptor: Opaque, stream: Opaque, flags: u32) => stream;
    launch rtKernelLaunchWithFlagV2(stub: *const c_void, blocks: u32, arguments: Opaque, descriptor: Opaque, stream: Opaque, flags: u32, config: *const c_void) => stream;
    launch rtKernelLaunchWithHandleV2(kernel: Opaque, tiling: u64, blocks: u32, arguments: Opaque, descriptor: Opaque, stream: Opaque, config: *const c_void) => stream;
    launch rtAicpuKernelLaunchWithFlag(names: *const c_void, blocks: u32, arguments: *const c_void, descriptor: Opaque, stream: Opaque, flags: u32) => stream;
    launch rtAicpuKernelLaunchExWithArgs(kind: u32, name: *const c_void, blocks: u32, arguments: *const c_void, descriptor: Opaque, stream: Opaque, flags: u32) => stream;
    launch rtLaunchKernelByFuncHandleV3(function: Opaque, blocks: u32, arguments: *const c_void, stream: Opaque, config: *const c_void) => stream;
    launch rtsLaunchKernelWithConfig(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: Opaque, reserve: Opaque) => stream;
    launch rtsLaunchKernelWithDevArgs(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: *const c_void, size: u32, reserve: Opaque) => stream;
    launch rtsLaunchKernelWithHostArgs(function: Opaque, blocks: u32, stream: Opaque, config: Opaque, arguments: Opaque, size: u32, holders: Opaque, holder_count: u32) => stream;
    graph rtModelExecute(model: Opaque, stream: Opaque, flag: u32) => stream;
    graph rtModelExecuteSync(model: Opaque, stream: Opaque, flag: u32, timeout: i32) => stream;
    graph rtsModelExecute(model: Opaque, timeout: i32) => DEFAULT_STREAM;
    graph rtsModelExecuteAsync(model: Opaque, stream: Opaque) => stream;
}
