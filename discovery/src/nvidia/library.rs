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
//! behind while others go on; the library is not shut down while one hangs.

use std::ffi::{c_uint, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use libloading::os::unix::{Library as Loaded, RTLD_LAZY, RTLD_LOCAL};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::{PciInfo, ProcessInfo};
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    NVML_GPU_INSTANCE_PROFILE_4_SLICE, NVML_GPU_INSTANCE_PROFILE_7_SLICE, NVML_GPU_INSTANCE_PROFILE_8_SLICE,
    NVML_NVLINK_MAX_LINKS, NvmlLib, nvmlDevice_t, nvmlMemory_t,
};
use vnpu_driver::hardware::PciAddress;

use crate::error::{DiscoveryError, VendorLibrary};

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
    pub(crate) const FUNCTION_NOT_FOUND: i32 = 13;
    pub(crate) const GPU_IS_LOST: i32 = 15;
    pub(crate) const RESET_REQUIRED: i32 = 16;
    pub(crate) const VERSION_MISMATCH: i32 = 18;
}

/// A GPU or an instance of one, in one initialisation of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    // Never unloaded: a thread that made calls may end after we are gone, and one may hang in it.
    _loaded: ManuallyDrop<Loaded>,
}

impl Library {
    /// Loads the file. The loader takes a path that it knows for the file that it has already; `generation` makes
    /// another path of it (`dir/./file`) for a file that was replaced.
    pub(crate) fn load(path: &Path, generation: usize) -> Result<Self, DiscoveryError> {
        let library = VendorLibrary::Nvml;
        let mut opened = path.parent().unwrap_or(Path::new("/")).as_os_str().to_owned();
        (0..generation).for_each(|_| opened.push("/."));
        let opened = PathBuf::from(opened).join(path.file_name().unwrap_or_default());
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

    /// `nvmlShutdown`: the driver's nodes are closed, and handles are worth nothing any more.
    pub(crate) fn shut_down(&self) -> Answer<()> {
        let done = self.nvml().and_then(|nvml| {
            let function = nvml.lib().nvmlShutdown.as_ref().map_err(|_| Refusal::Absent)?;
            // SAFETY: module documentation.
            answer(unsafe { function() }, ())
        });
        self.shut.store(true, Ordering::SeqCst);
        done
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
        let function = self.nvml()?.lib().nvmlDeviceGetMemoryInfo.as_ref().map_err(|_| Refusal::Absent)?;
        let mut memory = nvmlMemory_t { total: 0, free: 0, used: 0 };
        // SAFETY: module documentation.
        answer(unsafe { function(handle.raw(), &mut memory) }, ())?;
        Ok(memory.total)
    }

    pub(crate) fn capability(&self, handle: Handle) -> Answer<(i32, i32)> {
        let found = self.device(handle)?.cuda_compute_capability().map_err(refusal)?;
        Ok((found.major, found.minor))
    }

    pub(crate) fn pci(&self, handle: Handle) -> Answer<Option<PciAddress>> {
        self.device(handle)?.pci_info().map(|info| address(&info)).map_err(refusal)
    }

    /// The other ends of the active NVLinks: GPUs or switches.
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
                Ok(info) => ends.extend(address(&info)),
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
