//! Memory shared between processes, and pools. The exporter is charged, importers are not.

use std::ffi::{CStr, c_char, c_void};

use standin_protocol::{Reply, Request};

use crate::device::{code, put};
use crate::memory::{rtFree, rtMemAllocManaged};
use crate::process::process;
use crate::status::{DONE, PARAM_INVALID};

fn export(address: u64) -> Result<u64, i32> {
    match process().ask(&Request::Export { address })? {
        Reply::Key(key) => Ok(key),
        _ => Err(PARAM_INVALID),
    }
}

fn import(key: u64) -> Result<u64, i32> {
    let mut process = process();
    match process.ask(&Request::Import { key })? {
        Reply::Address { address, bytes } => {
            process.imported.insert(address, bytes);
            Ok(address)
        }
        _ => Err(PARAM_INVALID),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtIpcSetMemoryName(
    pointer: *const c_void,
    _size: u64,
    name: *mut c_char,
    length: u32,
) -> i32 {
    let write = || {
        let text = format!("standin-{}\0", export(pointer as u64)?);
        if name.is_null() || text.len() > length as usize {
            return Err(PARAM_INVALID);
        }
        // SAFETY: the caller gives `length` bytes, checked to be enough.
        unsafe { name.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len()) };
        Ok(())
    };
    code(write())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtIpcOpenMemory(to: *mut *mut c_void, name: *const c_char) -> i32 {
    if name.is_null() {
        return PARAM_INVALID;
    }
    // SAFETY: the caller gives a NUL-terminated string.
    let key = unsafe { CStr::from_ptr(name) }
        .to_str()
        .ok()
        .and_then(|name| name.strip_prefix("standin-")?.parse().ok())
        .ok_or(PARAM_INVALID);
    // SAFETY: the caller's out-pointer.
    code(key.and_then(import).and_then(|address| unsafe { put(to, address as *mut c_void) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn rtIpcCloseMemory(pointer: *const c_void) -> i32 {
    let known = process().imported.remove(&(pointer as u64)).is_some();
    if known { DONE } else { PARAM_INVALID }
}

#[unsafe(no_mangle)]
pub extern "C" fn rtIpcDestroyMemoryName(_name: *const c_char) -> i32 {
    DONE
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtMemExportToShareableHandle(
    handle: *mut c_void,
    _kind: u32,
    _flags: u64,
    shareable: *mut u64,
) -> i32 {
    // SAFETY: the caller's out-pointer.
    code(export(handle as u64).and_then(|key| unsafe { put(shareable, key) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtMemImportFromShareableHandle(
    shareable: u64,
    _device: i32,
    handle: *mut *mut c_void,
) -> i32 {
    // SAFETY: the caller's out-pointer.
    code(import(shareable).and_then(|address| unsafe { put(handle, address as *mut c_void) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtMemPoolCreate(pool: *mut *mut c_void, _properties: *const c_void) -> i32 {
    // SAFETY: the caller's out-pointer. Pools need no state: what they give comes from the device.
    code(unsafe { put(pool, 0x7200_0000 as *mut c_void) })
}

#[unsafe(no_mangle)]
pub extern "C" fn rtMemPoolDestroy(_pool: *mut c_void) -> i32 {
    DONE
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtMemPoolMallocAsync(
    to: *mut *mut c_void,
    size: u64,
    _pool: *mut c_void,
    _stream: *mut c_void,
) -> i32 {
    // SAFETY: same contract. Within this library, so never seen by an interposer.
    unsafe { rtMemAllocManaged(to, size, 0, 0) }
}

#[unsafe(no_mangle)]
pub extern "C" fn rtMemPoolFreeAsync(pointer: *mut c_void, _stream: *mut c_void) -> i32 {
    rtFree(pointer)
}
