//! What this process has of the driver: the connection, its visible devices, each thread's current one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use standin_protocol::{Client, DEVICE_VARIABLE, Reply, Request};

use crate::status::{CONTEXT_NULL, DRIVER_INTERNAL, INVALID_DEVICE};

/// The process's side of the driver.
pub struct Process {
    owner: u32,
    client: Client,
    visible: Option<Visible>,
    /// Reserved address ranges: start -> bytes.
    pub reserved: BTreeMap<u64, u64>,
    /// Mapped starts -> physical handle.
    pub mapped: BTreeMap<u64, u64>,
    /// Handles that were imported, not allocated.
    pub imported: BTreeMap<u64, u64>,
    /// Bytes of each device allocation of this process and its user device id.
    pub allocations: BTreeMap<u64, (i32, u64)>,
    /// Next fake address for reservations.
    pub next_reservation: u64,
}

/// Devices of this process.
#[derive(Clone)]
struct Visible {
    /// Physical ids by logic id: the nodes that exist, in physical order.
    logic: Vec<u32>,
    /// Logic ids by user id: all, or those of `ASCEND_RT_VISIBLE_DEVICES`.
    user: Vec<u32>,
}

static PROCESS: Mutex<Process> = Mutex::new(Process::new());

thread_local! {
    static CURRENT: Cell<Option<i32>> = const { Cell::new(None) };
}

impl Process {
    const fn new() -> Self {
        Self {
            owner: 0,
            client: Client::new(),
            visible: None,
            reserved: BTreeMap::new(),
            mapped: BTreeMap::new(),
            imported: BTreeMap::new(),
            allocations: BTreeMap::new(),
            next_reservation: 0x1500_0000_0000,
        }
    }

    /// Asks the driver.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, i32> {
        self.client.call(request).map_err(|error| {
            eprintln!("libruntime (stand-in): {}", error.0);
            DRIVER_INTERNAL
        })
    }

    fn visible(&mut self) -> Result<Visible, i32> {
        if let Some(visible) = &self.visible {
            return Ok(visible.clone());
        }
        let Reply::Devices(devices) = self.ask(&Request::Devices)? else { return Err(DRIVER_INTERNAL) };
        let nodes = device_nodes();
        let logic: Vec<u32> =
            devices.iter().map(|device| device.phys_id).filter(|id| nodes.contains(id)).collect();
        let user = match std::env::var("ASCEND_RT_VISIBLE_DEVICES") {
            // As with the vendor's runtime the list ends at the first entry that is no device.
            Ok(list) => list
                .split(',')
                .map_while(|id| id.trim().parse::<u32>().ok().filter(|id| (*id as usize) < logic.len()))
                .collect(),
            Err(_) => (0..logic.len() as u32).collect(),
        };
        let visible = Visible { logic, user };
        self.visible = Some(visible.clone());
        Ok(visible)
    }

    /// How many devices the program can set.
    pub fn device_count(&mut self) -> Result<i32, i32> {
        Ok(self.visible()?.user.len() as i32)
    }

    /// The logic id behind the program's device number.
    pub fn logic_id(&mut self, user: i32) -> Result<u32, i32> {
        let visible = self.visible()?;
        usize::try_from(user).ok().and_then(|user| visible.user.get(user).copied()).ok_or(INVALID_DEVICE)
    }

    /// The physical id of a logic id.
    pub fn phys_of_logic(&mut self, logic: u32) -> Result<u32, i32> {
        self.visible()?.logic.get(logic as usize).copied().ok_or(INVALID_DEVICE)
    }

    /// The physical id behind the program's device number.
    pub fn phys_id(&mut self, user: i32) -> Result<u32, i32> {
        let logic = self.logic_id(user)?;
        self.phys_of_logic(logic)
    }
}

/// The process's side of the driver, made new in a forked child: nothing of the parent's is the child's.
pub fn process() -> MutexGuard<'static, Process> {
    let mut process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    if process.owner != pid {
        *process = Process { owner: pid, ..Process::new() };
    }
    process
}

/// The thread's device by the program's number.
pub fn current_device() -> Result<i32, i32> {
    CURRENT.get().ok_or(CONTEXT_NULL)
}

/// Sets the thread's device.
pub fn set_current_device(device: Option<i32>) {
    CURRENT.set(device);
}

fn device_nodes() -> Vec<u32> {
    let directory = std::env::var_os(DEVICE_VARIABLE).map_or_else(|| PathBuf::from("/dev"), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("davinci")?.parse().ok())
        .collect()
}
