//! Copies and fills. Device memory has no content: the host gets zeros from it. Managed memory and the host's are
//! really copied and filled. A copy takes no time on the device.

use std::ffi::{c_int, c_uchar, c_uint, c_ushort, c_void};

use crate::memory::Kind;
use crate::process::{Process, process};
use crate::status::{Answer, INVALID_VALUE, code};
use crate::stream::{resolve, submit, synchronise_device};

/// Whether an address is device memory without content; an error where a range goes past its block.
fn is_hollow(process: &Process, address: u64, bytes: u64) -> Answer<bool> {
    let found = process.memory.around(address).or_else(|| process.space.around(address));
    match found {
        Some((start, block)) if address - start + bytes > block.bytes => Err(INVALID_VALUE),
        Some((_, block)) => Ok(block.kind != Kind::Managed),
        None => Ok(false),
    }
}

/// What a call says of its ends: the device's side must be known.
fn device_side(process: &Process, address: u64) -> Answer<()> {
    process.memory.around(address).or_else(|| process.space.around(address)).map(|_| ()).ok_or(INVALID_VALUE)
}

fn copy(to: u64, from: u64, bytes: usize, device_ends: &[u64]) -> Answer<()> {
    let process = process()?;
    device_ends.iter().try_for_each(|address| device_side(&process, *address))?;
    let (to_hollow, from_hollow) =
        (is_hollow(&process, to, bytes as u64)?, is_hollow(&process, from, bytes as u64)?);
    if to_hollow || bytes == 0 {
        return Ok(());
    }
    if to == 0 || from == 0 {
        return Err(INVALID_VALUE);
    }
    let to = to as *mut u8;
    if from_hollow {
        // SAFETY: the caller gives a host range of `bytes` to write.
        unsafe { to.write_bytes(0, bytes) };
    } else {
        // SAFETY: the caller gives two host ranges of `bytes`.
        unsafe { to.copy_from(from as *const u8, bytes) };
    }
    Ok(())
}

/// A copy that the program waits for, after all that was launched before.
fn now(to: u64, from: u64, bytes: usize, device_ends: &[u64]) -> Answer<()> {
    synchronise_device()?;
    copy(to, from, bytes, device_ends)
}

/// A copy in a stream. Its content is copied at once: no kernel has changed it. In a capture it is a node.
fn later(
    to: u64,
    from: u64,
    bytes: usize,
    device_ends: &[u64],
    stream: *mut c_void,
    per_thread: bool,
) -> Answer<()> {
    if enter(stream, per_thread)? { copy(to, from, bytes, device_ends) } else { Ok(()) }
}

/// Whether something is to be done at once; else it was put into a capture.
fn enter(stream: *mut c_void, per_thread: bool) -> Answer<bool> {
    let mut process = process()?;
    let at = resolve(&process, stream as usize, per_thread)?;
    if let Some(graph) = process.captures.record(at.key) {
        return graph.map(|_| false);
    }
    submit(&mut process, &at, 0)?;
    Ok(true)
}

fn fill(to: u64, pattern: &[u8], count: usize) -> Answer<()> {
    let process = process()?;
    let bytes = count.checked_mul(pattern.len()).ok_or(INVALID_VALUE)?;
    device_side(&process, to)?;
    if is_hollow(&process, to, bytes as u64)? || pattern.is_empty() {
        return Ok(());
    }
    // SAFETY: managed memory of at least `bytes`, checked.
    let to = unsafe { std::slice::from_raw_parts_mut(to as *mut u8, bytes) };
    to.chunks_exact_mut(pattern.len()).for_each(|chunk| chunk.copy_from_slice(pattern));
    Ok(())
}

macro_rules! copies {
    ($($now:ident, $now_ptds:ident, $later:ident, $later_ptsz:ident: ($to:ident: $to_kind:ty, $from:ident: $from_kind:ty) => $ends:expr;)*) => {$(
        copies!(@now $now, $to: $to_kind, $from: $from_kind, $ends);
        copies!(@now $now_ptds, $to: $to_kind, $from: $from_kind, $ends);
        copies!(@later $later, $to: $to_kind, $from: $from_kind, $ends, false);
        copies!(@later $later_ptsz, $to: $to_kind, $from: $from_kind, $ends, true);
    )*};
    (@now $name:ident, $to:ident: $to_kind:ty, $from:ident: $from_kind:ty, $ends:expr) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($to: $to_kind, $from: $from_kind, bytes: usize) -> c_int {
            code(now($to as u64, $from as u64, bytes, &$ends))
        }
    };
    (@later $name:ident, $to:ident: $to_kind:ty, $from:ident: $from_kind:ty, $ends:expr, $per_thread:literal) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($to: $to_kind, $from: $from_kind, bytes: usize, stream: *mut c_void) -> c_int {
            code(later($to as u64, $from as u64, bytes, &$ends, stream, $per_thread))
        }
    };
}

copies! {
    cuMemcpy, cuMemcpy_ptds, cuMemcpyAsync, cuMemcpyAsync_ptsz: (to: u64, from: u64) => [];
    cuMemcpyHtoD_v2, cuMemcpyHtoD_v2_ptds, cuMemcpyHtoDAsync_v2, cuMemcpyHtoDAsync_v2_ptsz:
        (to: u64, from: *const c_void) => [to];
    cuMemcpyDtoH_v2, cuMemcpyDtoH_v2_ptds, cuMemcpyDtoHAsync_v2, cuMemcpyDtoHAsync_v2_ptsz:
        (to: *mut c_void, from: u64) => [from];
    cuMemcpyDtoD_v2, cuMemcpyDtoD_v2_ptds, cuMemcpyDtoDAsync_v2, cuMemcpyDtoDAsync_v2_ptsz:
        (to: u64, from: u64) => [to, from];
}

macro_rules! fills {
    ($($now:ident, $now_ptds:ident, $later:ident, $later_ptsz:ident: $kind:ty;)*) => {$(
        fills!(@now $now, $kind);
        fills!(@now $now_ptds, $kind);
        fills!(@later $later, $kind, false);
        fills!(@later $later_ptsz, $kind, true);
    )*};
    (@now $name:ident, $kind:ty) => {
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(to: u64, value: $kind, count: usize) -> c_int {
            code(synchronise_device().and_then(|()| fill(to, &value.to_ne_bytes(), count)))
        }
    };
    (@later $name:ident, $kind:ty, $per_thread:literal) => {
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(to: u64, value: $kind, count: usize, stream: *mut c_void) -> c_int {
            code(enter(stream, $per_thread).and_then(|at_once| {
                if at_once { fill(to, &value.to_ne_bytes(), count) } else { Ok(()) }
            }))
        }
    };
}

fills! {
    cuMemsetD8_v2, cuMemsetD8_v2_ptds, cuMemsetD8Async, cuMemsetD8Async_ptsz: c_uchar;
    cuMemsetD16_v2, cuMemsetD16_v2_ptds, cuMemsetD16Async, cuMemsetD16Async_ptsz: c_ushort;
    cuMemsetD32_v2, cuMemsetD32_v2_ptds, cuMemsetD32Async, cuMemsetD32Async_ptsz: c_uint;
}
