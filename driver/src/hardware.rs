//! What a vendor's library told about the accelerators of one node. Discovery fills these types; the slice
//! planner and Prepare read them. Identities come from the hardware, never from a position in a list.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::id::{DeviceName, DeviceUuid};
use crate::quantity::Bytes;

/// Who makes the accelerator; also the last part of the pool's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// Huawei Ascend NPUs, read through DCMI.
    Ascend,
    /// NVIDIA GPUs, read through NVML.
    Nvidia,
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ascend => "ascend",
            Self::Nvidia => "nvidia",
        })
    }
}

/// Whether the dies of one module may be given to different containers (`dcmi_get_multi_die_policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MultiDiePolicy {
    /// Both dies must be injected together: only modules are published. DCMI value 0.
    Union,
    /// Each die stands alone. DCMI value 1, and what single-die hardware is.
    Independent,
}

/// A PCI address, `domain:bus:device.function`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PciAddress {
    /// PCI domain (segment).
    pub domain: u32,
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl fmt::Display for PciAddress {
    /// The extended BDF form that `resource.kubernetes.io/pciBusID` wants, such as `0000:81:00.0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

/// What the vendor's library says of a chip's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Nothing is wrong.
    Healthy,
    /// The library reports a fault; the text is for people.
    Unhealthy(String),
    /// The library could not tell (a call failed or hung).
    Unknown(String),
}

/// One chip (die, GPU): the smallest thing that can be claimed whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chip {
    /// DCMI card id; for other vendors a number that is stable for the device.
    pub card: u32,
    /// DCMI device id inside the card; 0 on single-die hardware.
    pub die: u32,
    /// The hardware's own identity (VDie).
    pub uuid: DeviceUuid,
    /// The dual-die module that the chip belongs to: its card id. `None` on single-die hardware.
    pub module: Option<u32>,
    /// Model in the field's words, such as `910C`; empty when unknown.
    pub model: String,
    /// The vendor's product string; empty when unknown.
    pub product_name: String,
    /// Device memory (HBM).
    pub memory: Bytes,
    /// The number in the device node's name (`/dev/davinci<phys_id>`).
    pub phys_id: u32,
    /// PCI address where the hardware tells.
    pub pci: Option<PciAddress>,
    /// NUMA node where the system tells.
    pub numa_node: Option<i64>,
    /// PCIe root complex, `pci<domain>:<bus>`, where the system tells.
    pub pcie_root: Option<String>,
    /// Health at the time of discovery.
    pub health: Health,
}

impl Chip {
    /// The chip's name in slices, results and file names.
    pub fn name(&self) -> DeviceName {
        DeviceName::Chip { card: self.card, die: self.die }
    }
}

/// Something that discovery could not use; named in one line, the other devices are still served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which object: a card and die, a library, a file.
    pub object: String,
    /// What is wrong with it and what to do.
    pub message: String,
    /// Stable low-cardinality word for metrics, such as `duplicate_uuid`.
    pub reason: String,
}

/// All devices of one vendor on one node, as seen in one pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Whose devices.
    pub vendor: Vendor,
    /// The chips, in no meaningful order; uuids and (card, die) are unique.
    pub chips: Vec<Chip>,
    /// Whether dies may be given out singly.
    pub multi_die_policy: MultiDiePolicy,
    /// The driver's version as the vendor writes it; empty when unknown.
    pub driver_version: String,
    /// The super-pod that this node belongs to, where the hardware tells.
    pub superpod: Option<u32>,
    /// What could not be used, and why.
    pub problems: Vec<Problem>,
}

/// A character device that a container gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Path on the host (under the configured device root).
    pub host_path: PathBuf,
    /// Path inside the container.
    pub container_path: PathBuf,
}

/// A file or directory of the host's driver that a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverMount {
    /// Path on the host (under the configured driver root).
    pub host_path: PathBuf,
    /// Path inside the container.
    pub container_path: PathBuf,
}

/// What a container needs of the vendor to use given chips: nodes and files, nothing of a quota.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VendorEdits {
    /// Device nodes, the chips' own first, then the shared control nodes that exist.
    pub device_nodes: Vec<DeviceNode>,
    /// Driver libraries and tools, read-only.
    pub mounts: Vec<DriverMount>,
}

/// Memory that one process holds on one chip, by the vendor library's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Process id as the host sees it.
    pub pid: u32,
    /// Bytes on the chip.
    pub bytes: Bytes,
}

/// Why the vendor's library does not say which processes are on a chip.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    /// This library cannot tell, whatever the chip.
    #[error("{0}: the ledger of this node's claims is not compared with the hardware")]
    Unsupported(String),
    /// It could not tell this time.
    #[error("{0}; it is asked again")]
    Failed(String),
}

impl ProcessError {
    /// Whether asking again can help.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    /// Stable word for metrics and events.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unsupported(_) => "processes_unsupported",
            Self::Failed(_) => "processes_failed",
        }
    }
}

/// The vendor library's truth about processes on chips: what the ledger is checked against.
pub trait ProcessView: Send + Sync {
    /// The processes that hold `chip` now, in no order; one may stand there several times, with a part each. Libraries
    /// may have room for so many only (DCMI: 32), and leave out the rest.
    ///
    /// # Errors
    /// Why it is not known.
    fn processes(&self, chip: &Chip) -> Result<Vec<ProcessMemory>, ProcessError>;
}
