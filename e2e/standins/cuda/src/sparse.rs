//! Sparse arrays: memory of handles is mapped into their parts, which are not kept apart.

use std::ffi::{c_int, c_uint, c_void};

use crate::process::{Process, process};
use crate::status::{Answer, INVALID_VALUE, code};
use crate::stream::resolve;
use crate::virtual_memory::drop_holder;

/// `CUarrayMapInfo`.
#[repr(C)]
pub struct MapInfo {
    resource_kind: c_int,
    array: *mut c_void,
    part_kind: c_int,
    part: [u64; 4],
    operation: c_int,
    handle_kind: c_int,
    handle: u64,
    offset: u64,
    devices: c_uint,
    flags: c_uint,
    reserved: [c_uint; 2],
}

/// Ends what is mapped into a sparse array.
pub fn clear(process: &mut Process, array: usize) -> Answer<()> {
    let gone = process.space.sparse.remove(&array).unwrap_or_default();
    gone.into_iter().try_for_each(|handle| drop_holder(process, handle))
}

fn map_array(process: &mut Process, info: &MapInfo) -> Answer<()> {
    let array = info.array as usize;
    if process.memory.arrays.get(&array).is_none_or(|(_, array)| array.taken.is_some()) {
        return Err(INVALID_VALUE);
    }
    match info.operation {
        1 => {
            let memory = process.space.memory.get_mut(&info.handle).ok_or(INVALID_VALUE)?;
            if !memory.tiles || info.devices != 1 << memory.device {
                return Err(INVALID_VALUE);
            }
            memory.holders += 1;
            process.space.sparse.entry(array).or_default().push(info.handle);
            Ok(())
        }
        2 if info.handle == 0 => clear(process, array),
        _ => Err(INVALID_VALUE),
    }
}

/// # Safety
/// `list` is null or the caller's list of so many.
unsafe fn map_arrays(
    list: *const MapInfo,
    count: c_uint,
    stream: *mut c_void,
    per_thread: bool,
) -> Answer<()> {
    let mut process = process()?;
    resolve(&process, stream as usize, per_thread)?;
    if list.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: by contract.
    let list = unsafe { std::slice::from_raw_parts(list, count as usize) };
    list.iter().try_for_each(|info| map_array(&mut process, info))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemMapArrayAsync(list: *mut MapInfo, count: c_uint, stream: *mut c_void) -> c_int {
    // SAFETY: same contract.
    code(unsafe { map_arrays(list, count, stream, false) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemMapArrayAsync_ptsz(
    list: *mut MapInfo,
    count: c_uint,
    stream: *mut c_void,
) -> c_int {
    // SAFETY: same contract.
    code(unsafe { map_arrays(list, count, stream, true) })
}
