//! `cuInit` and what is asked of devices.

use std::ffi::{c_char, c_int, c_uint};

use standin_protocol::{Reply, Request};

use crate::process::{driver, initialise, process};
use crate::status::{Answer, INVALID_DEVICE, INVALID_VALUE, UNKNOWN, code, put};

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> c_int {
    code(if flags == 0 { initialise() } else { Err(INVALID_VALUE) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: the caller's out-pointer.
    code(driver().and_then(|driver| unsafe { put(version, driver.cuda_version) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    // SAFETY: the caller's out-pointer.
    code(process().and_then(|process| unsafe { put(count, process.devices.len() as c_int) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    let known = process().and_then(|mut process| process.device(ordinal).map(|_| ()));
    // SAFETY: the caller's out-pointer.
    code(known.and_then(|()| unsafe { put(device, ordinal) }))
}

/// # Safety
/// `to` is null or has `room` bytes.
unsafe fn put_text(to: *mut c_char, room: c_int, text: &str) -> Answer<()> {
    let room = usize::try_from(room).ok().filter(|room| *room > 0).ok_or(INVALID_VALUE)?;
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    let length = text.len().min(room - 1);
    // SAFETY: `length + 1 <= room`.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), length);
        to.add(length).write(0);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) -> c_int {
    let text = process().and_then(|mut process| Ok(process.device(device)?.view.gpu.name.clone()));
    // SAFETY: the caller gives `length` bytes.
    code(text.and_then(|text| unsafe { put_text(name, length, &text) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(id: *mut c_char, length: c_int, device: c_int) -> c_int {
    let text = process().and_then(|mut process| Ok(process.device(device)?.view.gpu.pci.to_uppercase()));
    // SAFETY: the caller gives `length` bytes.
    code(text.and_then(|text| unsafe { put_text(id, length, &text) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) -> c_int {
    let bytes = process().and_then(|mut process| Ok(process.device(device)?.view.gpu.uuid_bytes()));
    // SAFETY: the caller's out-pointer to 16 bytes.
    code(bytes.and_then(|bytes| unsafe { put(uuid, bytes) }))
}

/// Differs from the first one only where MIG is on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> c_int {
    // SAFETY: same contract.
    unsafe { cuDeviceGetUuid(uuid, device) }
}

fn total(device: c_int) -> Answer<u64> {
    let mut process = process()?;
    let phys_id = process.device(device)?.number;
    match process.ask(&Request::MemoryInfo { phys_id })? {
        Reply::Memory { total, .. } => Ok(total),
        _ => Err(INVALID_DEVICE),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> c_int {
    // SAFETY: the caller's out-pointer.
    code(total(device).and_then(|total| unsafe { put(bytes, total as usize) }))
}

/// Before CUDA 3.2: 32 bits, so at most 4 GiB less a byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem(bytes: *mut c_uint, device: c_int) -> c_int {
    let fits = |total| c_uint::try_from(total).unwrap_or(c_uint::MAX);
    // SAFETY: the caller's out-pointer.
    code(total(device).and_then(|total| unsafe { put(bytes, fits(total)) }))
}

fn capability(text: &str) -> Option<(c_int, c_int)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Numbers of `CUdevice_attribute`. Those of an H100 where the description does not say; an attribute that programs
/// were not seen to need is 0.
fn attribute(number: c_int, device: c_int) -> Answer<c_int> {
    let mut process = process()?;
    let gpu = &process.device(device)?.view.gpu;
    let (major, minor) = capability(&gpu.compute_capability).ok_or(UNKNOWN)?;
    let pci: Vec<c_int> =
        gpu.pci.split([':', '.']).filter_map(|part| c_int::from_str_radix(part, 16).ok()).collect();
    let pci = |part: usize| pci.get(part).copied().unwrap_or(0);
    Ok(match number {
        1..=3 => 1024,
        4 => 64,
        5 => c_int::MAX,
        6 | 7 => 65_535,
        8 => 49_152,
        9 => 65_536,
        10 => 32,
        11 => c_int::MAX,
        12 => 65_536,
        13 => 1_980_000,
        14 => 512,
        // Copies overlap with kernels.
        15 => 1,
        // Multiprocessors.
        16 => 132,
        33 => pci(1),
        34 => pci(2),
        39 => 2048,
        // Unified addresses, managed memory, pools, virtual memory.
        41 | 83 | 115 | 102 | 103 => 1,
        50 => pci(0),
        75 => major,
        76 => minor,
        // Cooperative launches.
        95 => 1,
        97 => 232_448,
        0 | 147.. => return Err(INVALID_VALUE),
        _ => 0,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, number: c_int, device: c_int) -> c_int {
    // SAFETY: the caller's out-pointer.
    code(attribute(number, device).and_then(|found| unsafe { put(value, found) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceComputeCapability(
    major: *mut c_int,
    minor: *mut c_int,
    device: c_int,
) -> c_int {
    let found = attribute(75, device).and_then(|major| Ok((major, attribute(76, device)?)));
    // SAFETY: the caller's out-pointers.
    code(found.and_then(|found| unsafe { put(major, found.0).and_then(|()| put(minor, found.1)) }))
}

/// The GPUs of a machine reach each other.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceCanAccessPeer(can: *mut c_int, device: c_int, peer: c_int) -> c_int {
    let both = process().and_then(|mut process| {
        process.device(device)?;
        process.device(peer).map(|_| ())
    });
    // SAFETY: the caller's out-pointer.
    code(both.and_then(|()| unsafe { put(can, c_int::from(device != peer)) }))
}
