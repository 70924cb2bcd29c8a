//! Requests of the vendor libraries and the driver's replies.

use serde::{Deserialize, Serialize};

use crate::gpu::GpusView;
use crate::machine::{Card, Die, MultiDiePolicy, SuperPod};

/// Which object a management call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selector {
    /// The whole machine.
    Machine,
    /// One card.
    Card(i32),
    /// One die: card id and device id.
    Die(i32, i32),
    /// One die by its logic id.
    Logic(u32),
    /// One die by its physical id.
    Physical(u32),
}

/// What a library asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// A DCMI call; the name lets the driver play the configured faults.
    Manage {
        /// Name of the C function.
        function: String,
        /// What it is about.
        selector: Selector,
    },
    /// An NVML call, or a CUDA call that fails or hangs by configuration.
    Gpus {
        /// Name of the C function.
        function: String,
        /// Minor number of the GPU that it is about; `None` for the machine.
        minor: Option<u32>,
    },
    /// Waits until the machine's description is another one than that of this number.
    Changed {
        /// What was answered last.
        seen: u64,
        /// How long at most.
        millis: u32,
    },
    /// All devices, for the runtime.
    Devices,
    /// The process opens a device (`rtSetDevice`).
    Open {
        /// Physical id, or a GPU's number.
        phys_id: u32,
    },
    /// The process closes a device: its memory there is freed.
    Close {
        /// Physical id, or a GPU's number.
        phys_id: u32,
    },
    /// Takes memory; the size is exact, rounding is the runtime's business.
    Allocate {
        /// Physical id, or a GPU's number.
        phys_id: u32,
        /// Bytes.
        bytes: u64,
    },
    /// Gives memory back.
    Free {
        /// What `Allocate` answered.
        address: u64,
    },
    /// Total and free bytes of a device over all processes.
    MemoryInfo {
        /// Physical id, or a GPU's number.
        phys_id: u32,
    },
    /// Makes an allocation known to other processes.
    Export {
        /// What `Allocate` answered.
        address: u64,
    },
    /// Finds an exported allocation; nothing is charged for it.
    Import {
        /// What `Export` answered.
        key: u64,
    },
    /// Puts a kernel at the end of the process's queue on a device.
    Launch {
        /// Physical id, or a GPU's number.
        phys_id: u32,
        /// How long it takes where nobody else has work.
        nanos: u64,
    },
    /// Puts an event there.
    Record {
        /// Physical id, or a GPU's number.
        phys_id: u32,
    },
    /// When an event was reached; it is told once.
    Reached {
        /// Physical id, or a GPU's number.
        phys_id: u32,
        /// What `Record` answered.
        mark: u64,
    },
    /// How much of the process's work is not done.
    Queued {
        /// Physical id, or a GPU's number.
        phys_id: u32,
    },
}

/// A process that has a device open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessView {
    /// Process id as the driver's machine sees it.
    pub pid: i32,
    /// Bytes on the device.
    pub bytes: u64,
    /// Percent of the last second in which its kernels ran (GPUs only).
    #[serde(default)]
    pub busy_percent: u32,
}

/// Everything a management call may want of one die.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DieView {
    /// The card, without its dies.
    pub card: Card,
    /// The die.
    pub die: Die,
    /// Position among all dies in the order of physical ids.
    pub logic_id: u32,
    /// Used bytes.
    pub used: u64,
    /// Processes on it.
    pub processes: Vec<ProcessView>,
    /// Of the machine.
    pub super_pod: Option<SuperPod>,
}

/// A device as the runtime sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeDevice {
    /// Physical id.
    pub phys_id: u32,
}

/// What the driver answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// To `Selector::Machine`.
    Machine {
        /// Card ids.
        cards: Vec<i32>,
        /// Driver's version.
        driver_version: String,
        /// Multi-die policy.
        multi_die_policy: MultiDiePolicy,
    },
    /// To `Selector::Card`: the device ids in it.
    Card {
        /// Device ids.
        devices: Vec<i32>,
    },
    /// To the selectors of one die.
    Die(Box<DieView>),
    /// The call returns this code: a configured fault, or no such object.
    Code(i32),
    /// To `Gpus`: all of them, or the one that the call is about.
    Gpus(Box<GpusView>),
    /// To `Changed`: the number of the machine's description.
    Generation(u64),
    /// To `Devices`.
    Devices(Vec<RuntimeDevice>),
    /// To `Allocate` and `Import`.
    Address {
        /// Device address.
        address: u64,
        /// Bytes behind it.
        bytes: u64,
    },
    /// To `Export`.
    Key(u64),
    /// To `Record`.
    Mark(u64),
    /// To `Reached`: the device's clock in nanoseconds, if it was.
    Time(Option<u64>),
    /// To `Queued`: nanoseconds.
    Work(u64),
    /// To `MemoryInfo`.
    Memory {
        /// Free bytes.
        free: u64,
        /// All bytes.
        total: u64,
    },
    /// The device has not so much memory.
    OutOfMemory,
    /// The object does not exist.
    NotFound,
}
