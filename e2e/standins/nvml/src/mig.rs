//! Calls about GPUs that are partitioned, and about their MIG devices.

use std::ffi::{c_int, c_uint};

use standin_protocol::Mig;

use crate::structs::{Attributes, GpuInstanceProfile};
use crate::wire::{
    Answer, Device, INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, code, gpu, handle, instance, instance_handle,
    place_of, put,
};

/// `NVML_GPU_INSTANCE_PROFILE_7_SLICE` and its like, by slices.
const PROFILES: [(c_uint, u32); 5] = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 7)];
/// Places for MIG devices.
const MOST: u32 = 7;

/// The partitions of a GPU that can have any.
fn mig(function: &str, device: Device) -> Answer<Mig> {
    gpu(function, device)?.gpu.mig.ok_or(NOT_SUPPORTED)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: Device,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> c_int {
    code(mig("nvmlDeviceGetMigMode", device).and_then(|mig| {
        let mode = c_uint::from(mig.enabled);
        // SAFETY: the caller's out-pointers.
        unsafe { put(current, mode).and(put(pending, mode)) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: Device, count: *mut c_uint) -> c_int {
    let most = mig("nvmlDeviceGetMaxMigDeviceCount", device).map_or(0, |_| MOST);
    // SAFETY: the caller's out-pointer.
    code(unsafe { put(count, most) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: Device,
    place: c_uint,
    found: *mut Device,
) -> c_int {
    let view = gpu("nvmlDeviceGetMigDeviceHandleByIndex", device);
    code(view.and_then(|view| {
        let mig = view.gpu.mig.as_ref().filter(|mig| mig.enabled).ok_or(NOT_SUPPORTED)?;
        if place >= MOST {
            return Err(INVALID_ARGUMENT);
        }
        if !mig.instances.contains_key(&place) {
            return Err(NOT_FOUND);
        }
        // SAFETY: the caller's out-pointer.
        unsafe { put(found, instance_handle(&view, place)) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(
    device: Device,
    found: *mut Device,
) -> c_int {
    let view = instance("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", device);
    // SAFETY: the caller's out-pointer.
    code(view.and_then(|(view, _)| unsafe { put(found, handle(&view)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceIsMigDeviceHandle(device: Device, is: *mut c_uint) -> c_int {
    let view = gpu("nvmlDeviceIsMigDeviceHandle", device);
    // SAFETY: the caller's out-pointer.
    code(view.and_then(|_| unsafe { put(is, c_uint::from(place_of(device).is_some())) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstanceId(device: Device, id: *mut c_uint) -> c_int {
    let found = instance("nvmlDeviceGetGpuInstanceId", device);
    // SAFETY: the caller's out-pointer.
    code(found.and_then(|(_, instance)| unsafe { put(id, instance.gpu_instance) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeInstanceId(device: Device, id: *mut c_uint) -> c_int {
    let found = instance("nvmlDeviceGetComputeInstanceId", device);
    // SAFETY: the caller's out-pointer.
    code(found.and_then(|(_, instance)| unsafe { put(id, instance.compute_instance) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetAttributes_v2(device: Device, attributes: *mut Attributes) -> c_int {
    let found = instance("nvmlDeviceGetAttributes_v2", device);
    code(found.and_then(|(_, instance)| {
        let found = Attributes {
            multiprocessors: instance.slices * 16,
            gpu_slices: instance.slices,
            compute_slices: instance.slices,
            memory_mib: instance.memory_mib,
            ..Attributes::default()
        };
        // SAFETY: the caller's out-pointer.
        unsafe { put(attributes, found) }
    }))
}

/// The profile of so many slices, where the GPU has so many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstanceProfileInfo(
    device: Device,
    profile: c_uint,
    info: *mut GpuInstanceProfile,
) -> c_int {
    code(mig("nvmlDeviceGetGpuInstanceProfileInfo", device).and_then(|mig| {
        let slices = PROFILES.iter().find(|(number, _)| *number == profile).map(|(_, slices)| *slices);
        let slices = slices.filter(|slices| *slices <= mig.slices).ok_or(NOT_SUPPORTED)?;
        let found = GpuInstanceProfile {
            id: profile,
            slices,
            instances: mig.slices / slices,
            multiprocessors: slices * 16,
            ..GpuInstanceProfile::default()
        };
        // SAFETY: the caller's out-pointer.
        unsafe { put(info, found) }
    }))
}
