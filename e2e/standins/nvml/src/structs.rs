//! The vendor's structures, by the layouts of `nvml.h`.

use std::ffi::c_uint;

/// `nvmlPciInfo_t`, version 3.
#[repr(C)]
pub struct Pci {
    /// The address with a domain of 4 digits.
    pub legacy: [u8; 16],
    /// PCI domain.
    pub domain: c_uint,
    /// PCI bus.
    pub bus: c_uint,
    /// PCI device.
    pub device: c_uint,
    /// Device and vendor.
    pub id: c_uint,
    /// The board's.
    pub subsystem: c_uint,
    /// The address with a domain of 8 digits.
    pub address: [u8; 32],
}

/// `nvmlPciInfo_v2_t`, also of the function without a number.
#[repr(C)]
pub struct Pci2 {
    /// The address with a domain of 4 digits.
    pub address: [u8; 16],
    /// PCI domain.
    pub domain: c_uint,
    /// PCI bus.
    pub bus: c_uint,
    /// PCI device.
    pub device: c_uint,
    /// Device and vendor.
    pub id: c_uint,
    /// The board's.
    pub subsystem: c_uint,
    /// Nothing.
    pub reserved: [c_uint; 4],
}

/// `nvmlMemory_t`.
#[repr(C)]
pub struct Memory {
    /// Bytes.
    pub total: u64,
    /// Bytes.
    pub free: u64,
    /// Bytes.
    pub used: u64,
}

/// `nvmlMemory_v2_t`.
#[repr(C)]
pub struct Memory2 {
    /// Set by the caller.
    pub version: c_uint,
    /// Bytes.
    pub total: u64,
    /// Bytes that the driver keeps.
    pub reserved: u64,
    /// Bytes.
    pub free: u64,
    /// Bytes, without the reserved.
    pub used: u64,
}

/// `nvmlMemory_v2`: size and version of the structure.
pub const MEMORY_2: c_uint = size_of::<Memory2>() as c_uint | 2 << 24;

/// `nvmlUtilization_t`, percent.
#[repr(C)]
pub struct Utilization {
    /// Time that kernels ran.
    pub gpu: c_uint,
    /// Time that memory was read or written.
    pub memory: c_uint,
}

/// `nvmlProcessInfo_v1_t`.
#[repr(C)]
pub struct Process1 {
    /// Process id.
    pub pid: c_uint,
    /// Bytes.
    pub bytes: u64,
}

/// `nvmlProcessInfo_v2_t`, also of version 3.
#[repr(C)]
pub struct Process2 {
    /// Process id.
    pub pid: c_uint,
    /// Bytes.
    pub bytes: u64,
    /// All ones without MIG.
    pub gpu_instance: c_uint,
    /// All ones without MIG.
    pub compute_instance: c_uint,
}

/// `nvmlProcessUtilizationSample_t`.
#[repr(C)]
pub struct ProcessUtilization {
    /// Process id.
    pub pid: c_uint,
    /// Microseconds since 1970.
    pub stamp: u64,
    /// Percent.
    pub sm: c_uint,
    /// Percent.
    pub memory: c_uint,
    /// Percent.
    pub encoder: c_uint,
    /// Percent.
    pub decoder: c_uint,
}

/// `nvmlTemperature_v1_t`.
#[repr(C)]
pub struct Temperature {
    /// Set by the caller.
    pub version: c_uint,
    /// 0: the GPU's die.
    pub sensor: c_uint,
    /// Degrees Celsius.
    pub degrees: i32,
}

/// `nvmlDeviceAttributes_t`.
#[repr(C)]
#[derive(Default)]
pub struct Attributes {
    /// Streaming multiprocessors.
    pub multiprocessors: c_uint,
    /// Engines that are shared, of five kinds.
    pub engines: [c_uint; 5],
    /// Slices of the GPU instance.
    pub gpu_slices: c_uint,
    /// Slices of the compute instance.
    pub compute_slices: c_uint,
    /// MiB.
    pub memory_mib: u64,
}

/// `nvmlGpuInstanceProfileInfo_t`.
#[repr(C)]
#[derive(Default)]
pub struct GpuInstanceProfile {
    /// Which.
    pub id: c_uint,
    /// Whether such instances reach each other.
    pub peers: c_uint,
    /// Slices.
    pub slices: c_uint,
    /// How many fit on the GPU.
    pub instances: c_uint,
    /// Streaming multiprocessors.
    pub multiprocessors: c_uint,
    /// Engines, of five kinds.
    pub engines: [c_uint; 5],
    /// MiB.
    pub memory_mib: u64,
}

/// `nvmlEventData_t`.
#[repr(C)]
pub struct EventData {
    /// Where it happened.
    pub device: crate::wire::Device,
    /// A bit.
    pub kind: u64,
    /// The XID.
    pub data: u64,
    /// All ones of the whole GPU.
    pub gpu_instance: c_uint,
    /// All ones of the whole GPU or GPU instance.
    pub compute_instance: c_uint,
}

const _: () = {
    assert!(size_of::<EventData>() == 32);
    assert!(size_of::<Attributes>() == 40);
    assert!(size_of::<GpuInstanceProfile>() == 48);
    assert!(size_of::<Pci>() == 68);
    assert!(size_of::<Pci2>() == 52);
    assert!(MEMORY_2 == 0x0200_0028);
    assert!(size_of::<Process1>() == 16);
    assert!(size_of::<Process2>() == 24);
    assert!(size_of::<ProcessUtilization>() == 32);
    assert!(size_of::<Temperature>() == 12);
};
