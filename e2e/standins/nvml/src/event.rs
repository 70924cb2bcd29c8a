//! Events: errors that GPUs report while a program waits for them.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::structs::EventData;
use crate::wire::{Answer, Device, INVALID_ARGUMENT, TIMEOUT, UNKNOWN, ask, changed, code, gpu, handle, put};

/// `nvmlEventTypeXidCriticalError`, the only kind here.
const XID: u64 = 8;

/// `gpuInstanceId` of an event of the whole GPU.
const WHOLE: c_uint = c_uint::MAX;

/// An `nvmlEventSet_t`: a number, never dereferenced.
type Set = *mut std::ffi::c_void;

/// One set.
#[derive(Default)]
struct Told {
    /// How many errors of a GPU were told, by its minor number.
    told: BTreeMap<u32, usize>,
    /// The number of the machine's description of which all was told.
    seen: u64,
}

#[derive(Default)]
struct Sets {
    last: usize,
    sets: BTreeMap<usize, Told>,
}

static SETS: Mutex<Sets> = Mutex::new(Sets { last: 0x4553_0000, sets: BTreeMap::new() });

fn sets() -> MutexGuard<'static, Sets> {
    SETS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(set: *mut Set) -> c_int {
    code(ask("nvmlEventSetCreate", None).and_then(|_| {
        let mut sets = sets();
        sets.last += 1;
        let number = sets.last;
        sets.sets.insert(number, Told::default());
        // SAFETY: the caller's out-pointer.
        unsafe { put(set, number as Set) }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(set: Set) -> c_int {
    let known = sets().sets.remove(&(set as usize));
    code(known.map(drop).ok_or(INVALID_ARGUMENT))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(device: Device, types: *mut u64) -> c_int {
    let view = gpu("nvmlDeviceGetSupportedEventTypes", device);
    // SAFETY: the caller's out-pointer.
    code(view.and_then(|_| unsafe { put(types, XID) }))
}

/// Of what comes after the call.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(device: Device, types: u64, set: Set) -> c_int {
    code(gpu("nvmlDeviceRegisterEvents", device).and_then(|view| {
        if types == 0 || types & !XID != 0 {
            return Err(crate::wire::NOT_SUPPORTED);
        }
        let mut sets = sets();
        let told = sets.sets.get_mut(&(set as usize)).ok_or(INVALID_ARGUMENT)?;
        told.told.insert(view.gpu.minor, view.gpu.xids.len());
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(set: Set, data: *mut EventData, millis: c_uint) -> c_int {
    // SAFETY: the caller's out-pointer.
    code(next(set, millis).and_then(|event| unsafe { put(data, event) }))
}

fn next(set: Set, millis: c_uint) -> Answer<EventData> {
    let end = Instant::now() + Duration::from_millis(u64::from(millis));
    loop {
        let seen = sets().sets.get(&(set as usize)).ok_or(INVALID_ARGUMENT)?.seen;
        let left = end.saturating_duration_since(Instant::now());
        let generation = changed(seen, u32::try_from(left.as_millis()).map_err(|_| UNKNOWN)?)?;
        if generation != seen {
            let view = ask("nvmlEventSetWait_v2", None)?;
            let mut sets = sets();
            let of_set = sets.sets.get_mut(&(set as usize)).ok_or(INVALID_ARGUMENT)?;
            for view in &view.gpus {
                let Some(told) = of_set.told.get_mut(&view.gpu.minor) else { continue };
                *told = (*told).min(view.gpu.xids.len());
                if let Some(xid) = view.gpu.xids.get(*told) {
                    *told += 1;
                    return Ok(EventData {
                        device: handle(view),
                        kind: XID,
                        data: xid.code,
                        gpu_instance: xid.gpu_instance.unwrap_or(WHOLE),
                        compute_instance: WHOLE,
                    });
                }
            }
            of_set.seen = generation;
        } else if left.is_zero() {
            return Err(TIMEOUT);
        }
    }
}
