//! What the accounting of memory asks the CUDA driver, past our own hooks.

use std::ffi::{CStr, c_void};

use vnpu_quota_abi::table::FrontTable;

use crate::chips::resolve;
use crate::cuda_contexts::CudaContexts;
use crate::process::Process;

type GetDevice = unsafe extern "C" fn(*mut i32) -> i32;
type StreamDevice = unsafe extern "C" fn(*mut c_void, *mut i32) -> i32;
type CaptureInfo = unsafe extern "C" fn(
    *mut c_void,
    *mut i32,
    *mut u64,
    *mut *mut c_void,
    *mut *const c_void,
    *mut usize,
) -> i32;
type GraphAttribute = unsafe extern "C" fn(i32, i32, *mut u64) -> i32;
type PoolOfDevice = unsafe extern "C" fn(*mut *mut c_void, i32) -> i32;
type PoolAttribute = unsafe extern "C" fn(*mut c_void, i32, *mut u64) -> i32;
type PoolTrim = unsafe extern "C" fn(*mut c_void, usize) -> i32;
type GraphTrim = unsafe extern "C" fn(i32) -> i32;
type GetState = unsafe extern "C" fn(i32, *mut u32, *mut i32) -> i32;

/// The functions; `None` where the driver is older than one.
pub(crate) struct Driver {
    contexts: CudaContexts,
    primary_state: Option<GetState>,
    stream_device: Option<StreamDevice>,
    device: GetDevice,
    capture_info: Option<CaptureInfo>,
    graph_attribute: Option<GraphAttribute>,
    graph_trim: Option<GraphTrim>,
    pool_of_device: Option<PoolOfDevice>,
    pool_attribute: Option<PoolAttribute>,
    pool_trim: Option<PoolTrim>,
}

/// `CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT`.
const RESERVED_BY_POOL: i32 = 5;

/// `CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT`.
const RESERVED_FOR_GRAPHS: i32 = 2;

impl Driver {
    fn find(front: &FrontTable) -> Option<Self> {
        let find = |name: &CStr| resolve(front, &[name]);
        let contexts = CudaContexts::find(front)?;
        let device = find(c"cuCtxGetDevice")?;
        // SAFETY: functions of these names have these C types (cuda.h; a CUdevice is an int).
        unsafe {
            Some(Self {
                contexts,
                primary_state: find(c"cuDevicePrimaryCtxGetState")
                    .map(|f| std::mem::transmute::<*mut c_void, GetState>(f)),
                // Since CUDA 12.8; before, its context is asked for.
                stream_device: find(c"cuStreamGetDevice")
                    .map(|f| std::mem::transmute::<*mut c_void, StreamDevice>(f)),
                device: std::mem::transmute::<*mut c_void, GetDevice>(device),
                // Since CUDA 11.3 and 11.4, as memory of graphs itself.
                capture_info: find(c"cuStreamGetCaptureInfo_v2")
                    .map(|f| std::mem::transmute::<*mut c_void, CaptureInfo>(f)),
                graph_attribute: find(c"cuDeviceGetGraphMemAttribute")
                    .map(|f| std::mem::transmute::<*mut c_void, GraphAttribute>(f)),
                graph_trim: find(c"cuDeviceGraphMemTrim")
                    .map(|f| std::mem::transmute::<*mut c_void, GraphTrim>(f)),
                // Since CUDA 11.2, as pools themselves.
                pool_of_device: find(c"cuDeviceGetMemPool")
                    .map(|f| std::mem::transmute::<*mut c_void, PoolOfDevice>(f)),
                pool_attribute: find(c"cuMemPoolGetAttribute")
                    .map(|f| std::mem::transmute::<*mut c_void, PoolAttribute>(f)),
                pool_trim: find(c"cuMemPoolTrimTo").map(|f| std::mem::transmute::<*mut c_void, PoolTrim>(f)),
            })
        }
    }

    /// The calling thread's context.
    pub(crate) fn current_context(&self) -> Option<u64> {
        self.contexts.current().map(|context| context as u64)
    }

    /// The calling thread's device.
    pub(crate) fn current_device(&self) -> Option<i32> {
        let mut device = -1;
        // SAFETY: the vendor's function with a valid pointer.
        let code = unsafe { (self.device)(&raw mut device) };
        (code == 0 && device >= 0).then_some(device)
    }

    /// The graph that a stream in capture becomes.
    pub(crate) fn captured_graph(&self, stream: u64) -> Option<u64> {
        let (mut status, mut number, mut graph) = (0, 0, std::ptr::null_mut());
        let none = std::ptr::null_mut::<c_void>();
        // SAFETY: the program's own stream, valid pointers, and null for what is not asked.
        let code = unsafe {
            (self.capture_info?)(
                stream as *mut c_void,
                &raw mut status,
                &raw mut number,
                &raw mut graph,
                none.cast(),
                none.cast(),
            )
        };
        (code == 0 && status == 1).then_some(graph as u64)
    }

    /// Bytes that the driver keeps for graphs on a device.
    pub(crate) fn kept_for_graphs(&self, device: i32) -> Option<u64> {
        let mut bytes = 0;
        // SAFETY: a valid pointer to a number of 64 bits, as this attribute is.
        let code = unsafe { (self.graph_attribute?)(device, RESERVED_FOR_GRAPHS, &raw mut bytes) };
        (code == 0).then_some(bytes)
    }

    /// The pool that a device gives memory of in stream order.
    pub(crate) fn pool_of_device(&self, device: i32) -> Option<u64> {
        let mut pool = std::ptr::null_mut();
        // SAFETY: the vendor's function with a valid pointer.
        let code = unsafe { (self.pool_of_device?)(&raw mut pool, device) };
        (code == 0 && !pool.is_null()).then_some(pool as u64)
    }

    /// Bytes that a pool has of its device.
    pub(crate) fn reserved_by_pool(&self, pool: u64) -> Option<u64> {
        let mut bytes = 0;
        let pool = pool as *mut c_void;
        // SAFETY: a pool that is there, and a valid pointer to a number of 64 bits, as this attribute is.
        let code = unsafe { (self.pool_attribute?)(pool, RESERVED_BY_POOL, &raw mut bytes) };
        (code == 0).then_some(bytes)
    }

    /// Has a pool give back what is not in use.
    pub(crate) fn trim_pool(&self, pool: u64) {
        if let Some(trim) = self.pool_trim {
            // SAFETY: a pool that is there.
            let _ = unsafe { trim(pool as *mut c_void, 0) };
        }
    }

    /// Has it give back what none of them needs.
    pub(crate) fn trim_graphs(&self, device: i32) {
        if let Some(trim) = self.graph_trim {
            // SAFETY: the vendor's function.
            let _ = unsafe { trim(device) };
        }
    }

    /// The device of a stream that the program made.
    pub(crate) fn device_of_stream(&self, stream: u64) -> Option<i32> {
        let stream = stream as *mut c_void;
        if let Some(ask) = self.stream_device {
            let mut device = -1;
            // SAFETY: the program's own stream and a valid pointer.
            let code = unsafe { ask(stream, &raw mut device) };
            return (code == 0 && device >= 0).then_some(device);
        }
        // Only of the current context it can be asked (before CUDA 13).
        let _entered = self.contexts.enter(self.contexts.of_stream(stream)?)?;
        self.current_device()
    }

    /// Whether a device has its primary context now.
    pub(crate) fn has_primary(&self, device: i32) -> Option<bool> {
        let (mut flags, mut active) = (0, 0);
        // SAFETY: as above.
        let code = unsafe { (self.primary_state?)(device, &raw mut flags, &raw mut active) };
        (code == 0).then_some(active != 0)
    }
}

impl Process {
    /// The driver; `None` while it is not loaded.
    pub(crate) fn driver(&self) -> Option<&Driver> {
        if let Some(driver) = self.driver.get() {
            return Some(driver);
        }
        let found = Driver::find(self.front)?;
        Some(self.driver.get_or_init(|| found))
    }
}
