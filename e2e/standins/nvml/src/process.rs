//! Calls about the processes on a GPU. Process ids are those that the driver's machine has.

use std::ffi::{c_int, c_uint};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::structs::{Process1, Process2, ProcessUtilization};
use crate::wire::{Answer, Device, NOT_FOUND, code, gpu, instance, place_of, put_list};

/// "Not available", as without MIG.
const NONE: c_uint = c_uint::MAX;

/// Processes and their bytes on a GPU or a MIG device.
fn on(function: &str, device: Device) -> Answer<Vec<(c_uint, u64)>> {
    if place_of(device).is_some() {
        return Ok(instance(function, device)?.1.processes.into_iter().collect());
    }
    let view = gpu(function, device)?;
    Ok(view.processes.iter().map(|process| (process.pid as c_uint, process.bytes)).collect())
}

macro_rules! processes {
    ($($name:ident: $entry:ty = $make:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: Device, count: *mut c_uint, list: *mut $entry) -> c_int {
            let processes = on(stringify!($name), device);
            code(processes.and_then(|processes| {
                let make: fn(c_uint, u64) -> $entry = $make;
                let entries = processes.into_iter().map(|(pid, bytes)| make(pid, bytes)).collect();
                // SAFETY: the caller's in/out pointer and room.
                unsafe { put_list(list, count, entries) }
            }))
        }
    )*};
}

fn first(pid: c_uint, bytes: u64) -> Process1 {
    Process1 { pid, bytes }
}

fn second(pid: c_uint, bytes: u64) -> Process2 {
    Process2 { pid, bytes, gpu_instance: NONE, compute_instance: NONE }
}

processes! {
    nvmlDeviceGetComputeRunningProcesses: Process1 = first;
    nvmlDeviceGetComputeRunningProcesses_v2: Process2 = second;
    nvmlDeviceGetComputeRunningProcesses_v3: Process2 = second;
}

macro_rules! nobody {
    ($($name:ident: $entry:ty;)*) => {$(
        /// Nobody draws, and nobody uses MPS.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: Device, count: *mut c_uint, list: *mut $entry) -> c_int {
            let view = gpu(stringify!($name), device);
            // SAFETY: the caller's in/out pointer and room.
            code(view.and_then(|_| unsafe { put_list(list, count, Vec::new()) }))
        }
    )*};
}

nobody! {
    nvmlDeviceGetGraphicsRunningProcesses: Process1;
    nvmlDeviceGetGraphicsRunningProcesses_v2: Process2;
    nvmlDeviceGetGraphicsRunningProcesses_v3: Process2;
    nvmlDeviceGetMPSComputeRunningProcesses: Process1;
    nvmlDeviceGetMPSComputeRunningProcesses_v2: Process2;
    nvmlDeviceGetMPSComputeRunningProcesses_v3: Process2;
}

/// One sample for each process that ran kernels within the last second; none newer than `seen` is an error, as the
/// vendor's library has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    device: Device,
    list: *mut ProcessUtilization,
    count: *mut c_uint,
    seen: u64,
) -> c_int {
    let view = gpu("nvmlDeviceGetProcessUtilization", device);
    code(view.and_then(|view| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let stamp = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let busy = view.processes.iter().filter(|process| process.busy_percent > 0 && stamp > seen);
        let entries: Vec<ProcessUtilization> = busy
            .map(|process| ProcessUtilization {
                pid: process.pid as c_uint,
                stamp,
                sm: process.busy_percent,
                memory: 0,
                encoder: 0,
                decoder: 0,
            })
            .collect();
        if entries.is_empty() {
            return Err(NOT_FOUND);
        }
        // SAFETY: the caller's in/out pointer and room.
        unsafe { put_list(list, count, entries) }
    }))
}
