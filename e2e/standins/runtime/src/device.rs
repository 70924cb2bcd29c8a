//! Devices and contexts: `rtSetDevice` and its family.

use std::ffi::{c_char, c_void};

use standin_protocol::{Reply, Request};

use crate::process::{current_device, process, set_current_device};
use crate::status::{CONTEXT_NULL, DONE, INVALID_DEVICE, MEMORY_ALLOCATION, PARAM_INVALID};

/// Contexts are named by their device: `CONTEXT_BASE + 16 * device`.
const CONTEXT_BASE: usize = 0x7000_0000;

pub fn code(result: Result<(), i32>) -> i32 {
    result.err().unwrap_or(DONE)
}

/// Writes through an out-pointer of the caller.
///
/// # Safety
/// `to` is null or valid for a write of `T`.
pub unsafe fn put<T>(to: *mut T, value: T) -> Result<(), i32> {
    if to.is_null() {
        return Err(PARAM_INVALID);
    }
    // SAFETY: not null, and the caller promises the rest.
    unsafe { to.write(value) };
    Ok(())
}

fn open(device: i32) -> Result<(), i32> {
    let mut process = process();
    let phys_id = process.phys_id(device)?;
    match process.ask(&Request::Open { phys_id })? {
        Reply::Done => Ok(()),
        Reply::OutOfMemory => Err(MEMORY_ALLOCATION),
        _ => Err(INVALID_DEVICE),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn rtSetDevice(device: i32) -> i32 {
    code(open(device).map(|()| set_current_device(Some(device))))
}

#[unsafe(no_mangle)]
pub extern "C" fn rtDeviceReset(device: i32) -> i32 {
    let close = || {
        let mut process = process();
        let phys_id = process.phys_id(device)?;
        process.allocations.retain(|_, (owner, _)| *owner != device);
        process.ask(&Request::Close { phys_id })?;
        if current_device() == Ok(device) {
            set_current_device(None);
        }
        Ok(())
    };
    code(close())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtGetDevice(device: *mut i32) -> i32 {
    // SAFETY: the caller's out-pointer.
    code(current_device().and_then(|current| unsafe { put(device, current) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtGetDeviceCount(count: *mut i32) -> i32 {
    let found = process().device_count();
    // SAFETY: the caller's out-pointer.
    code(found.and_then(|found| unsafe { put(count, found) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtGetVisibleDeviceIdByLogicDeviceId(logic: i32, visible: *mut i32) -> i32 {
    let find = || {
        let mut process = process();
        let count = process.device_count()?;
        let user = (0..count).find(|user| process.logic_id(*user) == Ok(logic as u32));
        // SAFETY: the caller's out-pointer.
        unsafe { put(visible, user.ok_or(INVALID_DEVICE)?) }
    };
    code(find())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtsGetLogicDevIdByUserDevId(user: i32, logic: *mut i32) -> i32 {
    let found = process().logic_id(user);
    // SAFETY: the caller's out-pointer.
    code(found.and_then(|found| unsafe { put(logic, found as i32) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtsGetPhyDevIdByLogicDevId(logic: i32, phys: *mut i32) -> i32 {
    let found = u32::try_from(logic).map_err(|_| INVALID_DEVICE).and_then(|id| process().phys_of_logic(id));
    // SAFETY: the caller's out-pointer.
    code(found.and_then(|found| unsafe { put(phys, found as i32) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtGetDevicePhyIdByIndex(index: u32, phys: *mut u32) -> i32 {
    let found = process().phys_of_logic(index);
    // SAFETY: the caller's out-pointer.
    code(found.and_then(|found| unsafe { put(phys, found) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtGetDeviceIndexByPhyId(phys: u32, index: *mut u32) -> i32 {
    let find = || {
        let mut process = process();
        let logic =
            (0..).map_while(|id| Some((id, process.phys_of_logic(id).ok()?))).find(|(_, p)| *p == phys);
        // SAFETY: the caller's out-pointer.
        unsafe { put(index, logic.ok_or(INVALID_DEVICE)?.0) }
    };
    code(find())
}

#[unsafe(no_mangle)]
pub extern "C" fn rtDeviceSynchronize() -> i32 {
    code(crate::capture::forbid().and_then(|()| crate::launch::drain()))
}

#[unsafe(no_mangle)]
pub extern "C" fn rtDeviceSynchronizeWithTimeout(_timeout: i32) -> i32 {
    rtDeviceSynchronize()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtGetSocVersion(version: *mut c_char, length: u32) -> i32 {
    const NAME: &[u8] = b"Ascend910_9391\0";
    if version.is_null() || (length as usize) < NAME.len() {
        return PARAM_INVALID;
    }
    // SAFETY: the caller gives `length` bytes, checked to be enough.
    unsafe { version.cast::<u8>().copy_from_nonoverlapping(NAME.as_ptr(), NAME.len()) };
    DONE
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtCtxCreateEx(context: *mut *mut c_void, _flags: u32, device: i32) -> i32 {
    let create = || {
        open(device)?;
        set_current_device(Some(device));
        // SAFETY: the caller's out-pointer.
        unsafe { put(context, name_of(device)) }
    };
    code(create())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtCtxCreate(context: *mut *mut c_void, flags: u32, device: i32) -> i32 {
    // SAFETY: same contract.
    unsafe { rtCtxCreateEx(context, flags, device) }
}

#[unsafe(no_mangle)]
pub extern "C" fn rtCtxDestroyEx(context: *mut c_void) -> i32 {
    code(device_of(context).map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn rtCtxDestroy(context: *mut c_void) -> i32 {
    rtCtxDestroyEx(context)
}

#[unsafe(no_mangle)]
pub extern "C" fn rtCtxSetCurrent(context: *mut c_void) -> i32 {
    code(device_of(context).map(|device| set_current_device(Some(device))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtCtxGetCurrent(context: *mut *mut c_void) -> i32 {
    // SAFETY: the caller's out-pointer.
    code(current_device().and_then(|device| unsafe { put(context, name_of(device)) }))
}

fn name_of(device: i32) -> *mut c_void {
    (CONTEXT_BASE + 16 * device as usize) as *mut c_void
}

fn device_of(context: *mut c_void) -> Result<i32, i32> {
    let offset = (context as usize).checked_sub(CONTEXT_BASE).ok_or(CONTEXT_NULL)?;
    i32::try_from(offset / 16).map_err(|_| CONTEXT_NULL)
}
