//! Contexts: the primary one of a device, others, and each thread's stack. A process's contexts on a device take the
//! machine's `contextBytes` together.

use std::ffi::{c_int, c_uint, c_void};

use standin_protocol::{Reply, Request};

use crate::process::{Context, Process, current_handle, pointer, process, with_stack};
use crate::status::{Answer, INVALID_CONTEXT, INVALID_DEVICE, OUT_OF_MEMORY, UNKNOWN, code, put, put_if};

fn open(process: &mut Process, device: usize, primary: bool, flags: u32) -> Answer<usize> {
    let phys_id = process.number(device)?;
    match process.ask(&Request::Open { phys_id })? {
        Reply::Done => {}
        Reply::OutOfMemory => return Err(OUT_OF_MEMORY),
        _ => return Err(INVALID_DEVICE),
    }
    let handle = process.handle();
    process.contexts.insert(handle, Context { device, primary, flags });
    Ok(handle)
}

/// Ends a context and all that was made in it. With the device's last one the device is closed, unless there is memory
/// that goes with no context.
fn close(process: &mut Process, handle: usize) -> Answer<()> {
    let context = process.contexts.remove(&handle).ok_or(INVALID_CONTEXT)?;
    process.streams.forget(handle);
    process.modules.forget(handle);
    for address in process.memory.forget(handle) {
        process.ask(&Request::Free { address })?;
    }
    if process.contexts.values().any(|other| other.device == context.device) {
        return Ok(());
    }
    if process.outlives_contexts(context.device) {
        return Ok(());
    }
    let phys_id = process.number(context.device)?;
    process.ask(&Request::Close { phys_id }).map(|_| ())
}

fn retain(device: c_int) -> Answer<usize> {
    let mut process = process()?;
    let found = process.device(device)?;
    let flags = found.primary_flags;
    if let Some((handle, count)) = &mut found.primary {
        *count += 1;
        return Ok(*handle);
    }
    let handle = open(&mut process, device as usize, true, flags)?;
    process.device(device)?.primary = Some((handle, 1));
    Ok(handle)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) -> c_int {
    // SAFETY: the caller's out-pointer.
    code(retain(device).and_then(|handle| unsafe { put(context, pointer(handle)) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> c_int {
    let release = || {
        let mut process = process()?;
        let found = process.device(device)?;
        let (handle, count) = found.primary.ok_or(INVALID_CONTEXT)?;
        found.primary = (count > 1).then_some((handle, count - 1));
        if count == 1 { close(&mut process, handle) } else { Ok(()) }
    };
    code(release())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease(device: c_int) -> c_int {
    cuDevicePrimaryCtxRelease_v2(device)
}

/// Ends what is in the context; those who retained it still have it. Its memory for itself is given back until then.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset_v2(device: c_int) -> c_int {
    let reset = || {
        let mut process = process()?;
        let Some((handle, _)) = process.device(device)?.primary.take() else { return Ok(()) };
        close(&mut process, handle)
    };
    code(reset())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset(device: c_int) -> c_int {
    cuDevicePrimaryCtxReset_v2(device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint) -> c_int {
    code(process().and_then(|mut process| {
        process.device(device)?.primary_flags = flags;
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags(device: c_int, flags: c_uint) -> c_int {
    cuDevicePrimaryCtxSetFlags_v2(device, flags)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxGetState(
    device: c_int,
    flags: *mut c_uint,
    active: *mut c_int,
) -> c_int {
    let state = process().and_then(|mut process| {
        let found = process.device(device)?;
        Ok((found.primary_flags, c_int::from(found.primary.is_some())))
    });
    // SAFETY: the caller's out-pointers.
    code(state.and_then(|state| unsafe { put(flags, state.0).and_then(|()| put(active, state.1)) }))
}

fn create(flags: c_uint, device: c_int) -> Answer<usize> {
    let mut process = process()?;
    process.device(device)?;
    let handle = open(&mut process, device as usize, false, flags)?;
    with_stack(|stack| stack.push(handle));
    Ok(handle)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v2(context: *mut *mut c_void, flags: c_uint, device: c_int) -> c_int {
    // SAFETY: the caller's out-pointer.
    code(create(flags, device).and_then(|handle| unsafe { put(context, pointer(handle)) }))
}

/// Before CUDA 3.2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate(context: *mut *mut c_void, flags: c_uint, device: c_int) -> c_int {
    // SAFETY: same contract.
    unsafe { cuCtxCreate_v2(context, flags, device) }
}

/// CUDA 11.4: with execution affinities, which are not modelled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v3(
    context: *mut *mut c_void,
    _affinities: *mut c_void,
    _count: c_int,
    flags: c_uint,
    device: c_int,
) -> c_int {
    // SAFETY: same contract.
    unsafe { cuCtxCreate_v2(context, flags, device) }
}

/// CUDA 12.5, and what `cuCtxCreate` means from CUDA 13 on: with a structure of further wishes, not modelled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v4(
    context: *mut *mut c_void,
    _parameters: *mut c_void,
    flags: c_uint,
    device: c_int,
) -> c_int {
    // SAFETY: same contract.
    unsafe { cuCtxCreate_v2(context, flags, device) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: *mut c_void) -> c_int {
    let destroy = || {
        let handle = context as usize;
        let mut process = process()?;
        if process.contexts.get(&handle).is_none_or(|context| context.primary) {
            return Err(INVALID_CONTEXT);
        }
        close(&mut process, handle)?;
        with_stack(|stack| {
            if stack.last() == Some(&handle) {
                stack.pop();
            }
        });
        Ok(())
    };
    code(destroy())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy(context: *mut c_void) -> c_int {
    cuCtxDestroy_v2(context)
}

fn known(context: *mut c_void) -> Answer<usize> {
    let handle = context as usize;
    process()?.contexts.contains_key(&handle).then_some(handle).ok_or(INVALID_CONTEXT)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> c_int {
    let set = || {
        let handle = if context.is_null() { process().map(|_| None)? } else { Some(known(context)?) };
        with_stack(|stack| {
            stack.pop();
            stack.extend(handle);
        });
        Ok(())
    };
    code(set())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> c_int {
    let current = process().map(|_| current_handle().unwrap_or(0));
    // SAFETY: the caller's out-pointer.
    code(current.and_then(|handle| unsafe { put(context, pointer(handle)) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: *mut c_void) -> c_int {
    code(known(context).map(|handle| with_stack(|stack| stack.push(handle))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent(context: *mut c_void) -> c_int {
    cuCtxPushCurrent_v2(context)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut *mut c_void) -> c_int {
    let popped = process().and_then(|_| with_stack(Vec::pop).ok_or(INVALID_CONTEXT));
    // SAFETY: the caller's out-pointer, which may be null.
    code(popped.map(|handle| unsafe { put_if(context, pointer(handle)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent(context: *mut *mut c_void) -> c_int {
    // SAFETY: same contract.
    unsafe { cuCtxPopCurrent_v2(context) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(device: *mut c_int) -> c_int {
    let current = process().and_then(|process| process.current());
    // SAFETY: the caller's out-pointer.
    code(current.and_then(|(_, context)| unsafe { put(device, context.device as c_int) }))
}

/// CUDA 13: of a given context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice_v2(device: *mut c_int, context: *mut c_void) -> c_int {
    let found = || {
        if context.is_null() {
            return Ok(process()?.current()?.1.device);
        }
        let handle = known(context)?;
        process()?.contexts.get(&handle).map(|context| context.device).ok_or(UNKNOWN)
    };
    // SAFETY: the caller's out-pointer.
    code(found().and_then(|found| unsafe { put(device, found as c_int) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetFlags(flags: *mut c_uint) -> c_int {
    let current = process().and_then(|process| process.current());
    // SAFETY: the caller's out-pointer.
    code(current.and_then(|(_, context)| unsafe { put(flags, context.flags) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetApiVersion(context: *mut c_void, version: *mut c_uint) -> c_int {
    // SAFETY: the caller's out-pointer. 3020 is what the vendor's driver says of contexts of today.
    code(known(context).and_then(|_| unsafe { put(version, 3020) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> c_int {
    let current = process().and_then(|process| process.current());
    code(current.map(|_| {
        // SAFETY: the caller's out-pointers, which may be null. As on GPUs since Volta.
        unsafe {
            put_if(least, 0);
            put_if(greatest, -5);
        }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxEnablePeerAccess(context: *mut c_void, _flags: c_uint) -> c_int {
    code(known(context).map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDisablePeerAccess(context: *mut c_void) -> c_int {
    code(known(context).map(|_| ()))
}

/// Limits are taken and forgotten.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetLimit(_limit: c_int, _value: usize) -> c_int {
    code(process().and_then(|process| process.current()).map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> c_int {
    code(crate::stream::synchronise_device())
}

/// CUDA 13: of a given context.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize_v2(context: *mut c_void) -> c_int {
    let synchronise = || {
        if context.is_null() {
            return crate::stream::synchronise_device();
        }
        let handle = known(context)?;
        let device = process()?.contexts.get(&handle).map(|context| context.device).ok_or(INVALID_CONTEXT)?;
        crate::stream::synchronise(device)
    };
    code(synchronise())
}
