//! `cuGetProcAddress`: which function a name means for a program of some CUDA version. The versions are those of the
//! vendor's `cudaTypedefs.h` of CUDA 13.

use std::ffi::{CStr, c_char, c_int, c_void};

use standin_protocol::UnknownSymbols;

use crate::array::*;
use crate::capture::*;
use crate::context::*;
use crate::copy::*;
use crate::device::*;
use crate::event::*;
use crate::graph::*;
use crate::graph_memory::*;
use crate::launch::*;
use crate::memory::*;
use crate::module::*;
use crate::pool::*;
use crate::process::driver;
use crate::sharing::*;
use crate::sparse::*;
use crate::status::*;
use crate::stream::*;
use crate::virtual_memory::*;

/// A function, the CUDA version that brought it, and whether its default stream is the thread's.
struct Entry {
    name: &'static str,
    since: c_int,
    per_thread: bool,
    address: usize,
}

/// `CUdriverProcAddressQueryResult`.
const FOUND: c_int = 0;
const SYMBOL_NOT_FOUND: c_int = 1;
const VERSION_NOT_SUFFICIENT: c_int = 2;

/// `CU_GET_PROC_ADDRESS_LEGACY_STREAM` and `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const LEGACY_STREAM: u64 = 1;
const PER_THREAD_STREAM: u64 = 2;

macro_rules! entries {
    ($($name:ident: $($since:literal $function:ident),* $(| $($thread_since:literal $thread_function:ident),*)?;)*) => {
        fn entries() -> Vec<Entry> {
            vec![$(
                $(Entry {
                    name: stringify!($name),
                    since: $since,
                    per_thread: false,
                    address: $function as *const () as usize,
                },)*
                $($(Entry {
                    name: stringify!($name),
                    since: $thread_since,
                    per_thread: true,
                    address: $thread_function as *const () as usize,
                },)*)?
            )*]
        }
    };
}

entries! {
    cuArray3DCreate: 2000 cuArray3DCreate, 3020 cuArray3DCreate_v2;
    cuArrayCreate: 2000 cuArrayCreate, 3020 cuArrayCreate_v2;
    cuArrayDestroy: 2000 cuArrayDestroy;
    cuCtxCreate: 2000 cuCtxCreate, 3020 cuCtxCreate_v2, 11040 cuCtxCreate_v3, 12050 cuCtxCreate_v4;
    cuCtxDestroy: 2000 cuCtxDestroy, 4000 cuCtxDestroy_v2;
    cuCtxDisablePeerAccess: 4000 cuCtxDisablePeerAccess;
    cuCtxEnablePeerAccess: 4000 cuCtxEnablePeerAccess;
    cuCtxGetApiVersion: 3020 cuCtxGetApiVersion;
    cuCtxGetCurrent: 4000 cuCtxGetCurrent;
    cuCtxGetDevice: 2000 cuCtxGetDevice, 13000 cuCtxGetDevice_v2;
    cuCtxGetFlags: 7000 cuCtxGetFlags;
    cuCtxGetStreamPriorityRange: 5050 cuCtxGetStreamPriorityRange;
    cuCtxPopCurrent: 2000 cuCtxPopCurrent, 4000 cuCtxPopCurrent_v2;
    cuCtxPushCurrent: 2000 cuCtxPushCurrent, 4000 cuCtxPushCurrent_v2;
    cuCtxSetCurrent: 4000 cuCtxSetCurrent;
    cuCtxSetLimit: 3010 cuCtxSetLimit;
    cuCtxSynchronize: 2000 cuCtxSynchronize, 13000 cuCtxSynchronize_v2;
    cuDeviceCanAccessPeer: 4000 cuDeviceCanAccessPeer;
    cuDeviceComputeCapability: 2000 cuDeviceComputeCapability;
    cuDeviceGet: 2000 cuDeviceGet;
    cuDeviceGetAttribute: 2000 cuDeviceGetAttribute;
    cuDeviceGetCount: 2000 cuDeviceGetCount;
    cuDeviceGetDefaultMemPool: 11020 cuDeviceGetDefaultMemPool;
    cuDeviceGetGraphMemAttribute: 11040 cuDeviceGetGraphMemAttribute;
    cuDeviceGetMemPool: 11020 cuDeviceGetMemPool;
    cuDeviceGetName: 2000 cuDeviceGetName;
    cuDeviceGetPCIBusId: 4010 cuDeviceGetPCIBusId;
    cuDeviceGetUuid: 9020 cuDeviceGetUuid, 11040 cuDeviceGetUuid_v2;
    cuDeviceGraphMemTrim: 11040 cuDeviceGraphMemTrim;
    cuDevicePrimaryCtxGetState: 7000 cuDevicePrimaryCtxGetState;
    cuDevicePrimaryCtxRelease: 7000 cuDevicePrimaryCtxRelease, 11000 cuDevicePrimaryCtxRelease_v2;
    cuDevicePrimaryCtxReset: 7000 cuDevicePrimaryCtxReset, 11000 cuDevicePrimaryCtxReset_v2;
    cuDevicePrimaryCtxRetain: 7000 cuDevicePrimaryCtxRetain;
    cuDevicePrimaryCtxSetFlags: 7000 cuDevicePrimaryCtxSetFlags, 11000 cuDevicePrimaryCtxSetFlags_v2;
    cuDeviceSetMemPool: 11020 cuDeviceSetMemPool;
    cuDeviceTotalMem: 2000 cuDeviceTotalMem, 3020 cuDeviceTotalMem_v2;
    cuDriverGetVersion: 2020 cuDriverGetVersion;
    cuEventCreate: 2000 cuEventCreate;
    cuEventDestroy: 2000 cuEventDestroy, 4000 cuEventDestroy_v2;
    cuEventElapsedTime: 2000 cuEventElapsedTime, 12080 cuEventElapsedTime_v2;
    cuEventQuery: 2000 cuEventQuery;
    cuEventRecord: 2000 cuEventRecord | 7000 cuEventRecord_ptsz;
    cuEventRecordWithFlags: 11010 cuEventRecordWithFlags | 11010 cuEventRecordWithFlags_ptsz;
    cuEventSynchronize: 2000 cuEventSynchronize;
    cuFuncGetAttribute: 2020 cuFuncGetAttribute;
    cuFuncSetAttribute: 9000 cuFuncSetAttribute;
    cuGetErrorName: 6000 cuGetErrorName;
    cuGetErrorString: 6000 cuGetErrorString;
    cuGetProcAddress: 11030 cuGetProcAddress, 12000 cuGetProcAddress_v2;
    cuGraphAddKernelNode: 10000 cuGraphAddKernelNode, 12000 cuGraphAddKernelNode_v2;
    cuGraphAddMemAllocNode: 11040 cuGraphAddMemAllocNode;
    cuGraphAddMemFreeNode: 11040 cuGraphAddMemFreeNode;
    cuGraphAddNode: 12020 cuGraphAddNode, 12030 cuGraphAddNode_v2, 13040 cuGraphAddNode_v3;
    cuGraphCreate: 10000 cuGraphCreate;
    cuGraphDestroy: 10000 cuGraphDestroy;
    cuGraphExecDestroy: 10000 cuGraphExecDestroy;
    cuGraphExecUpdate: 10020 cuGraphExecUpdate, 12000 cuGraphExecUpdate_v2;
    cuGraphGetNodes: 10000 cuGraphGetNodes;
    cuGraphInstantiate: 10000 cuGraphInstantiate, 11000 cuGraphInstantiate_v2;
    cuGraphInstantiateWithFlags: 11040 cuGraphInstantiateWithFlags;
    cuGraphInstantiateWithParams: 12000 cuGraphInstantiateWithParams
        | 12000 cuGraphInstantiateWithParams_ptsz;
    cuGraphLaunch: 10000 cuGraphLaunch | 10000 cuGraphLaunch_ptsz;
    cuGraphUpload: 11010 cuGraphUpload | 11010 cuGraphUpload_ptsz;
    cuInit: 2000 cuInit;
    cuIpcCloseMemHandle: 4010 cuIpcCloseMemHandle;
    cuIpcGetMemHandle: 4010 cuIpcGetMemHandle;
    cuIpcOpenMemHandle: 4010 cuIpcOpenMemHandle, 11000 cuIpcOpenMemHandle_v2;
    cuKernelGetFunction: 12000 cuKernelGetFunction;
    cuLaunch: 2000 cuLaunch;
    cuLaunchCooperativeKernel: 9000 cuLaunchCooperativeKernel | 9000 cuLaunchCooperativeKernel_ptsz;
    cuLaunchCooperativeKernelMultiDevice: 9000 cuLaunchCooperativeKernelMultiDevice;
    cuLaunchGrid: 2000 cuLaunchGrid;
    cuLaunchGridAsync: 2000 cuLaunchGridAsync;
    cuLaunchHostFunc: 10000 cuLaunchHostFunc | 10000 cuLaunchHostFunc_ptsz;
    cuLaunchKernel: 4000 cuLaunchKernel | 7000 cuLaunchKernel_ptsz;
    cuLaunchKernelEx: 11060 cuLaunchKernelEx | 11060 cuLaunchKernelEx_ptsz;
    cuLibraryGetKernel: 12000 cuLibraryGetKernel;
    cuLibraryGetModule: 12000 cuLibraryGetModule;
    cuLibraryLoadData: 12000 cuLibraryLoadData;
    cuLibraryLoadFromFile: 12000 cuLibraryLoadFromFile;
    cuLibraryUnload: 12000 cuLibraryUnload;
    cuMemAddressFree: 10020 cuMemAddressFree;
    cuMemAddressReserve: 10020 cuMemAddressReserve;
    cuMemAdvise: 8000 cuMemAdvise;
    cuMemAlloc: 2000 cuMemAlloc, 3020 cuMemAlloc_v2;
    cuMemAllocAsync: 11020 cuMemAllocAsync | 11020 cuMemAllocAsync_ptsz;
    cuMemAllocFromPoolAsync: 11020 cuMemAllocFromPoolAsync | 11020 cuMemAllocFromPoolAsync_ptsz;
    cuMemAllocHost: 3020 cuMemAllocHost_v2;
    cuMemAllocManaged: 6000 cuMemAllocManaged;
    cuMemAllocPitch: 3020 cuMemAllocPitch_v2;
    cuMemCreate: 10020 cuMemCreate;
    cuMemExportToShareableHandle: 10020 cuMemExportToShareableHandle;
    cuMemFree: 2000 cuMemFree, 3020 cuMemFree_v2;
    cuMemFreeAsync: 11020 cuMemFreeAsync | 11020 cuMemFreeAsync_ptsz;
    cuMemFreeHost: 2000 cuMemFreeHost;
    cuMemGetAccess: 10020 cuMemGetAccess;
    cuMemGetAddressRange: 3020 cuMemGetAddressRange_v2;
    cuMemGetAllocationGranularity: 10020 cuMemGetAllocationGranularity;
    cuMemGetAllocationPropertiesFromHandle: 10020 cuMemGetAllocationPropertiesFromHandle;
    cuMemGetInfo: 2000 cuMemGetInfo, 3020 cuMemGetInfo_v2;
    cuMemHostAlloc: 2020 cuMemHostAlloc;
    cuMemHostGetDevicePointer: 3020 cuMemHostGetDevicePointer_v2;
    cuMemHostRegister: 6050 cuMemHostRegister_v2;
    cuMemHostUnregister: 4000 cuMemHostUnregister;
    cuMemImportFromShareableHandle: 10020 cuMemImportFromShareableHandle;
    cuMemMap: 10020 cuMemMap;
    cuMemMapArrayAsync: 11010 cuMemMapArrayAsync | 11010 cuMemMapArrayAsync_ptsz;
    cuMemPoolCreate: 11020 cuMemPoolCreate;
    cuMemPoolDestroy: 11020 cuMemPoolDestroy;
    cuMemPoolGetAttribute: 11020 cuMemPoolGetAttribute;
    cuMemPoolSetAccess: 11020 cuMemPoolSetAccess;
    cuMemPoolSetAttribute: 11020 cuMemPoolSetAttribute;
    cuMemPoolTrimTo: 11020 cuMemPoolTrimTo;
    cuMemPrefetchAsync: 8000 cuMemPrefetchAsync, 12020 cuMemPrefetchAsync_v2;
    cuMemRelease: 10020 cuMemRelease;
    cuMemRetainAllocationHandle: 11000 cuMemRetainAllocationHandle;
    cuMemSetAccess: 10020 cuMemSetAccess;
    cuMemUnmap: 10020 cuMemUnmap;
    cuMemcpy: 4000 cuMemcpy | 7000 cuMemcpy_ptds;
    cuMemcpyAsync: 4000 cuMemcpyAsync | 7000 cuMemcpyAsync_ptsz;
    cuMemcpyDtoD: 3020 cuMemcpyDtoD_v2 | 7000 cuMemcpyDtoD_v2_ptds;
    cuMemcpyDtoDAsync: 3020 cuMemcpyDtoDAsync_v2 | 7000 cuMemcpyDtoDAsync_v2_ptsz;
    cuMemcpyDtoH: 3020 cuMemcpyDtoH_v2 | 7000 cuMemcpyDtoH_v2_ptds;
    cuMemcpyDtoHAsync: 3020 cuMemcpyDtoHAsync_v2 | 7000 cuMemcpyDtoHAsync_v2_ptsz;
    cuMemcpyHtoD: 3020 cuMemcpyHtoD_v2 | 7000 cuMemcpyHtoD_v2_ptds;
    cuMemcpyHtoDAsync: 3020 cuMemcpyHtoDAsync_v2 | 7000 cuMemcpyHtoDAsync_v2_ptsz;
    cuMemsetD16: 3020 cuMemsetD16_v2 | 7000 cuMemsetD16_v2_ptds;
    cuMemsetD16Async: 3020 cuMemsetD16Async | 7000 cuMemsetD16Async_ptsz;
    cuMemsetD32: 3020 cuMemsetD32_v2 | 7000 cuMemsetD32_v2_ptds;
    cuMemsetD32Async: 3020 cuMemsetD32Async | 7000 cuMemsetD32Async_ptsz;
    cuMemsetD8: 3020 cuMemsetD8_v2 | 7000 cuMemsetD8_v2_ptds;
    cuMemsetD8Async: 3020 cuMemsetD8Async | 7000 cuMemsetD8Async_ptsz;
    cuMipmappedArrayCreate: 5000 cuMipmappedArrayCreate;
    cuMipmappedArrayDestroy: 5000 cuMipmappedArrayDestroy;
    cuModuleGetFunction: 2000 cuModuleGetFunction;
    cuModuleGetGlobal: 3020 cuModuleGetGlobal_v2;
    cuModuleGetLoadingMode: 11070 cuModuleGetLoadingMode;
    cuModuleLoad: 2000 cuModuleLoad;
    cuModuleLoadData: 2000 cuModuleLoadData;
    cuModuleLoadDataEx: 2010 cuModuleLoadDataEx;
    cuModuleLoadFatBinary: 2000 cuModuleLoadFatBinary;
    cuModuleUnload: 2000 cuModuleUnload;
    cuPointerGetAttribute: 4000 cuPointerGetAttribute;
    cuStreamBeginCapture: 10000 cuStreamBeginCapture, 10010 cuStreamBeginCapture_v2
        | 10000 cuStreamBeginCapture_ptsz, 10010 cuStreamBeginCapture_v2_ptsz;
    cuStreamBeginCaptureToGraph: 12030 cuStreamBeginCaptureToGraph | 12030 cuStreamBeginCaptureToGraph_ptsz;
    cuStreamBeginRecaptureToGraph: 13030 cuStreamBeginRecaptureToGraph | 13030 cuStreamBeginRecaptureToGraph_ptsz;
    cuStreamCreate: 2000 cuStreamCreate;
    cuStreamCreateWithPriority: 5050 cuStreamCreateWithPriority;
    cuStreamDestroy: 2000 cuStreamDestroy, 4000 cuStreamDestroy_v2;
    cuStreamEndCapture: 10000 cuStreamEndCapture | 10000 cuStreamEndCapture_ptsz;
    cuStreamGetCaptureInfo: 10010 cuStreamGetCaptureInfo, 11030 cuStreamGetCaptureInfo_v2, 12030 cuStreamGetCaptureInfo_v3
        | 10010 cuStreamGetCaptureInfo_ptsz, 11030 cuStreamGetCaptureInfo_v2_ptsz, 12030 cuStreamGetCaptureInfo_v3_ptsz;
    cuStreamGetCtx: 9020 cuStreamGetCtx | 9020 cuStreamGetCtx_ptsz;
    cuStreamGetDevice: 12080 cuStreamGetDevice | 12080 cuStreamGetDevice_ptsz;
    cuStreamGetFlags: 5050 cuStreamGetFlags | 7000 cuStreamGetFlags_ptsz;
    cuStreamGetPriority: 5050 cuStreamGetPriority | 7000 cuStreamGetPriority_ptsz;
    cuStreamIsCapturing: 10000 cuStreamIsCapturing | 10000 cuStreamIsCapturing_ptsz;
    cuStreamQuery: 2000 cuStreamQuery | 7000 cuStreamQuery_ptsz;
    cuStreamSynchronize: 2000 cuStreamSynchronize | 7000 cuStreamSynchronize_ptsz;
    cuStreamWaitEvent: 3020 cuStreamWaitEvent | 7000 cuStreamWaitEvent_ptsz;
    cuThreadExchangeStreamCaptureMode: 10010 cuThreadExchangeStreamCaptureMode;
}

/// The newest function of the name that a program of this version knows.
fn find(name: &str, version: c_int, per_thread: bool) -> Result<usize, c_int> {
    static ENTRIES: std::sync::OnceLock<Vec<Entry>> = std::sync::OnceLock::new();
    let named: Vec<&Entry> = ENTRIES.get_or_init(entries).iter().filter(|entry| entry.name == name).collect();
    let newest = |per_thread: bool| {
        named
            .iter()
            .filter(|entry| entry.per_thread == per_thread && entry.since <= version)
            .max_by_key(|entry| entry.since)
            .map(|entry| entry.address)
    };
    let found = if per_thread { newest(true).or_else(|| newest(false)) } else { newest(false) };
    found.ok_or(if named.is_empty() { SYMBOL_NOT_FOUND } else { VERSION_NOT_SUFFICIENT })
}

/// # Safety
/// A NUL-terminated name and the caller's out-pointers, of which the status may be null.
unsafe fn look_up(
    symbol: *const c_char,
    function: *mut *mut c_void,
    version: c_int,
    flags: u64,
    status: *mut c_int,
) -> Answer<()> {
    let driver = driver()?;
    let known_flags = [0, LEGACY_STREAM, PER_THREAD_STREAM].contains(&flags);
    if symbol.is_null() || function.is_null() || !known_flags || version > driver.cuda_version {
        return Err(INVALID_VALUE);
    }
    // SAFETY: not null, and the caller promises the rest.
    let name = unsafe { CStr::from_ptr(symbol) }.to_str().unwrap_or_default();
    let found = find(name, version, flags == PER_THREAD_STREAM);
    // SAFETY: the caller's out-pointers.
    unsafe {
        put(function, found.unwrap_or(0) as *mut c_void)?;
        put_if(status, found.err().unwrap_or(FOUND));
    }
    match (found, driver.unknown_symbols) {
        (Err(_), UnknownSymbols::NotFound) => Err(NOT_FOUND),
        _ => Ok(()),
    }
}

/// CUDA 11.3: without a status.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(
    symbol: *const c_char,
    function: *mut *mut c_void,
    version: c_int,
    flags: u64,
) -> c_int {
    // SAFETY: same contract.
    code(unsafe { look_up(symbol, function, version, flags, std::ptr::null_mut()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    symbol: *const c_char,
    function: *mut *mut c_void,
    version: c_int,
    flags: u64,
    status: *mut c_int,
) -> c_int {
    // SAFETY: same contract.
    code(unsafe { look_up(symbol, function, version, flags, status) })
}
