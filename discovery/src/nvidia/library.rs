//! `libnvidia-ml.so.1`, loaded: the calls that discovery makes, through `nvml-wrapper`, and through the bare functions
//! of its header where that covers nothing.
//!
//! # Safety
//! The bare calls below rest on one argument. The functions were looked up by their names and have the types of the
//! vendor's header (`nvml-wrapper-sys`, generated from it); the library stays loaded for ever. Handles come from the
//! same initialisation of the library that they are used in: a [`Library`] is one initialisation, and after
//! [`Library::shut_down`] it makes no call any more. Out-pointers are to initialised locals, which live until the
//! call returns: a call that never returns keeps its thread's stack alive.
//!
//! # Thread-safety
//! NVML may be called from any thread. `worker.rs` makes one call at a time, except that a call which hangs is left
//! behind while others go on; the library is not shut down while one hangs. Events are waited for beside them, on a
//! thread of their own, and a set of events is used by that thread alone.

use std::ffi::{c_uint, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use libloading::os::unix::{Library as Loaded, RTLD_LAZY, RTLD_LOCAL};
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::{PciInfo, ProcessInfo};
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    NVML_GPU_INSTANCE_PROFILE_4_SLICE, NVML_GPU_INSTANCE_PROFILE_7_SLICE, NVML_GPU_INSTANCE_PROFILE_8_SLICE,
    NVML_NVLINK_MAX_LINKS, NvmlLib, nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlMemory_t,
};
use vnpu_driver::hardware::PciAddress;

use super::links::HIDDEN_SWITCH;
use crate::error::{DiscoveryError, VendorLibrary};
use crate::stamp::unknown_path;

/// What a call returned instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// `nvmlReturn_t`, not 0.
    Code(i32),
    /// This library has no such function.
    Absent,
    /// An answer that is no text.
    Garbled,
}

pub(crate) type Answer<T> = Result<T, Refusal>;

/// Codes of `nvmlReturn_t` that mean something to discovery.
pub(crate) mod code {
    pub(crate) const UNINITIALIZED: i32 = 1;
    pub(crate) const INVALID_ARGUMENT: i32 = 2;
    pub(crate) const NOT_SUPPORTED: i32 = 3;
    pub(crate) const NOT_FOUND: i32 = 6;
    pub(crate) const DRIVER_NOT_LOADED: i32 = 9;
    pub(crate) const TIMEOUT: i32 = 10;
    pub(crate) const FUNCTION_NOT_FOUND: i32 = 13;
    pub(crate) const GPU_IS_LOST: i32 = 15;
    pub(crate) const RESET_REQUIRED: i32 = 16;
    pub(crate) const VERSION_MISMATCH: i32 = 18;
}

/// A GPU or an instance of one, in one initialisation of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Handle(usize);

impl Handle {
    const fn raw(self) -> nvmlDevice_t {
        self.0 as nvmlDevice_t
    }
}

/// Sizes of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slices {
    /// Compute slices of the compute instance.
    pub(crate) compute: u32,
    /// MiB, rounded as the vendor names it.
    pub(crate) memory_mib: u64,
}

/// Without these nothing can be said of any GPU.
const REQUIRED: [&str; 7] = [
    "nvmlInit_v2",
    "nvmlShutdown",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetMinorNumber",
    "nvmlDeviceGetMemoryInfo",
];

/// A loaded library and one initialisation of it.
pub(crate) struct Library {
    path: PathBuf,
    opened: PathBuf,
    nvml: OnceLock<ManuallyDrop<Nvml>>,
    shut: AtomicBool,
    /// Held while events are waited for: the library is not shut down under who waits.
    waiting: Mutex<()>,
    // Never unloaded: a thread that made calls may end after we are gone, and one may hang in it.
    _loaded: ManuallyDrop<Loaded>,
}

impl Library {
    /// Loads the file; `generation` is how many were loaded from this path before.
    pub(crate) fn load(path: &Path, generation: usize) -> Result<Self, DiscoveryError> {
        let library = VendorLibrary::Nvml;
        let opened = unknown_path(path, generation);
        // SAFETY: loading runs the library's constructors. It is the vendor's driver library, named by the
        // administrator or lying in the driver's directory, which only root can write.
        let loaded = unsafe { Loaded::open(Some(&opened), RTLD_LAZY | RTLD_LOCAL) }.map_err(|error| {
            DiscoveryError::LibraryBroken { library, path: path.to_owned(), reason: error.to_string() }
        })?;
        let lacks = |name: &&str| {
            // SAFETY: only whether it is there is looked at.
            unsafe { loaded.get::<*const c_void>(*name) }.is_err()
        };
        let missing: Vec<&'static str> = REQUIRED.into_iter().filter(lacks).collect();
        if !missing.is_empty() {
            return Err(DiscoveryError::LibraryTooOld { library, path: path.to_owned(), missing });
        }
        Ok(Self {
            path: path.to_owned(),
            opened,
            nvml: OnceLock::new(),
            shut: AtomicBool::new(false),
            waiting: Mutex::new(()),
            _loaded: ManuallyDrop::new(loaded),
        })
    }

    /// Which file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// `nvmlInit_v2`; nothing where it was done.
    pub(crate) fn init(&self) -> Answer<()> {
        if self.nvml.get().is_some() {
            return self.nvml().map(drop);
        }
        let nvml = Nvml::builder().lib_path(self.opened.as_os_str()).init().map_err(refusal)?;
        // Two at once cannot be: the second would be a call of a key that hangs.
        let _ = self.nvml.set(ManuallyDrop::new(nvml));
        Ok(())
    }

    /// `nvmlShutdown`: the driver's nodes are closed, and handles and sets of events are worth nothing any more. Waits
    /// for who waits for events, who then stops.
    pub(crate) fn shut_down(&self) -> Answer<()> {
        let nvml = self.nvml();
        self.shut.store(true, Ordering::SeqCst);
        let _nobody_waits = self.inside();
        let function = nvml?.lib().nvmlShutdown.as_ref().map_err(|_| Refusal::Absent)?;
        // SAFETY: module documentation.
        answer(unsafe { function() }, ())
    }

    fn nvml(&self) -> Answer<&Nvml> {
        let nvml = self.nvml.get().filter(|_| !self.shut.load(Ordering::SeqCst));
        nvml.map(|nvml| &**nvml).ok_or(Refusal::Code(code::UNINITIALIZED))
    }

    fn device(&self, handle: Handle) -> Answer<Device<'_>> {
        // SAFETY: module documentation: the handle is of this initialisation, which `nvml` says still holds.
        self.nvml().map(|nvml| unsafe { Device::new(handle.raw(), nvml) })
    }

    pub(crate) fn driver_version(&self) -> Answer<String> {
        self.nvml()?.sys_driver_version().map_err(refusal)
    }

    /// 1000 * major + 10 * minor.
    pub(crate) fn cuda_version(&self) -> Answer<i32> {
        self.nvml()?.sys_cuda_driver_version().map_err(refusal)
    }

    pub(crate) fn count(&self) -> Answer<u32> {
        self.nvml()?.device_count().map_err(refusal)
    }

    pub(crate) fn by_index(&self, index: u32) -> Answer<Handle> {
        self.nvml()?.device_by_index(index).map(of).map_err(refusal)
    }

    pub(crate) fn uuid(&self, handle: Handle) -> Answer<String> {
        self.device(handle)?.uuid().map_err(refusal)
    }

    pub(crate) fn name(&self, handle: Handle) -> Answer<String> {
        self.device(handle)?.name().map_err(refusal)
    }

    pub(crate) fn minor(&self, handle: Handle) -> Answer<u32> {
        self.device(handle)?.minor_number().map_err(refusal)
    }

    /// All of the memory, in bytes. The first version of the call: `nvml-wrapper` has the second, which drivers
    /// before 510 lack, and both say the same of the total.
    pub(crate) fn memory(&self, handle: Handle) -> Answer<u64> {
        Ok(self.sizes(handle)?.total)
    }

    /// Memory that is taken, in bytes.
    pub(crate) fn used(&self, handle: Handle) -> Answer<u64> {
        Ok(self.sizes(handle)?.used)
    }

    /// Percent of the last moments in which kernels ran.
    pub(crate) fn busy(&self, handle: Handle) -> Answer<u32> {
        Ok(self.device(handle)?.utilization_rates().map_err(refusal)?.gpu)
    }

    /// Degrees Celsius of the GPU's die.
    pub(crate) fn temperature(&self, handle: Handle) -> Answer<u32> {
        self.device(handle)?.temperature(TemperatureSensor::Gpu).map_err(refusal)
    }

    fn sizes(&self, handle: Handle) -> Answer<nvmlMemory_t> {
        let function = self.nvml()?.lib().nvmlDeviceGetMemoryInfo.as_ref().map_err(|_| Refusal::Absent)?;
        let mut memory = nvmlMemory_t { total: 0, free: 0, used: 0 };
        // SAFETY: module documentation.
        let code = unsafe { function(handle.raw(), &mut memory) };
        answer(code, memory)
    }

    pub(crate) fn capability(&self, handle: Handle) -> Answer<(i32, i32)> {
        let found = self.device(handle)?.cuda_compute_capability().map_err(refusal)?;
        Ok((found.major, found.minor))
    }

    pub(crate) fn pci(&self, handle: Handle) -> Answer<Option<PciAddress>> {
        self.device(handle)?.pci_info().map(|info| address(&info)).map_err(refusal)
    }

    /// The other ends of the active NVLinks: GPUs or switches. One that is no address is a switch that is not shown.
    pub(crate) fn links(&self, handle: Handle) -> Answer<Vec<PciAddress>> {
        let device = self.device(handle)?;
        let mut ends = Vec::new();
        for number in 0..NVML_NVLINK_MAX_LINKS {
            let link = device.link_wrapper_for(number);
            match link.is_active().map_err(refusal) {
                Ok(true) => {}
                Ok(false) => continue,
                // The GPU has no more links than these, or none at all.
                Err(Refusal::Code(code::INVALID_ARGUMENT | code::NOT_SUPPORTED)) => break,
                Err(other) => return Err(other),
            }
            match link.remote_pci_info().map_err(refusal) {
                // No device is at the beginning of everything: the driver has not filled it in.
                Ok(info) if (info.domain, info.bus, info.device) == (0, 0, 0) => {}
                Ok(info) => ends.push(address(&info).unwrap_or(HIDDEN_SWITCH)),
                Err(Refusal::Code(code::INVALID_ARGUMENT | code::NOT_SUPPORTED)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(ends)
    }

    /// Whether rows of memory could not be replaced: the vendor's own sign that a GPU is to be exchanged.
    pub(crate) fn rows_failed(&self, handle: Handle) -> Answer<bool> {
        let function = self.nvml()?.lib().nvmlDeviceGetRemappedRows.as_ref().map_err(|_| Refusal::Absent)?;
        let (mut corrected, mut uncorrected, mut pending, mut failed) = (0, 0, 0, 0);
        // SAFETY: module documentation.
        let code =
            unsafe { function(handle.raw(), &mut corrected, &mut uncorrected, &mut pending, &mut failed) };
        answer(code, failed != 0)
    }

    /// Whether the GPU is partitioned now.
    pub(crate) fn partitioned(&self, handle: Handle) -> Answer<bool> {
        self.device(handle)?.mig_mode().map(|mode| mode.current == 1).map_err(refusal)
    }

    /// How many instances there may be.
    pub(crate) fn most_instances(&self, handle: Handle) -> Answer<u32> {
        self.device(handle)?.mig_device_count().map_err(refusal)
    }

    /// The instance at a place, which may be empty.
    pub(crate) fn instance(&self, handle: Handle, place: u32) -> Answer<Option<Handle>> {
        match self.device(handle)?.mig_device_by_index(place).map(of).map_err(refusal) {
            Ok(instance) => Ok(Some(instance)),
            Err(Refusal::Code(code::NOT_FOUND | code::INVALID_ARGUMENT)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    pub(crate) fn gpu_instance(&self, instance: Handle) -> Answer<u32> {
        self.id(instance, |lib| lib.nvmlDeviceGetGpuInstanceId.as_ref().ok().copied())
    }

    pub(crate) fn compute_instance(&self, instance: Handle) -> Answer<u32> {
        self.id(instance, |lib| lib.nvmlDeviceGetComputeInstanceId.as_ref().ok().copied())
    }

    fn id(&self, instance: Handle, function: fn(&NvmlLib) -> Option<GetNumber>) -> Answer<u32> {
        let function = function(self.nvml()?.lib()).ok_or(Refusal::Absent)?;
        let mut id = 0;
        // SAFETY: module documentation.
        answer(unsafe { function(instance.raw(), &mut id) }, ())?;
        Ok(id)
    }

    pub(crate) fn slices(&self, instance: Handle) -> Answer<Slices> {
        let found = self.device(instance)?.attributes().map_err(refusal)?;
        Ok(Slices { compute: found.compute_instance_slice_count, memory_mib: found.memory_size_mb })
    }

    /// Compute slices of the whole GPU: those of the largest instance that it could have.
    pub(crate) fn all_slices(&self, handle: Handle) -> Answer<u32> {
        let device = self.device(handle)?;
        let largest = [
            NVML_GPU_INSTANCE_PROFILE_8_SLICE,
            NVML_GPU_INSTANCE_PROFILE_7_SLICE,
            NVML_GPU_INSTANCE_PROFILE_4_SLICE,
        ];
        let mut last = Refusal::Absent;
        for profile in largest {
            match device.profile_info(profile).map_err(refusal) {
                Ok(info) if info.slice_count > 0 => return Ok(info.slice_count),
                Ok(_) => {}
                Err(other) => last = other,
            }
        }
        Err(last)
    }

    /// Process ids (host) and bytes; those that compute and those that draw.
    pub(crate) fn processes(&self, handle: Handle) -> Answer<Vec<(u32, u64)>> {
        let device = self.device(handle)?;
        let mut list = device.running_compute_processes().map_err(refusal)?;
        match device.running_graphics_processes().map_err(refusal) {
            Ok(drawing) => list.extend(drawing),
            Err(Refusal::Absent | Refusal::Code(code::NOT_SUPPORTED | code::FUNCTION_NOT_FOUND)) => {}
            Err(other) => return Err(other),
        }
        Ok(merged(list))
    }
}

/// A set of events, in one initialisation of the library.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventSet(usize);

impl EventSet {
    const fn raw(self) -> nvmlEventSet_t {
        self.0 as nvmlEventSet_t
    }
}

/// An error that the driver reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Xid {
    /// The GPU.
    pub(crate) gpu: Handle,
    /// Number in the vendor's catalogue.
    pub(crate) code: u64,
    /// The GPU instance that it is about; the whole GPU without.
    pub(crate) gpu_instance: Option<u32>,
}

/// Bare calls: `nvml-wrapper` does not give an event's instance, and frees a set at the first GPU that refuses.
impl Library {
    /// As long as it is held, the library is not shut down: what still finds it open goes on to its end.
    pub(crate) fn inside(&self) -> MutexGuard<'_, ()> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called [`inside`](Self::inside), as all that follow but those that go inside themselves.
    pub(crate) fn event_set(&self) -> Answer<EventSet> {
        let function = self.nvml()?.lib().nvmlEventSetCreate.as_ref().map_err(|_| Refusal::Absent)?;
        let mut set: nvmlEventSet_t = std::ptr::null_mut();
        // SAFETY: module documentation.
        answer(unsafe { function(&mut set) }, ())?;
        Ok(EventSet(set as usize))
    }

    pub(crate) fn free_events(&self, set: EventSet) -> Answer<()> {
        self.free_events_inside(set, &self.inside())
    }

    pub(crate) fn free_events_inside(&self, set: EventSet, _inside: &MutexGuard<'_, ()>) -> Answer<()> {
        let function = self.nvml()?.lib().nvmlEventSetFree.as_ref().map_err(|_| Refusal::Absent)?;
        // SAFETY: module documentation.
        answer(unsafe { function(set.raw()) }, ())
    }

    /// Puts a GPU's errors into the set; `false` for a GPU that reports none.
    pub(crate) fn report_errors(&self, gpu: Handle, set: EventSet) -> Answer<bool> {
        let lib = self.nvml()?.lib();
        let supported = lib.nvmlDeviceGetSupportedEventTypes.as_ref().map_err(|_| Refusal::Absent)?;
        let register = lib.nvmlDeviceRegisterEvents.as_ref().map_err(|_| Refusal::Absent)?;
        let mut kinds = 0;
        // SAFETY: module documentation.
        answer(unsafe { supported(gpu.raw(), &mut kinds) }, ())?;
        if kinds & XID_EVENTS == 0 {
            return Ok(false);
        }
        // SAFETY: module documentation.
        answer(unsafe { register(gpu.raw(), XID_EVENTS, set.raw()) }, true)
    }

    /// Waits for the next error, so long at most; `None` when there was none.
    pub(crate) fn next_error(&self, set: EventSet, at_most: Duration) -> Answer<Option<Xid>> {
        let _here = self.inside();
        let function = self.nvml()?.lib().nvmlEventSetWait_v2.as_ref().map_err(|_| Refusal::Absent)?;
        let mut data = nvmlEventData_t {
            device: std::ptr::null_mut(),
            eventType: 0,
            eventData: 0,
            gpuInstanceId: 0,
            computeInstanceId: 0,
        };
        let millis = c_uint::try_from(at_most.as_millis()).unwrap_or(c_uint::MAX);
        // SAFETY: module documentation.
        match answer(unsafe { function(set.raw(), &mut data, millis) }, ()) {
            Ok(()) if data.eventType & XID_EVENTS == 0 => Ok(None),
            Ok(()) => Ok(Some(Xid {
                gpu: Handle(data.device as usize),
                code: data.eventData,
                gpu_instance: Some(data.gpuInstanceId).filter(|id| *id != WHOLE_GPU),
            })),
            Err(Refusal::Code(code::TIMEOUT)) => Ok(None),
            Err(other) => Err(other),
        }
    }
}

/// `nvmlEventTypeXidCriticalError`.
const XID_EVENTS: u64 = 8;

/// What stands for no instance in an event.
const WHOLE_GPU: c_uint = c_uint::MAX;

type GetNumber = unsafe extern "C" fn(nvmlDevice_t, *mut c_uint) -> c_uint;

/// A process that computes and draws stands in both lists with all its memory.
fn merged(list: Vec<ProcessInfo>) -> Vec<(u32, u64)> {
    let mut processes: Vec<(u32, u64)> = Vec::new();
    for process in list {
        let bytes = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => bytes,
            UsedGpuMemory::Unavailable => 0,
        };
        match processes.iter_mut().find(|(pid, _)| *pid == process.pid) {
            Some((_, known)) => *known = bytes.max(*known),
            None => processes.push((process.pid, bytes)),
        }
    }
    processes
}

fn of(device: Device<'_>) -> Handle {
    // SAFETY: the handle is only kept as a number, and used as the module documentation says.
    Handle(unsafe { device.handle() } as usize)
}

fn answer<T>(code: c_uint, value: T) -> Answer<T> {
    if code == 0 { Ok(value) } else { Err(refusal(NvmlError::from(code))) }
}

fn refusal(error: NvmlError) -> Refusal {
    match error {
        NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => Refusal::Absent,
        NvmlError::Utf8Error(_) => Refusal::Garbled,
        other => Refusal::Code(i32::try_from(c_uint::from(other)).unwrap_or(i32::MAX)),
    }
}

/// The address; the function stands only in the text.
fn address(info: &PciInfo) -> Option<PciAddress> {
    let function = info.bus_id.rsplit_once('.').and_then(|(_, digit)| u8::from_str_radix(digit, 16).ok());
    Some(PciAddress {
        domain: info.domain,
        bus: u8::try_from(info.bus).ok()?,
        device: u8::try_from(info.device).ok().filter(|device| *device < 32)?,
        function: function.filter(|function| *function < 8).unwrap_or(0),
    })
}
