//! The vendor's functions behind one face: ACL or runtime names, every way to allocate.

use std::ffi::c_void;
use std::ptr::null_mut;

/// Finds a vendor function by name; null when it is not there.
pub trait Find {
    /// The function's address.
    fn find(&self, name: &str) -> *mut c_void;
}

/// A vendor call that did not return 0.
pub struct Refused {
    pub function: &'static str,
    pub code: i32,
}

/// Free and all bytes.
pub struct Memory {
    pub free: usize,
    pub total: usize,
}

/// The functions, by ACL or by runtime names.
pub struct Api {
    find: Box<dyn Find>,
    runtime: bool,
    device: i32,
    pool: *mut c_void,
    stream: *mut c_void,
}

/// How memory is taken.
pub const KINDS: [&str; 15] = [
    "malloc",
    "align32",
    "cached",
    "cfg",
    "scheduler",
    "managed",
    "physical",
    "pool",
    "rt",
    "rt-cached",
    "rts",
    "rt-alloc",
    "rt-managed",
    "rt-dvpp",
    "rt-physical",
];

macro_rules! call {
    ($api:expr, $name:literal, ($($kind:ty),*), $($value:expr),*) => {{
        let function = $api.find.find($name);
        if function.is_null() {
            Err(Refused { function: concat!($name, " (not there)"), code: -1 })
        } else {
            // SAFETY: the address is the vendor's function of that name, whose signature is the one given here.
            let function: unsafe extern "C" fn($($kind),*) -> i32 = unsafe { std::mem::transmute(function) };
            // SAFETY: the arguments live over the call and are of the types that the function takes.
            match unsafe { function($($value),*) } {
                0 => Ok(()),
                code => Err(Refused { function: $name, code }),
            }
        }
    }};
}

type Out = *mut *mut c_void;

impl Api {
    pub fn new(find: Box<dyn Find>, runtime: bool) -> Self {
        Self { find, runtime, device: 0, pool: null_mut(), stream: null_mut() }
    }

    pub fn init(&self) -> Result<(), Refused> {
        if self.runtime { Ok(()) } else { call!(self, "aclInit", (*const i8), std::ptr::null()) }
    }

    pub fn device_count(&self) -> Result<i32, Refused> {
        let mut count = 0i32;
        if self.runtime {
            call!(self, "rtGetDeviceCount", (*mut i32), &mut count)?;
        } else {
            call!(self, "aclrtGetDeviceCount", (*mut i32), &mut count)?;
        }
        Ok(count)
    }

    pub fn set_device(&mut self, device: i32) -> Result<(), Refused> {
        self.device = device;
        if self.runtime {
            call!(self, "rtSetDevice", (i32), device)
        } else {
            call!(self, "aclrtSetDevice", (i32), device)
        }
    }

    pub fn phys_id(&self, device: i32) -> Result<i32, Refused> {
        let mut phys = -1i32;
        if self.runtime {
            call!(self, "rtGetDevicePhyIdByIndex", (u32, *mut i32), device as u32, &mut phys)?;
        } else {
            let mut logic = -1i32;
            call!(self, "aclrtGetLogicDevIdByUserDevId", (i32, *mut i32), device, &mut logic)?;
            call!(self, "aclrtGetPhyDevIdByLogicDevId", (i32, *mut i32), logic, &mut phys)?;
        }
        Ok(phys)
    }

    pub fn memory(&self) -> Result<Memory, Refused> {
        let mut memory = Memory { free: 0, total: 0 };
        let (free, total) = (&mut memory.free, &mut memory.total);
        // 1 is HBM.
        if self.runtime {
            call!(self, "rtMemGetInfoEx", (u32, *mut usize, *mut usize), 1, free, total)?;
        } else {
            call!(self, "aclrtGetMemInfo", (u32, *mut usize, *mut usize), 1, free, total)?;
        }
        Ok(memory)
    }

    /// Current and greatest bytes of the components on the device.
    pub fn components(&self) -> Result<(u64, u64), Refused> {
        let mut components: [Component; 4] = Default::default();
        let mut count = 0usize;
        let (list, room) = (components.as_mut_ptr(), components.len());
        type L = *mut Component;
        if self.runtime {
            call!(
                self,
                "rtGetMemUsageInfo",
                (u32, L, usize, *mut usize),
                self.device as u32,
                list,
                room,
                &mut count
            )?;
        } else {
            call!(
                self,
                "aclrtGetMemUsageInfo",
                (i32, L, usize, *mut usize),
                self.device,
                list,
                room,
                &mut count
            )?;
        }
        let found = components.iter().take(count);
        Ok(found.fold((0, 0), |(current, peak), c| (current + c.current, peak + c.peak)))
    }

    pub fn allocate(&mut self, kind: &str, bytes: usize) -> Result<*mut c_void, Refused> {
        let mut pointer = null_mut();
        let to: Out = &mut pointer;
        let size = bytes as u64;
        match kind {
            "malloc" => call!(self, "aclrtMalloc", (Out, usize, u32), to, bytes, 0)?,
            "align32" => call!(self, "aclrtMallocAlign32", (Out, usize, u32), to, bytes, 0)?,
            "cached" => call!(self, "aclrtMallocCached", (Out, usize, u32), to, bytes, 0)?,
            "cfg" => {
                call!(self, "aclrtMallocWithCfg", (Out, usize, u32, *mut c_void), to, bytes, 0, null_mut())?;
            }
            "scheduler" => {
                call!(
                    self,
                    "aclrtMallocForTaskScheduler",
                    (Out, usize, u32, *mut c_void),
                    to,
                    bytes,
                    0,
                    null_mut()
                )?;
            }
            "managed" => call!(self, "aclrtMemAllocManaged", (Out, u64, u32), to, size, 0)?,
            "physical" => {
                let properties = AclProperties {
                    // ACL_HBM_MEM_HUGE on a device.
                    handle_type: 0,
                    allocation_type: 0,
                    attribute: 4,
                    location_id: self.device as u32,
                    location_type: 1,
                    reserve: 0,
                };
                call!(
                    self,
                    "aclrtMallocPhysical",
                    (Out, usize, *const AclProperties, u64),
                    to,
                    bytes,
                    &properties,
                    0
                )?;
            }
            "pool" => {
                if self.pool.is_null() {
                    call!(
                        self,
                        "aclrtMemPoolCreate",
                        (Out, *const c_void),
                        &mut self.pool,
                        std::ptr::null()
                    )?;
                    call!(self, "aclrtCreateStream", (Out), &mut self.stream)?;
                }
                let (pool, stream) = (self.pool, self.stream);
                call!(
                    self,
                    "aclrtMemPoolMallocAsync",
                    (Out, usize, *mut c_void, *mut c_void),
                    to,
                    bytes,
                    pool,
                    stream
                )?;
            }
            "rt" => call!(self, "rtMalloc", (Out, u64, u32, u16), to, size, 0, 33)?,
            "rt-cached" => call!(self, "rtMallocCached", (Out, u64, u32, u16), to, size, 0, 33)?,
            "rts" => call!(self, "rtsMalloc", (Out, u64, u32, u32, *mut c_void), to, size, 0, 0, null_mut())?,
            "rt-alloc" => {
                call!(self, "rtMemAlloc", (Out, u64, u32, u32, *mut c_void), to, size, 0, 0, null_mut())?;
            }
            "rt-managed" => call!(self, "rtMemAllocManaged", (Out, u64, u32, u16), to, size, 0, 33)?,
            "rt-dvpp" => call!(self, "rtDvppMalloc", (Out, u64, u16), to, size, 33)?,
            "rt-physical" => {
                let properties = RtProperties {
                    side: 1,
                    device: self.device as u32,
                    module: 33,
                    page_type: 1,
                    memory_type: 0,
                    reserve: 0,
                };
                call!(
                    self,
                    "rtMallocPhysical",
                    (Out, usize, *const RtProperties, u64),
                    to,
                    bytes,
                    &properties,
                    0
                )?;
            }
            _ => return Err(Refused { function: "unknown kind of allocation", code: -1 }),
        }
        Ok(pointer)
    }

    pub fn free(&self, kind: &str, pointer: *mut c_void) -> Result<(), Refused> {
        match kind {
            "physical" => call!(self, "aclrtFreePhysical", (*mut c_void), pointer),
            "pool" => {
                call!(self, "aclrtMemPoolFreeAsync", (*mut c_void, *mut c_void), pointer, self.stream)
            }
            "rt-physical" => call!(self, "rtFreePhysical", (*mut c_void), pointer),
            "rt-dvpp" => call!(self, "rtDvppFree", (*mut c_void), pointer),
            kind if kind.starts_with("rt") => call!(self, "rtFree", (*mut c_void), pointer),
            _ => call!(self, "aclrtFree", (*mut c_void), pointer),
        }
    }

    /// Puts a kernel that takes so long into the stream. In the stand-in runtime a function handle is a duration.
    pub fn launch(&mut self, nanos: u64) -> Result<(), Refused> {
        let function = nanos as usize as *mut c_void;
        let nothing = null_mut();
        if self.stream.is_null() {
            if self.runtime {
                call!(self, "rtStreamCreate", (Out, i32), &mut self.stream, 0)?;
            } else {
                call!(self, "aclrtCreateStream", (Out), &mut self.stream)?;
            }
        }
        let stream = self.stream;
        type P = *mut c_void;
        if self.runtime {
            call!(
                self,
                "rtLaunchKernelByFuncHandleV3",
                (P, u32, P, P, P),
                function,
                1,
                nothing,
                stream,
                nothing
            )
        } else {
            call!(self, "aclrtLaunchKernel", (P, u32, P, usize, P), function, 1, nothing, 0, stream)
        }
    }

    /// A thread that launches such kernels into a stream of its own.
    fn launcher(&self, launches: u64, nanos: u64) -> std::thread::JoinHandle<()> {
        let device = self.device;
        let names = if self.runtime {
            ["rtSetDevice", "rtStreamCreate", "rtLaunchKernelByFuncHandleV3"]
        } else {
            ["aclrtSetDevice", "aclrtCreateStream", "aclrtLaunchKernel"]
        };
        let [set_device, create, launch] = names.map(|name| self.find.find(name) as usize);
        let runtime = self.runtime;
        std::thread::spawn(move || {
            type P = *mut c_void;
            let (mut stream, function, nothing) = (null_mut(), nanos as usize as P, null_mut());
            // SAFETY: the vendor's functions of these names, with pointers to what they take.
            unsafe {
                std::mem::transmute::<usize, unsafe extern "C" fn(i32) -> i32>(set_device)(device);
                // The priority is not looked at by the one that takes none.
                std::mem::transmute::<usize, unsafe extern "C" fn(Out, i32) -> i32>(create)(&mut stream, 0);
                for _ in 0..launches {
                    if runtime {
                        type Launch = unsafe extern "C" fn(P, u32, P, P, P) -> i32;
                        std::mem::transmute::<usize, Launch>(launch)(function, 1, nothing, stream, nothing);
                    } else {
                        type Launch = unsafe extern "C" fn(P, u32, P, usize, P) -> i32;
                        std::mem::transmute::<usize, Launch>(launch)(function, 1, nothing, 0, stream);
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        })
    }

    /// Records `launches` kernels into a graph while another thread launches some, too, executes it so many times,
    /// and waits.
    pub fn graph(&mut self, launches: u64, nanos: u64, times: u64) -> Result<(), Refused> {
        // Makes the stream.
        self.launch(nanos)?;
        let stream = self.stream;
        let mut model = null_mut();
        type P = *mut c_void;
        if self.runtime {
            call!(self, "rtStreamBeginCapture", (P, u32), stream, 0)?;
        } else {
            call!(self, "aclmdlRICaptureBegin", (P, u32), stream, 0)?;
        }
        let other = self.launcher(launches, nanos);
        for _ in 0..launches {
            self.launch(nanos)?;
            // As a program does that compiles while it records.
            std::thread::sleep(PAUSE);
        }
        let _ = other.join();
        if self.runtime {
            call!(self, "rtStreamEndCapture", (P, Out), stream, &mut model)?;
        } else {
            call!(self, "aclmdlRICaptureEnd", (P, Out), stream, &mut model)?;
        }
        for _ in 0..times {
            if self.runtime {
                call!(self, "rtsModelExecuteAsync", (P, P), model, stream)?;
            } else {
                call!(self, "aclmdlRIExecuteAsync", (P, P), model, stream)?;
            }
        }
        self.synchronize()
    }

    /// Records a graph while another thread, in capture mode `mode`, asks about an event.
    pub fn watched(&mut self, nanos: u64, mode: u32) -> Result<(), Refused> {
        // Makes the stream.
        self.launch(nanos)?;
        self.synchronize()?;
        let (stream, device) = (self.stream, self.device);
        let mut event = null_mut();
        type P = *mut c_void;
        let names = if self.runtime {
            call!(self, "rtEventCreateWithFlag", (Out, u32), &mut event, 8)?;
            call!(self, "rtStreamBeginCapture", (P, u32), stream, 0)?;
            ["rtSetDevice", "rtThreadExchangeCaptureMode", "rtEventQueryStatus"]
        } else {
            call!(self, "aclrtCreateEventWithFlag", (Out, u32), &mut event, 8)?;
            call!(self, "aclmdlRICaptureBegin", (P, u32), stream, 0)?;
            ["aclrtSetDevice", "aclmdlRICaptureThreadExchangeMode", "aclrtQueryEventStatus"]
        };
        let found = names.map(|name| self.find.find(name) as usize);
        let event = event as usize;
        let watcher = std::thread::spawn(move || {
            let [set_device, exchange, query] = found;
            type SetDevice = unsafe extern "C" fn(i32) -> i32;
            type Exchange = unsafe extern "C" fn(*mut u32) -> i32;
            type Query = unsafe extern "C" fn(*mut c_void, *mut u32) -> i32;
            let (mut mode, mut status) = (mode, 0);
            // SAFETY: the vendor's functions of these names, with pointers to what they take.
            unsafe {
                std::mem::transmute::<usize, SetDevice>(set_device)(device);
                std::mem::transmute::<usize, Exchange>(exchange)(&mut mode);
                std::mem::transmute::<usize, Query>(query)(event as *mut c_void, &mut status)
            };
        });
        let _ = watcher.join();
        self.launch(nanos)?;
        let mut model = null_mut();
        if self.runtime {
            call!(self, "rtStreamEndCapture", (P, Out), stream, &mut model)
        } else {
            call!(self, "aclmdlRICaptureEnd", (P, Out), stream, &mut model)
        }
    }

    /// Waits for all that was launched.
    pub fn synchronize(&mut self) -> Result<(), Refused> {
        let stream = self.stream;
        if self.runtime {
            call!(self, "rtStreamSynchronize", (*mut c_void), stream)
        } else {
            call!(self, "aclrtSynchronizeStream", (*mut c_void), stream)
        }
    }
}

/// Between two launches of a program that has something else to do.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// `aclrtMemUsageInfo`.
#[repr(C)]
#[derive(Default)]
struct Component {
    name: [u8; 32],
    current: u64,
    peak: u64,
    reserved: [usize; 8],
}

/// `aclrtPhysicalMemProp`.
#[repr(C)]
struct AclProperties {
    handle_type: u32,
    allocation_type: u32,
    attribute: u32,
    location_id: u32,
    location_type: u32,
    reserve: u64,
}

/// `rtDrvMemProp_t`.
#[repr(C)]
struct RtProperties {
    side: u32,
    device: u32,
    module: u32,
    page_type: u32,
    memory_type: u32,
    reserve: u64,
}
