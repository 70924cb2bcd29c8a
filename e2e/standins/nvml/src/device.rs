//! Calls about one GPU.

use std::ffi::{c_char, c_int, c_uint, c_ulong};

use crate::structs::{MEMORY_2, Memory, Memory2, Pci, Pci2, Temperature, Utilization};
use crate::wire::{
    Answer, Device, INVALID_ARGUMENT, NOT_SUPPORTED, UNKNOWN, VERSION_MISMATCH, ask, code, field, gpu,
    handle, instance, place_of, put, put_text,
};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: Device, name: *mut c_char, length: c_uint) -> c_int {
    let text = match place_of(device) {
        None => gpu("nvmlDeviceGetName", device).map(|view| view.gpu.name),
        Some(_) => instance("nvmlDeviceGetName", device)
            .map(|(view, instance)| format!("{} MIG {}", view.gpu.name, instance.profile)),
    };
    // SAFETY: the caller gives `length` bytes.
    code(text.and_then(|text| unsafe { put_text(name, length, &text) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: Device, uuid: *mut c_char, length: c_uint) -> c_int {
    let text = match place_of(device) {
        None => gpu("nvmlDeviceGetUUID", device).map(|view| view.gpu.uuid),
        Some(_) => instance("nvmlDeviceGetUUID", device).map(|(_, instance)| instance.uuid),
    };
    // SAFETY: the caller gives `length` bytes.
    code(text.and_then(|text| unsafe { put_text(uuid, length, &text) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(device: Device, index: *mut c_uint) -> c_int {
    let find = || {
        // Once for the GPU's own faults, and once for the list.
        ask("nvmlDeviceGetIndex", Some(device))?;
        let view = ask("nvmlDeviceGetIndex", None)?;
        let place = view.gpus.iter().position(|gpu| handle(gpu) == device).ok_or(INVALID_ARGUMENT)?;
        // SAFETY: the caller's out-pointer.
        unsafe { put(index, place as c_uint) }
    };
    code(find())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMinorNumber(device: Device, minor: *mut c_uint) -> c_int {
    let view = gpu("nvmlDeviceGetMinorNumber", device);
    // SAFETY: the caller's out-pointer.
    code(view.and_then(|view| unsafe { put(minor, view.gpu.minor) }))
}

/// Domain, bus, device, function.
fn address(text: &str) -> Answer<[u32; 4]> {
    let parts: Vec<u32> =
        text.split([':', '.']).filter_map(|part| u32::from_str_radix(part, 16).ok()).collect();
    parts.try_into().map_err(|_| UNKNOWN)
}

fn pci([domain, bus, device, function]: [u32; 4]) -> Pci {
    Pci {
        legacy: field(&format!("{domain:04X}:{bus:02X}:{device:02X}.{function}")),
        domain,
        bus,
        device,
        id: PCI_ID,
        subsystem: PCI_SUBSYSTEM,
        address: field(&format!("{domain:08X}:{bus:02X}:{device:02X}.{function}")),
    }
}

/// H100 SXM5: device and vendor, board.
const PCI_ID: c_uint = 0x2330_10de;
const PCI_SUBSYSTEM: c_uint = 0x16c1_10de;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: Device, info: *mut Pci) -> c_int {
    let found = gpu("nvmlDeviceGetPciInfo_v3", device).and_then(|view| address(&view.gpu.pci));
    // SAFETY: the caller's out-pointer.
    code(found.and_then(|parts| unsafe { put(info, pci(parts)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v2(device: Device, info: *mut Pci2) -> c_int {
    let found = gpu("nvmlDeviceGetPciInfo_v2", device).and_then(|view| address(&view.gpu.pci));
    code(found.and_then(|[domain, bus, device, function]| {
        let pci = Pci2 {
            address: field(&format!("{domain:04X}:{bus:02X}:{device:02X}.{function}")),
            domain,
            bus,
            device,
            id: PCI_ID,
            subsystem: PCI_SUBSYSTEM,
            reserved: [0; 4],
        };
        // SAFETY: the caller's out-pointer.
        unsafe { put(info, pci) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo(device: Device, info: *mut Pci2) -> c_int {
    // SAFETY: same contract.
    unsafe { nvmlDeviceGetPciInfo_v2(device, info) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(device: Device, memory: *mut Memory) -> c_int {
    let sizes = match place_of(device) {
        None => gpu("nvmlDeviceGetMemoryInfo", device).map(|view| (view.gpu.memory_mib << 20, view.used)),
        Some(_) => instance("nvmlDeviceGetMemoryInfo", device)
            .map(|(_, instance)| (instance.memory_mib << 20, instance.processes.values().sum())),
    };
    code(sizes.and_then(|(total, used)| {
        // SAFETY: the caller's out-pointer.
        unsafe { put(memory, Memory { total, free: total.saturating_sub(used), used }) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Device, memory: *mut Memory2) -> c_int {
    let view = gpu("nvmlDeviceGetMemoryInfo_v2", device);
    code(view.and_then(|view| {
        // SAFETY: null, or the caller's structure with its version.
        let wanted = unsafe { memory.as_ref() }.ok_or(INVALID_ARGUMENT)?.version;
        if wanted != MEMORY_2 {
            return Err(VERSION_MISMATCH);
        }
        let (total, used) = (view.gpu.memory_mib << 20, view.used);
        let free = total.saturating_sub(used);
        // SAFETY: the caller's out-pointer.
        unsafe { put(memory, Memory2 { version: MEMORY_2, total, reserved: 0, free, used }) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(device: Device, rates: *mut Utilization) -> c_int {
    let view = gpu("nvmlDeviceGetUtilizationRates", device);
    code(view.and_then(|view| {
        let found = Utilization { gpu: view.busy_percent, memory: view.gpu.memory_utilization };
        // SAFETY: the caller's out-pointer.
        unsafe { put(rates, found) }
    }))
}

/// `sensor`: 0, the GPU's die, is the only one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: Device,
    sensor: c_uint,
    degrees: *mut c_uint,
) -> c_int {
    let view = gpu("nvmlDeviceGetTemperature", device);
    code(view.and_then(|view| {
        if sensor != 0 {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: the caller's out-pointer.
        unsafe { put(degrees, view.gpu.temperature) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperatureV(device: Device, temperature: *mut Temperature) -> c_int {
    /// Size and version of the structure.
    const VERSION: c_uint = size_of::<Temperature>() as c_uint | 1 << 24;
    let view = gpu("nvmlDeviceGetTemperatureV", device);
    code(view.and_then(|view| {
        // SAFETY: null, or the caller's structure with its version.
        let temperature = unsafe { temperature.as_mut() }.ok_or(INVALID_ARGUMENT)?;
        match (temperature.version, temperature.sensor) {
            (VERSION, 0) => temperature.degrees = view.gpu.temperature as i32,
            (VERSION, _) => return Err(INVALID_ARGUMENT),
            _ => return Err(VERSION_MISMATCH),
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: Device,
    major: *mut c_int,
    minor: *mut c_int,
) -> c_int {
    let view = gpu("nvmlDeviceGetCudaComputeCapability", device);
    code(view.and_then(|view| {
        let (left, right) = view.gpu.compute_capability.split_once('.').ok_or(UNKNOWN)?;
        let numbers = (left.parse().map_err(|_| UNKNOWN)?, right.parse().map_err(|_| UNKNOWN)?);
        // SAFETY: the caller's out-pointers.
        unsafe { put(major, numbers.0).and_then(|()| put(minor, numbers.1)) }
    }))
}

/// A bit for each of the CPUs near the GPU: here the first 64 are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCpuAffinity(device: Device, size: c_uint, set: *mut c_ulong) -> c_int {
    let view = gpu("nvmlDeviceGetCpuAffinity", device);
    code(view.and_then(|_| {
        if size == 0 {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: the caller gives `size` words, at least one.
        unsafe { put(set, c_ulong::MAX) }
    }))
}

/// The other end of an NVLink; `None` for one that is down.
fn link(function: &str, device: Device, link: c_uint) -> Answer<Option<String>> {
    let view = gpu(function, device)?;
    if view.gpu.links.is_empty() {
        return Err(NOT_SUPPORTED);
    }
    let end = view.gpu.links.get(link as usize).ok_or(INVALID_ARGUMENT)?;
    Ok(Some(end.clone()).filter(|end| !end.is_empty()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkState(
    device: Device,
    number: c_uint,
    active: *mut c_uint,
) -> c_int {
    let found = link("nvmlDeviceGetNvLinkState", device, number);
    // SAFETY: the caller's out-pointer.
    code(found.and_then(|end| unsafe { put(active, c_uint::from(end.is_some())) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(
    device: Device,
    number: c_uint,
    info: *mut Pci,
) -> c_int {
    let found = link("nvmlDeviceGetNvLinkRemotePciInfo_v2", device, number);
    code(found.and_then(|end| {
        let parts = address(&end.ok_or(NOT_SUPPORTED)?)?;
        // SAFETY: the caller's out-pointer.
        unsafe { put(info, pci(parts)) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRemappedRows(
    device: Device,
    corrected: *mut c_uint,
    uncorrected: *mut c_uint,
    pending: *mut c_uint,
    failed: *mut c_uint,
) -> c_int {
    let view = gpu("nvmlDeviceGetRemappedRows", device);
    code(view.and_then(|view| {
        let bad = c_uint::from(view.gpu.rows_failed);
        // SAFETY: the caller's out-pointers.
        unsafe { put(corrected, 0).and(put(uncorrected, bad)).and(put(pending, 0)).and(put(failed, bad)) }
    }))
}
