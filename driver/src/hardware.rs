//! What a vendor's library told about the accelerators of one node. Discovery fills these types; the slice
//! planner and Prepare read them. Identities come from the hardware, never from a position in a list.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{DeviceName, DeviceUuid, InvalidId};
use crate::quantity::{Bytes, Percent};

mod health;
mod vendor;

pub use health::{Fault, Health};
pub use vendor::{Vendor, VendorName};

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

impl FromStr for PciAddress {
    type Err = InvalidId;

    /// The form of [`PciAddress::fmt`], digits of either case, the domain also longer.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let refuse = || {
            InvalidId::new("PCI address", text, "it must be domain:bus:device.function, such as 0000:81:00.0")
        };
        let hex = |digits: &str, places: std::ops::RangeInclusive<usize>| {
            let fits = places.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if fits { u32::from_str_radix(digits, 16).ok() } else { None }
        };
        let read = || {
            let (address, function) = text.rsplit_once('.')?;
            let mut parts = address.split(':');
            let (domain, bus, device) = (parts.next()?, parts.next()?, parts.next()?);
            let address = Self {
                domain: hex(domain, 4..=8)?,
                bus: hex(bus, 2..=2)?.try_into().ok()?,
                device: hex(device, 2..=2)?.try_into().ok().filter(|device| *device < 32)?,
                function: hex(function, 1..=1)?.try_into().ok().filter(|function| *function < 8)?,
            };
            parts.next().is_none().then_some(address)
        };
        read().ok_or_else(refuse)
    }
}

/// A part of a chip that the hardware keeps apart from its other parts (a compute instance of a GPU under MIG): it is
/// given whole, to one claim. The compute instances of one GPU instance are kept apart in compute; its memory they have
/// together, and each counts with an equal part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Id of the GPU instance, unique on the GPU while the instance exists.
    pub gpu_instance: u32,
    /// Id of the compute instance, unique in its GPU instance.
    pub compute_instance: u32,
    /// The vendor's word for its size, such as `1g.10gb`; empty when unknown.
    pub profile: String,
    /// Its compute, in percent of the whole chip's.
    pub cores: Percent,
}

/// What only some hardware has, or some drivers tell. Plans of earlier versions lack it: nothing is known then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traits {
    /// CUDA compute capability, `9.0`; empty where there is none.
    pub compute_capability: String,
    /// The same for chips of a node that are joined by the vendor's own links (NVLink); empty for a chip without.
    pub link_group: String,
    /// Why the driver cannot let several claims hold parts of the chip; `None` when it can.
    pub whole_only: Option<String>,
    /// Which part of the hardware this is; `None` for a whole chip.
    pub partition: Option<Partition>,
}

impl Traits {
    /// Whether there is nothing to say.
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What a chip does at one moment, as far as its library tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory that is taken, by whomever, the driver's own included.
    pub memory: Option<Bytes>,
    /// Part of the last moments in which it computed, 0 to 100. The vendor says how many: NVML between 1/6 and 1 s.
    pub busy: Option<Percent>,
    /// Degrees Celsius.
    pub temperature: Option<i32>,
}

/// One chip (die, GPU, instance of a partitioned GPU): the smallest thing that can be claimed whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chip {
    /// DCMI card id; a GPU's minor number, which is stable while its driver is loaded.
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
    /// The number in the device node's name (`/dev/davinci<phys_id>`, `/dev/nvidia<phys_id>`).
    pub phys_id: u32,
    /// PCI address where the hardware tells.
    pub pci: Option<PciAddress>,
    /// NUMA node where the system tells.
    pub numa_node: Option<i64>,
    /// PCIe root complex, `pci<domain>:<bus>`, where the system tells.
    pub pcie_root: Option<String>,
    /// Health at the time of discovery.
    pub health: Health,
    /// What only some hardware has.
    #[serde(default, skip_serializing_if = "Traits::are_none")]
    pub traits: Traits,
}

impl Chip {
    /// The chip's name in slices, results and file names.
    pub fn name(&self) -> DeviceName {
        match &self.traits.partition {
            None => DeviceName::Chip { card: self.card, die: self.die },
            Some(part) => DeviceName::Partition {
                card: self.card,
                gpu_instance: part.gpu_instance,
                compute_instance: part.compute_instance,
            },
        }
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
    /// The chips, in no meaningful order; uuids and names are unique. Of a partitioned chip its partitions, and not
    /// the chip.
    pub chips: Vec<Chip>,
    /// Whether dies may be given out singly.
    pub multi_die_policy: MultiDiePolicy,
    /// The driver's version as the vendor writes it; empty when unknown.
    pub driver_version: String,
    /// The newest CUDA that the driver serves, `12.8`; empty where there is none.
    #[serde(default)]
    pub cuda_version: String,
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

#[cfg(test)]
mod tests;
