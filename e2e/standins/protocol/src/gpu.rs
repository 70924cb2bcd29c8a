//! NVIDIA GPUs of a simulated machine as its YAML file describes them, and how the driver tells libraries of them.
//! Plain data, no state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::message::ProcessView;

/// Number of GPU 0 among the machine's chips. A die's number is its physical id, and no machine has so many.
const FIRST_GPU: u32 = 1 << 16;

/// The number by which requests (`Open`, `Allocate`, `Launch`, ...) name the GPU of this minor number.
pub const fn gpu_number(minor: u32) -> u32 {
    FIRST_GPU.saturating_add(minor)
}

/// The minor number behind such a number; `None` for a die's.
pub const fn gpu_minor(number: u32) -> Option<u32> {
    number.checked_sub(FIRST_GPU)
}

/// The GPUs of a machine and the driver that they have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nvidia {
    /// What NVML says, such as `570.124.06`.
    #[serde(default = "default_driver")]
    pub driver_version: String,
    /// The newest CUDA that the driver knows, 1000 * major + 10 * minor.
    #[serde(default = "default_cuda")]
    pub cuda_version: i32,
    /// What `cuGetProcAddress_v2` returns for a symbol that it does not have.
    #[serde(default)]
    pub unknown_symbols: UnknownSymbols,
    /// Device memory that a loaded module takes.
    #[serde(default)]
    pub module_bytes: u64,
    /// The GPUs that answer.
    pub gpus: Vec<Gpu>,
}

/// The answer about a symbol that the driver does not have; the symbol's status says so in either case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UnknownSymbols {
    /// `CUDA_ERROR_NOT_FOUND`, as drivers were seen to do.
    #[default]
    NotFound,
    /// `CUDA_SUCCESS` and a null pointer, as `cuda.h` of CUDA 12 and 13 has it.
    Null,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gpu {
    /// Number of the device node, `nvidiaN`. NVML's index and CUDA's number follow the PCI address instead.
    pub minor: u32,
    /// `GPU-` and the 16 bytes in hexadecimal, 8-4-4-4-12.
    pub uuid: String,
    /// Product name.
    #[serde(default = "default_name")]
    pub name: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// PCI address, `0000:1b:00.0`.
    pub pci: String,
    /// `major.minor`.
    #[serde(default = "default_capability")]
    pub compute_capability: String,
    /// Percent of time that kernels ran, as NVML is to say it; measured without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization: Option<u32>,
    /// Percent of time that memory was read or written.
    #[serde(default)]
    pub memory_utilization: u32,
    /// Degrees Celsius.
    #[serde(default = "default_temperature")]
    pub temperature: u32,
    /// MIG; a GPU that cannot be partitioned without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<Mig>,
    /// The other ends of the NVLinks, PCI addresses of GPUs or switches; an empty one is a link that is down. Without
    /// any the GPU has no NVLink.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// Whether rows of memory could not be replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rows_failed: bool,
    /// Errors that the driver reported so far, the oldest first: one that is put at the end is an event.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xids: Vec<Xid>,
}

/// An error as the driver reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Xid {
    /// Number in the vendor's catalogue.
    pub code: u64,
    /// The GPU instance that it is about; the whole GPU without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_instance: Option<u32>,
}

/// Partitions of a GPU.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mig {
    /// Whether the mode is on.
    pub enabled: bool,
    /// Compute slices of the whole GPU.
    #[serde(default = "default_slices")]
    pub slices: u32,
    /// The compute instances, at their places in NVML's list: the places between them are empty.
    #[serde(default)]
    pub instances: BTreeMap<u32, Instance>,
}

/// A compute instance in a GPU instance of its own or of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Instance {
    /// Id of the GPU instance.
    pub gpu_instance: u32,
    /// Id of the compute instance in it.
    pub compute_instance: u32,
    /// `MIG-` and the 16 bytes in hexadecimal.
    pub uuid: String,
    /// `1g.10gb`.
    pub profile: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Compute slices.
    pub slices: u32,
    /// Processes on it, by process id: bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub processes: BTreeMap<u32, u64>,
}

impl Gpu {
    /// The 16 bytes of the identity; zeros where the text is none.
    pub fn uuid_bytes(&self) -> [u8; 16] {
        let digits: Vec<u8> = self
            .uuid
            .trim_start_matches("GPU-")
            .chars()
            .filter_map(|c| c.to_digit(16))
            .map(|digit| digit as u8)
            .collect();
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().fold(0, |number, digit| number << 4 | digit);
        }
        bytes
    }
}

/// A GPU as the libraries see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuView {
    /// As described.
    pub gpu: Gpu,
    /// Used bytes.
    pub used: u64,
    /// Percent of the last second in which kernels ran.
    pub busy_percent: u32,
    /// Processes on it.
    pub processes: Vec<ProcessView>,
}

/// The answer to `Request::Gpus`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpusView {
    /// Driver's version.
    pub driver_version: String,
    /// CUDA version.
    pub cuda_version: i32,
    /// See [`UnknownSymbols`].
    pub unknown_symbols: UnknownSymbols,
    /// What a module takes.
    pub module_bytes: u64,
    /// In the order of PCI addresses, which is NVML's and CUDA's.
    pub gpus: Vec<GpuView>,
}

fn default_driver() -> String {
    "570.124.06".to_owned()
}

const fn default_cuda() -> i32 {
    12_080
}

fn default_name() -> String {
    "NVIDIA H100 80GB HBM3".to_owned()
}

fn default_capability() -> String {
    "9.0".to_owned()
}

const fn default_slices() -> u32 {
    7
}

const fn default_temperature() -> u32 {
    35
}

impl Machine {
    /// A machine without Ascend cards and with `gpus` H100s of `memory_mib` each; identities and PCI addresses are
    /// made from the numbers.
    pub fn nvidia_h100(gpus: u32, memory_mib: u64) -> Self {
        let gpus = (0..gpus)
            .map(|minor| Gpu {
                minor,
                uuid: format!("GPU-7a3c{minor:04x}-5e1d-4b20-9f00-0123456789ab"),
                name: default_name(),
                memory_mib,
                pci: format!("{:04x}:{:02x}:00.0", minor / 16, 0x1b + (minor % 16) * 8),
                compute_capability: default_capability(),
                utilization: None,
                memory_utilization: 0,
                temperature: default_temperature(),
                mig: None,
                links: Vec::new(),
                rows_failed: false,
                xids: Vec::new(),
            })
            .collect();
        let nvidia = Nvidia {
            driver_version: default_driver(),
            cuda_version: default_cuda(),
            unknown_symbols: UnknownSymbols::default(),
            module_bytes: 0,
            gpus,
        };
        Self { nvidia: Some(nvidia), ..Self::ascend_910b(0, 0) }
    }

    /// With so many H100s of `memory_mib` each beside the cards, at PCI addresses that no card has.
    #[must_use]
    pub fn with_gpus(self, gpus: u32, memory_mib: u64) -> Self {
        let mut nvidia = Self::nvidia_h100(gpus, memory_mib).nvidia;
        for gpu in nvidia.iter_mut().flat_map(|nvidia| &mut nvidia.gpus) {
            gpu.pci.replace_range(0..2, "01");
        }
        Self { nvidia, ..self }
    }

    /// The GPUs in the order of the file.
    pub fn gpus(&self) -> impl Iterator<Item = &Gpu> {
        self.nvidia.iter().flat_map(|nvidia| &nvidia.gpus)
    }
}
