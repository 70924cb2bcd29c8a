//! Questions to NVML (`nvml.h`) whose answers are the machine's: memory, processes, utilisation. Its devices are
//! known by their UUIDs; indices say nothing, and `CUDA_VISIBLE_DEVICES` means nothing to it.

use core::ffi::{c_char, c_void};

use crate::manage::{IDENTITY, MOST, Manager, NOBODY, Processes, View, view};
use crate::real::Real;

const VENDOR: Manager = Manager::Nvml;

type Device = *mut c_void;

/// `NVML_ERROR_INVALID_ARGUMENT`.
const INVALID: i32 = 2;
/// `NVML_ERROR_NOT_FOUND`: no samples.
const NOT_FOUND: i32 = 6;
/// `NVML_ERROR_INSUFFICIENT_SIZE`.
const TOO_SMALL: i32 = 7;
/// "Not available", as without MIG.
const NONE: u32 = u32::MAX;

/// `nvmlMemory_t`.
#[repr(C)]
pub struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// `nvmlMemory_v2_t`.
#[repr(C)]
pub struct Memory2 {
    version: u32,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

/// `nvmlProcessInfo_v1_t`.
#[repr(C)]
pub struct Process1 {
    pid: u32,
    bytes: u64,
}

/// `nvmlProcessInfo_v2_t`, which is version 3 too.
#[repr(C)]
pub struct Process2 {
    pid: u32,
    bytes: u64,
    gpu_instance: u32,
    compute_instance: u32,
}

/// `nvmlUtilization_t`.
#[repr(C)]
pub struct Rates {
    gpu: u32,
    memory: u32,
}

/// `nvmlProcessUtilizationSample_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sample {
    pid: u32,
    stamp: u64,
    sm: u32,
    memory: u32,
    encoder: u32,
    decoder: u32,
}

static UUID: Real = Real::new(c"nvmlDeviceGetUUID");

/// How the claims have the device.
fn seen(device: Device, total: u64, list: Option<&mut Processes>) -> Option<View> {
    type Uuid = unsafe extern "C" fn(Device, *mut c_char, u32) -> i32;
    let identify = |identity: &mut [u8; IDENTITY]| {
        let address = UUID.get(core::ptr::null_mut());
        if address.is_null() {
            return false;
        }
        // SAFETY: the vendor's function of this name has this type (nvml.h).
        let uuid = unsafe { core::mem::transmute::<*mut c_void, Uuid>(address) };
        // SAFETY: the program's own handle, which the library checks, and room for so much.
        unsafe { uuid(device, identity.as_mut_ptr().cast(), IDENTITY as u32) == 0 }
    };
    view(identify, total, list)
}

fn memory(_: Manager, real: impl Fn() -> i32, device: Device, out: *mut Memory) -> i32 {
    let code = real();
    if code != 0 {
        return code;
    }
    // SAFETY: the vendor's function succeeded with this place.
    if let Some(out) = unsafe { out.as_mut() }
        && let Some(seen) = seen(device, out.total, None)
    {
        (out.total, out.used, out.free) = (seen.total, seen.used, seen.total - seen.used);
    }
    code
}

fn memory2(_: Manager, real: impl Fn() -> i32, device: Device, out: *mut Memory2) -> i32 {
    let code = real();
    if code != 0 {
        return code;
    }
    // SAFETY: the vendor's function succeeded with this place.
    if let Some(out) = unsafe { out.as_mut() }
        && let Some(seen) = seen(device, out.total, None)
    {
        (out.total, out.used, out.free) = (seen.total, seen.used, seen.total - seen.used);
        // What the driver keeps for itself is not of the quota.
        out.reserved = 0;
    }
    code
}

fn rates(_: Manager, real: impl Fn() -> i32, device: Device, out: *mut Rates) -> i32 {
    let code = real();
    if code != 0 {
        return code;
    }
    // SAFETY: the vendor's function succeeded with this place.
    if let Some(out) = unsafe { out.as_mut() }
        && let Some(seen) = seen(device, 0, None)
    {
        out.gpu = seen.utilization;
        // Of the whole chip, and not measured by claim: no more than the claim can have caused.
        out.memory = out.memory.min(seen.utilization);
    }
    code
}

/// The processes of the claims on a device, in the form that `entry` makes, where the machine's would be told. The
/// library is not asked for them: the program's room may do for these and not for those.
fn processes<T>(
    real: impl Fn() -> i32,
    device: Device,
    count: *mut u32,
    list: *mut T,
    entry: impl Fn(u32, u64) -> T,
) -> i32 {
    let mut ours: Processes = [NOBODY; MOST];
    let Some(seen) = seen(device, 0, Some(&mut ours)) else { return real() };
    // SAFETY: the program's place for a count, if it gave one.
    let Some(count) = (unsafe { count.as_mut() }) else { return INVALID };
    let room = core::mem::replace(count, seen.processes as u32) as usize;
    if seen.processes > room {
        return TOO_SMALL;
    }
    if list.is_null() && seen.processes > 0 {
        return INVALID;
    }
    for (place, process) in ours.iter().take(seen.processes).enumerate() {
        // SAFETY: the program has room for so many.
        unsafe { list.add(place).write(entry(process.pid, process.bytes)) };
    }
    0
}

fn processes1(
    _: Manager,
    real: impl Fn() -> i32,
    device: Device,
    count: *mut u32,
    list: *mut Process1,
) -> i32 {
    processes(real, device, count, list, |pid, bytes| Process1 { pid, bytes })
}

fn processes2(
    _: Manager,
    real: impl Fn() -> i32,
    device: Device,
    count: *mut u32,
    list: *mut Process2,
) -> i32 {
    let entry = |pid, bytes| Process2 { pid, bytes, gpu_instance: NONE, compute_instance: NONE };
    processes(real, device, count, list, entry)
}

/// Processes of kinds that have no part in a claim's ledger: a tenant sees none.
fn nobody(_: Manager, real: impl Fn() -> i32, device: Device, count: *mut u32) -> i32 {
    if seen(device, 0, None).is_none() {
        return real();
    }
    // SAFETY: the program's place for a count, if it gave one.
    match unsafe { count.as_mut() } {
        Some(count) => {
            *count = 0;
            0
        }
        None => INVALID,
    }
}

/// Samples by process: those of the claims' processes, as parts of the claims' compute.
fn samples(_: Manager, real: impl Fn() -> i32, device: Device, list: *mut Sample, count: *mut u32) -> i32 {
    let code = real();
    // Without a list the program asks for how much room it needs, and more does no harm.
    if code != 0 || list.is_null() || count.is_null() {
        return code;
    }
    let mut ours: Processes = [NOBODY; MOST];
    let Some(seen) = seen(device, 0, Some(&mut ours)) else { return code };
    // SAFETY: the vendor's function succeeded and wrote it.
    let written = unsafe { *count };
    let mut kept = 0;
    for place in 0..written as usize {
        // SAFETY: the vendor's function has written so many.
        let sample = unsafe { list.add(place).read() };
        if ours.iter().take(seen.processes).any(|process| process.pid == sample.pid) {
            let sample = Sample { sm: seen.of_share(sample.sm), ..sample };
            // SAFETY: not behind the place that was read.
            unsafe { list.add(kept).write(sample) };
            kept += 1;
        }
    }
    // SAFETY: as above.
    unsafe { *count = kept as u32 };
    if kept == 0 { NOT_FOUND } else { code }
}

hooks! {
    memory nvmlDeviceGetMemoryInfo(device: *mut c_void, out: *mut Memory) => device, out;
    memory2 nvmlDeviceGetMemoryInfo_v2(device: *mut c_void, out: *mut Memory2) => device, out;
    rates nvmlDeviceGetUtilizationRates(device: *mut c_void, out: *mut Rates) => device, out;
    processes1 nvmlDeviceGetComputeRunningProcesses(device: *mut c_void, count: *mut u32, list: *mut Process1) => device, count, list;
    processes2 nvmlDeviceGetComputeRunningProcesses_v2(device: *mut c_void, count: *mut u32, list: *mut Process2) => device, count, list;
    processes2 nvmlDeviceGetComputeRunningProcesses_v3(device: *mut c_void, count: *mut u32, list: *mut Process2) => device, count, list;
    nobody nvmlDeviceGetGraphicsRunningProcesses(device: *mut c_void, count: *mut u32, list: *mut Process1) => device, count;
    nobody nvmlDeviceGetGraphicsRunningProcesses_v2(device: *mut c_void, count: *mut u32, list: *mut Process2) => device, count;
    nobody nvmlDeviceGetGraphicsRunningProcesses_v3(device: *mut c_void, count: *mut u32, list: *mut Process2) => device, count;
    nobody nvmlDeviceGetMPSComputeRunningProcesses(device: *mut c_void, count: *mut u32, list: *mut Process1) => device, count;
    nobody nvmlDeviceGetMPSComputeRunningProcesses_v2(device: *mut c_void, count: *mut u32, list: *mut Process2) => device, count;
    nobody nvmlDeviceGetMPSComputeRunningProcesses_v3(device: *mut c_void, count: *mut u32, list: *mut Process2) => device, count;
    samples nvmlDeviceGetProcessUtilization(device: *mut c_void, list: *mut Sample, count: *mut u32, since: u64) => device, list, count;
}
