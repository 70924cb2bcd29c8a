//! Calls about the library, the driver and the list of GPUs.

use std::ffi::{CStr, c_char, c_int, c_uint};

use standin_protocol::GpuView;

use crate::wire::{
    Answer, Device, INVALID_ARGUMENT, NOT_FOUND, ask, ask_first, code, enter, handle, leave, put, put_text,
};

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> c_int {
    code(ask_first("nvmlInit_v2", None).map(|_| enter()))
}

/// The older name.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit() -> c_int {
    code(ask_first("nvmlInit", None).map(|_| enter()))
}

/// `flags`: 1 no GPUs is no error, 2 do not attach to GPUs. Neither changes anything here.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(flags: c_uint) -> c_int {
    if flags > 3 {
        return INVALID_ARGUMENT;
    }
    code(ask_first("nvmlInitWithFlags", None).map(|_| enter()))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> c_int {
    code(leave())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: c_int) -> *const c_char {
    let text = match result {
        0 => c"Success",
        1 => c"Uninitialized",
        2 => c"Invalid Argument",
        3 => c"Not Supported",
        4 => c"Insufficient Permissions",
        6 => c"Not Found",
        7 => c"Insufficient Size",
        9 => c"Driver Not Loaded",
        10 => c"Timeout",
        15 => c"GPU is lost",
        18 => c"Driver/library version mismatch",
        25 => c"Argument version mismatch",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> c_int {
    let view = ask("nvmlSystemGetDriverVersion", None);
    // SAFETY: the caller gives `length` bytes.
    code(view.and_then(|view| unsafe { put_text(version, length, &view.driver_version) }))
}

/// `12.` and the driver's version, as the vendor's library says it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> c_int {
    let view = ask("nvmlSystemGetNVMLVersion", None);
    code(view.and_then(|view| {
        let text = format!("{}.{}", view.cuda_version / 1000, view.driver_version);
        // SAFETY: the caller gives `length` bytes.
        unsafe { put_text(version, length, &text) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> c_int {
    let view = ask("nvmlSystemGetCudaDriverVersion_v2", None);
    // SAFETY: the caller's out-pointer.
    code(view.and_then(|view| unsafe { put(version, view.cuda_version) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion(version: *mut c_int) -> c_int {
    // SAFETY: same contract.
    unsafe { nvmlSystemGetCudaDriverVersion_v2(version) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> c_int {
    let view = ask("nvmlDeviceGetCount_v2", None);
    // SAFETY: the caller's out-pointer.
    code(view.and_then(|view| unsafe { put(count, view.gpus.len() as c_uint) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount(count: *mut c_uint) -> c_int {
    // SAFETY: same contract.
    unsafe { nvmlDeviceGetCount_v2(count) }
}

/// The handle of the GPU that is found among those of the process.
///
/// # Safety
/// `device` is null or the caller's out-pointer.
unsafe fn put_found(
    function: &str,
    device: *mut Device,
    missing: c_int,
    find: impl FnOnce(&[GpuView]) -> Option<&GpuView>,
) -> Answer<()> {
    let view = ask(function, None)?;
    // SAFETY: the caller's out-pointer.
    unsafe { put(device, handle(find(&view.gpus).ok_or(missing)?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut Device) -> c_int {
    const NAME: &str = "nvmlDeviceGetHandleByIndex_v2";
    // SAFETY: the caller's out-pointer.
    let found = unsafe { put_found(NAME, device, INVALID_ARGUMENT, |gpus| gpus.get(index as usize)) };
    // The call attaches to the GPU: asked again by it, so that the faults of one GPU are met.
    // SAFETY: the pointer was good a moment ago.
    code(found.and_then(|()| ask(NAME, Some(unsafe { device.read() })).map(drop)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex(index: c_uint, device: *mut Device) -> c_int {
    // SAFETY: same contract.
    unsafe { nvmlDeviceGetHandleByIndex_v2(index, device) }
}

/// # Safety
/// `text` is null or NUL-terminated.
unsafe fn text<'a>(text: *const c_char) -> Answer<&'a str> {
    if text.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller promises the rest.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| INVALID_ARGUMENT)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut Device) -> c_int {
    // SAFETY: the caller's string and out-pointer.
    code(unsafe {
        text(uuid).and_then(|uuid| {
            put_found("nvmlDeviceGetHandleByUUID", device, NOT_FOUND, |gpus| {
                gpus.iter().find(|view| view.gpu.uuid == uuid)
            })
        })
    })
}

/// An address with a domain of 4 or of 8 digits, in letters of either case.
fn same_address(one: &str, other: &str) -> bool {
    let parts = |text: &str| -> Option<Vec<u32>> {
        text.split([':', '.']).map(|part| u32::from_str_radix(part, 16).ok()).collect()
    };
    parts(one).is_some_and(|one| Some(one) == parts(other))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(
    address: *const c_char,
    device: *mut Device,
) -> c_int {
    // SAFETY: the caller's string and out-pointer.
    code(unsafe {
        text(address).and_then(|address| {
            put_found("nvmlDeviceGetHandleByPciBusId_v2", device, NOT_FOUND, |gpus| {
                gpus.iter().find(|view| same_address(&view.gpu.pci, address))
            })
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId(address: *const c_char, device: *mut Device) -> c_int {
    // SAFETY: same contract.
    unsafe { nvmlDeviceGetHandleByPciBusId_v2(address, device) }
}
