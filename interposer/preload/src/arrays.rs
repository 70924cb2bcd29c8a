//! Hooks of sparse arrays, into whose parts memory of handles is mapped.

use core::ffi::c_void;

use vnpu_quota_abi::table::Vendor;

use crate::call;

/// `CUarrayMapInfo`, as far as it is looked at.
#[repr(C)]
struct MapInfo {
    /// Which part of which array.
    what: [u64; 7],
    operation: i32,
    handle_kind: i32,
    handle: u64,
    rest: [u64; 3],
}

/// `CU_MEM_OPERATION_TYPE_MAP`.
const MAP: i32 = 1;

/// A call that maps memory of handles into arrays, and ends such mappings. Which of the handles an array had in a part
/// is not followed: each mapping holds its handle until the process ends.
pub(crate) fn map_arrays(_vendor: Vendor, real: impl Fn() -> i32, list: *const c_void, count: u32) -> i32 {
    call::after(real, |core| {
        for index in 0..count as usize {
            if list.is_null() {
                break;
            }
            // SAFETY: the program's list of so many, readable.
            let info = unsafe { list.cast::<MapInfo>().add(index).read_unaligned() };
            if info.operation == MAP {
                // SAFETY: the back end's function.
                unsafe { (core.hold)(info.handle) }
            }
        }
    })
}
