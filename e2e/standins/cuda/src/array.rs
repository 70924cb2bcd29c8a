//! Arrays for textures: rows padded to 512 bytes (unverified: the vendor's tiling is not known), and mipmaps as the
//! sum of their levels.

use std::ffi::{c_int, c_uint, c_void};

use standin_protocol::Request;

use crate::memory::{on_device, take};
use crate::process::{pointer, process};
use crate::status::{Answer, INVALID_HANDLE, INVALID_VALUE, OUT_OF_MEMORY, code, put};

/// `CUDA_ARRAY_DESCRIPTOR`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Descriptor {
    width: usize,
    height: usize,
    format: c_int,
    channels: c_uint,
}

/// `CUDA_ARRAY3D_DESCRIPTOR`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Descriptor3 {
    width: usize,
    height: usize,
    depth: usize,
    format: c_int,
    channels: c_uint,
    flags: c_uint,
}

impl Descriptor3 {
    /// `CUDA_ARRAY3D_LAYERED` or `CUDA_ARRAY3D_CUBEMAP`: the depth is that of no level, but how many planes each has.
    fn is_layered(&self) -> bool {
        self.flags & 0x05 != 0
    }

    /// `CUDA_ARRAY3D_SPARSE` or `CUDA_ARRAY3D_DEFERRED_MAPPING`: memory is mapped into it later.
    fn is_hollow(&self) -> bool {
        self.flags & 0xc0 != 0
    }
}

/// The descriptor of before CUDA 3.2.
#[repr(C)]
pub struct OldDescriptor {
    width: c_uint,
    height: c_uint,
    format: c_int,
    channels: c_uint,
}

/// The three-dimensional one of before CUDA 3.2.
#[repr(C)]
pub struct OldDescriptor3 {
    width: c_uint,
    height: c_uint,
    depth: c_uint,
    format: c_int,
    channels: c_uint,
    flags: c_uint,
}

/// One array, for as long as its context lives.
#[derive(Debug, Clone, Copy)]
pub struct Array {
    /// The driver's name of its memory, if it has any of its own.
    pub taken: Option<u64>,
    /// Whether it has levels.
    pub mipmapped: bool,
}

/// Bytes of a channel by `CUarray_format`; block-compressed formats are not modelled.
fn channel(format: c_int) -> Option<u64> {
    match format {
        0x01 | 0x08 => Some(1),
        0x02 | 0x09 | 0x10 => Some(2),
        0x03 | 0x0a | 0x20 => Some(4),
        _ => None,
    }
}

fn bytes(descriptor: &Descriptor3, level: u32) -> Option<u64> {
    let shrunk = |extent: usize| ((extent as u64) >> level).max(1);
    if descriptor.width == 0 || ![1, 2, 4].contains(&descriptor.channels) {
        return None;
    }
    let element = channel(descriptor.format)? * u64::from(descriptor.channels);
    let row = shrunk(descriptor.width).checked_mul(element)?.checked_next_multiple_of(512)?;
    let planes = if descriptor.is_layered() { descriptor.depth as u64 } else { shrunk(descriptor.depth) };
    row.checked_mul(shrunk(descriptor.height))?.checked_mul(planes)
}

fn create(descriptor: &Descriptor3, levels: Option<u32>) -> Answer<usize> {
    let mut process = process()?;
    let (context, found) = process.current()?;
    process.forbid_in_capture()?;
    let each: Option<Vec<u64>> = (0..levels.unwrap_or(1)).map(|level| bytes(descriptor, level)).collect();
    let all = each.ok_or(INVALID_VALUE)?.into_iter().try_fold(0, u64::checked_add).ok_or(OUT_OF_MEMORY)?;
    let taken = match on_device(all).ok_or(OUT_OF_MEMORY)? {
        _ if descriptor.is_hollow() => None,
        bytes => Some(take(&mut process, found.device, bytes)?),
    };
    let handle = process.handle();
    let array = Array { taken, mipmapped: levels.is_some() };
    process.memory.arrays.insert(handle, (context, array));
    Ok(handle)
}

fn destroy(array: *mut c_void, mipmapped: bool) -> Answer<()> {
    let mut process = process()?;
    process.forbid_in_capture()?;
    let handle = array as usize;
    match process.memory.arrays.get(&handle) {
        Some((_, array)) if array.mipmapped == mipmapped => {
            let address = array.taken;
            process.memory.arrays.remove(&handle);
            crate::sparse::clear(&mut process, handle)?;
            match address {
                Some(address) => process.ask(&Request::Free { address }).map(|_| ()),
                None => Ok(()),
            }
        }
        _ => Err(INVALID_HANDLE),
    }
}

/// # Safety
/// `array` is null or the caller's out-pointer.
unsafe fn create_into(array: *mut *mut c_void, descriptor: Descriptor3, levels: Option<u32>) -> c_int {
    if array.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's out-pointer.
    code(create(&descriptor, levels).and_then(|handle| unsafe { put(array, pointer(handle)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArrayCreate_v2(array: *mut *mut c_void, descriptor: *const Descriptor) -> c_int {
    // SAFETY: null, or the caller's structure.
    let Some(&Descriptor { width, height, format, channels }) = (unsafe { descriptor.as_ref() }) else {
        return INVALID_VALUE;
    };
    // SAFETY: same contract.
    unsafe { create_into(array, Descriptor3 { width, height, depth: 0, format, channels, flags: 0 }, None) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArray3DCreate_v2(
    array: *mut *mut c_void,
    descriptor: *const Descriptor3,
) -> c_int {
    // SAFETY: null, or the caller's structure.
    let Some(descriptor) = (unsafe { descriptor.as_ref() }) else { return INVALID_VALUE };
    // SAFETY: same contract.
    unsafe { create_into(array, *descriptor, None) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArrayCreate(array: *mut *mut c_void, descriptor: *const OldDescriptor) -> c_int {
    // SAFETY: null, or the caller's structure.
    let Some(old) = (unsafe { descriptor.as_ref() }) else { return INVALID_VALUE };
    let descriptor = Descriptor3 {
        width: old.width as usize,
        height: old.height as usize,
        depth: 0,
        format: old.format,
        channels: old.channels,
        flags: 0,
    };
    // SAFETY: same contract.
    unsafe { create_into(array, descriptor, None) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArray3DCreate(
    array: *mut *mut c_void,
    descriptor: *const OldDescriptor3,
) -> c_int {
    // SAFETY: null, or the caller's structure.
    let Some(old) = (unsafe { descriptor.as_ref() }) else { return INVALID_VALUE };
    let descriptor = Descriptor3 {
        width: old.width as usize,
        height: old.height as usize,
        depth: old.depth as usize,
        format: old.format,
        channels: old.channels,
        flags: old.flags,
    };
    // SAFETY: same contract.
    unsafe { create_into(array, descriptor, None) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuArrayDestroy(array: *mut c_void) -> c_int {
    code(destroy(array, false))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMipmappedArrayCreate(
    array: *mut *mut c_void,
    descriptor: *const Descriptor3,
    levels: c_uint,
) -> c_int {
    // SAFETY: null, or the caller's structure.
    let Some(descriptor) = (unsafe { descriptor.as_ref() }) else { return INVALID_VALUE };
    // 1 to the number of halvings of the longest side, as the vendor documents.
    let depth = if descriptor.is_layered() { 1 } else { descriptor.depth };
    let longest = descriptor.width.max(descriptor.height).max(depth).max(1);
    let levels = levels.clamp(1, 1 + longest.ilog2());
    // SAFETY: same contract.
    unsafe { create_into(array, *descriptor, Some(levels)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMipmappedArrayDestroy(array: *mut c_void) -> c_int {
    code(destroy(array, true))
}
