//! The functions of the CUDA driver that no line of a list can say: those of before CUDA 3.2, whose sizes and addresses
//! have 32 bits, and those by which programs get other functions.

use core::cell::Cell;
use core::ffi::{c_char, c_void};

use super::cuda::{Opaque, VENDOR, memory, pitched, place};
use crate::call::{alloc, info, total};
use crate::libc::bytes;
use crate::real::Real;
use crate::unhooked;

type Alloc = unsafe extern "C" fn(*mut u32, u32) -> i32;
type AllocPitch = unsafe extern "C" fn(*mut u32, *mut u32, u32, u32, u32) -> i32;
type Info = unsafe extern "C" fn(*mut u32, *mut u32) -> i32;
type TotalMem = unsafe extern "C" fn(*mut u32, i32) -> i32;
type GetProcAddress = unsafe extern "C" fn(*const c_char, *mut Opaque, i32, u64) -> i32;
type GetProcAddress2 = unsafe extern "C" fn(*const c_char, *mut Opaque, i32, u64, *mut i32) -> i32;

/// The vendor's function behind `own`.
///
/// # Safety
/// `F` is the type of the function pointer.
unsafe fn behind<F: Copy>(real: &Real, own: *const c_void) -> Option<F> {
    let address = real.get(own.cast_mut());
    // SAFETY: the address is not null, and a pointer of this type by contract.
    (!address.is_null()).then(|| unsafe { core::mem::transmute_copy::<*mut c_void, F>(&address) })
}

macro_rules! vendors {
    ($name:ident as $kind:ty) => {
        // SAFETY: the vendor's function of this name has this type (cuda.h).
        match unsafe { behind::<$kind>(&reals::$name, $name as *const c_void) } {
            Some(real) => real,
            None => return VENDOR.no_function(),
        }
    };
}

/// An allocation whose address has 32 bits.
fn narrow(real: impl Fn() -> i32, out: *mut u32, size: u64) -> i32 {
    let wide = Cell::new(0_u64);
    let and_widen = || {
        let code = real();
        if code == 0 && !out.is_null() {
            // SAFETY: the vendor's function succeeded and wrote it.
            wide.set(u64::from(unsafe { *out }));
        }
        code
    };
    alloc(VENDOR, and_widen, place(wide.as_ptr()), memory(size))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc(out: *mut u32, size: u32) -> i32 {
    let real = vendors!(cuMemAlloc as Alloc);
    // SAFETY: the caller's own arguments.
    narrow(|| unsafe { real(out, size) }, out, u64::from(size))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocPitch(
    out: *mut u32,
    pitch: *mut u32,
    width: u32,
    height: u32,
    element: u32,
) -> i32 {
    let real = vendors!(cuMemAllocPitch as AllocPitch);
    let size = pitched(width as usize, height as usize).size;
    // SAFETY: the caller's own arguments.
    narrow(|| unsafe { real(out, pitch, width, height, element) }, out, size)
}

/// A question whose answers have 32 bits: the vendor writes to the program's places, and what the quota says instead
/// is cut to what fits there.
fn cut(wide: &Cell<usize>, to: *mut u32) {
    if !to.is_null() {
        // SAFETY: the vendor's function succeeded with this place.
        unsafe { *to = u32::try_from(wide.get()).unwrap_or(u32::MAX) };
    }
}

fn widen(from: *const u32) -> usize {
    // SAFETY: null, or the place that the vendor's function wrote.
    unsafe { from.as_ref() }.map_or(0, |number| *number as usize)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo(left: *mut u32, all: *mut u32) -> i32 {
    let real = vendors!(cuMemGetInfo as Info);
    let (wide_left, wide_all) = (Cell::new(0), Cell::new(0));
    let and_widen = || {
        // SAFETY: the caller's own arguments.
        let code = unsafe { real(left, all) };
        if code == 0 {
            wide_left.set(widen(left));
            wide_all.set(widen(all));
        }
        code
    };
    let code = info(VENDOR, and_widen, wide_left.as_ptr(), wide_all.as_ptr());
    if code == 0 {
        cut(&wide_left, left);
        cut(&wide_all, all);
    }
    code
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem(to: *mut u32, device: i32) -> i32 {
    let real = vendors!(cuDeviceTotalMem as TotalMem);
    let wide = Cell::new(0);
    let and_widen = || {
        // SAFETY: the caller's own arguments.
        let code = unsafe { real(to, device) };
        wide.set(if code == 0 { widen(to) } else { 0 });
        code
    };
    let code = total(VENDOR, and_widen, wide.as_ptr(), device);
    if code == 0 {
        cut(&wide, to);
    }
    code
}

/// Puts our function in the place of the driver's that a program got, if that is hooked. The driver decides what a name
/// means for a program of some version: only its answer is looked at.
fn put_ours(code: i32, symbol: *const c_char, function: *mut Opaque) -> i32 {
    // SAFETY: null, or the caller's out-pointer, which the driver wrote.
    let found = unsafe { function.as_ref() }.copied().unwrap_or(core::ptr::null_mut());
    if code != 0 || symbol.is_null() || found.is_null() {
        return code;
    }
    // SAFETY: zero-terminated by contract.
    if let Some(hook) = super::behind(unsafe { bytes(symbol) }, found) {
        // SAFETY: as above.
        unsafe { *function = hook.address() };
    } else {
        // SAFETY: zero-terminated by contract.
        unsafe { unhooked::got(symbol) };
    }
    code
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(
    symbol: *const c_char,
    function: *mut Opaque,
    version: i32,
    flags: u64,
) -> i32 {
    let real = vendors!(cuGetProcAddress as GetProcAddress);
    // SAFETY: the caller's own arguments.
    put_ours(unsafe { real(symbol, function, version, flags) }, symbol, function)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    symbol: *const c_char,
    function: *mut Opaque,
    version: i32,
    flags: u64,
    status: *mut i32,
) -> i32 {
    let real = vendors!(cuGetProcAddress_v2 as GetProcAddress2);
    // SAFETY: the caller's own arguments.
    put_ours(unsafe { real(symbol, function, version, flags, status) }, symbol, function)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2_ptsz(
    symbol: *const c_char,
    function: *mut Opaque,
    version: i32,
    flags: u64,
    status: *mut i32,
) -> i32 {
    let real = vendors!(cuGetProcAddress_v2_ptsz as GetProcAddress2);
    // SAFETY: the caller's own arguments.
    put_ours(unsafe { real(symbol, function, version, flags, status) }, symbol, function)
}

hook_table! {
    cuMemAlloc cuMemAllocPitch cuMemGetInfo cuDeviceTotalMem
    cuGetProcAddress cuGetProcAddress_v2 cuGetProcAddress_v2_ptsz
}
