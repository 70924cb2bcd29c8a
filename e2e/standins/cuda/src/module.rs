//! Modules, libraries and functions. There is no code in this stand-in, only how long it takes: **a function handle
//! below `0x7e00_0000_0000` is the kernel's duration in nanoseconds**, for programs that make up their own, and a
//! function got from a module or library takes what its name ends in (`_20us`, `_1500ns`, `_3ms`), else 10 us.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use standin_protocol::Request;

use crate::memory::take;
use crate::process::{FIRST_HANDLE, Process, pointer, process};
use crate::status::{
    Answer, FILE_NOT_FOUND, INVALID_CONTEXT, INVALID_HANDLE, INVALID_VALUE, NOT_FOUND, code, put,
};

const USUAL: u64 = 10_000;

#[derive(Debug, Clone, Copy)]
struct Module {
    /// 0 for a library, which belongs to no context.
    context: usize,
    /// The driver's name of what it takes of the device.
    taken: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Function {
    module: usize,
    nanos: u64,
}

/// The process's modules.
#[derive(Default)]
pub struct Modules {
    modules: BTreeMap<usize, Module>,
    functions: BTreeMap<usize, Function>,
}

impl Modules {
    /// A context ends, and the driver frees what its modules took with the device.
    pub fn forget(&mut self, context: usize) {
        self.modules.retain(|_, module| module.context != context);
        let modules = &self.modules;
        self.functions.retain(|_, function| modules.contains_key(&function.module));
    }
}

/// How long a kernel takes.
pub fn nanos_of(process: &Process, function: usize) -> Answer<u64> {
    match function {
        0 => Err(INVALID_HANDLE),
        nanos if nanos < FIRST_HANDLE => Ok(nanos as u64),
        handle => process.modules.functions.get(&handle).map(|found| found.nanos).ok_or(INVALID_HANDLE),
    }
}

/// What a function's name says of its duration.
fn nanos_in(name: &str) -> Option<u64> {
    let last = name.rsplit('_').next()?;
    let (number, unit) = last.split_at(last.find(|c: char| !c.is_ascii_digit())?);
    let factor = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// What a module takes is taken of the calling thread's device.
fn load(library: bool) -> Answer<usize> {
    let mut process = process()?;
    process.forbid_in_capture()?;
    let current = process.current();
    if !library {
        current?;
    }
    let bytes = process.driver.as_ref().map_or(0, |driver| driver.module_bytes);
    let taken = match current {
        Ok((_, context)) if bytes > 0 => Some(take(&mut process, context.device, bytes)?),
        _ => None,
    };
    let context = if library { 0 } else { current.map(|(handle, _)| handle)? };
    let handle = process.handle();
    process.modules.modules.insert(handle, Module { context, taken });
    Ok(handle)
}

fn unload(module: *mut c_void) -> Answer<()> {
    let mut process = process()?;
    let module = module as usize;
    let gone = process.modules.modules.remove(&module).ok_or(INVALID_HANDLE)?;
    process.modules.functions.retain(|_, function| function.module != module);
    match gone.taken {
        Some(address) => process.ask(&Request::Free { address }).map(|_| ()),
        None => Ok(()),
    }
}

/// # Safety
/// `name` is null or a NUL-terminated string.
unsafe fn function(module: *mut c_void, name: *const c_char) -> Answer<usize> {
    if name.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: not null, and the caller promises the rest.
    let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| NOT_FOUND)?;
    let mut process = process()?;
    let module = module as usize;
    if !process.modules.modules.contains_key(&module) {
        return Err(INVALID_HANDLE);
    }
    if name.is_empty() {
        return Err(NOT_FOUND);
    }
    let handle = process.handle();
    let made = Function { module, nanos: nanos_in(name).unwrap_or(USUAL) };
    process.modules.functions.insert(handle, made);
    Ok(handle)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> c_int {
    let loaded = if image.is_null() { Err(INVALID_VALUE) } else { load(false) };
    // SAFETY: the caller's out-pointer.
    code(loaded.and_then(|handle| unsafe { put(module, pointer(handle)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut *mut c_void,
    image: *const c_void,
    _count: c_uint,
    _options: *mut c_int,
    _values: *mut *mut c_void,
) -> c_int {
    // SAFETY: same contract.
    unsafe { cuModuleLoadData(module, image) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadFatBinary(module: *mut *mut c_void, image: *const c_void) -> c_int {
    // SAFETY: same contract.
    unsafe { cuModuleLoadData(module, image) }
}

/// # Safety
/// `name` is null or a NUL-terminated string.
unsafe fn exists(name: *const c_char) -> Answer<()> {
    if name.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: not null, and the caller promises the rest.
    let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| FILE_NOT_FOUND)?;
    std::fs::metadata(name).map(|_| ()).map_err(|_| FILE_NOT_FOUND)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(module: *mut *mut c_void, name: *const c_char) -> c_int {
    // SAFETY: the caller's string and out-pointer.
    code(unsafe { exists(name).and_then(|()| load(false)).and_then(|handle| put(module, pointer(handle))) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: *mut c_void) -> c_int {
    code(unload(module))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    to: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> c_int {
    // SAFETY: the caller's string and out-pointer.
    code(unsafe { function(module, name).and_then(|handle| put(to, pointer(handle))) })
}

/// There are no variables.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetGlobal_v2(
    _to: *mut u64,
    _bytes: *mut usize,
    _module: *mut c_void,
    _name: *const c_char,
) -> c_int {
    code(process().and(Err(NOT_FOUND)))
}

/// `CU_MODULE_LAZY_LOADING`.
const LAZY: c_int = 2;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetLoadingMode(mode: *mut c_int) -> c_int {
    // SAFETY: the caller's out-pointer.
    code(process().and_then(|_| unsafe { put(mode, LAZY) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryLoadData(
    library: *mut *mut c_void,
    image: *const c_void,
    _jit_options: *mut c_int,
    _jit_values: *mut *mut c_void,
    _jit_count: c_uint,
    _options: *mut c_int,
    _values: *mut *mut c_void,
    _count: c_uint,
) -> c_int {
    let loaded = if image.is_null() { Err(INVALID_VALUE) } else { load(true) };
    // SAFETY: the caller's out-pointer.
    code(loaded.and_then(|handle| unsafe { put(library, pointer(handle)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryLoadFromFile(
    library: *mut *mut c_void,
    name: *const c_char,
    _jit_options: *mut c_int,
    _jit_values: *mut *mut c_void,
    _jit_count: c_uint,
    _options: *mut c_int,
    _values: *mut *mut c_void,
    _count: c_uint,
) -> c_int {
    // SAFETY: the caller's string and out-pointer.
    code(unsafe { exists(name).and_then(|()| load(true)).and_then(|handle| put(library, pointer(handle))) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryUnload(library: *mut c_void) -> c_int {
    code(unload(library))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetKernel(
    to: *mut *mut c_void,
    library: *mut c_void,
    name: *const c_char,
) -> c_int {
    // SAFETY: the caller's string and out-pointer.
    code(unsafe { function(library, name).and_then(|handle| put(to, pointer(handle))) })
}

/// A library is its own module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetModule(to: *mut *mut c_void, library: *mut c_void) -> c_int {
    let known = process().and_then(|process| {
        process.current()?;
        process.modules.modules.get(&(library as usize)).map(|_| ()).ok_or(INVALID_HANDLE)
    });
    // SAFETY: the caller's out-pointer.
    code(known.and_then(|()| unsafe { put(to, library) }))
}

/// A kernel is its own function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetFunction(to: *mut *mut c_void, kernel: *mut c_void) -> c_int {
    let known = process().and_then(|process| {
        process.current().map_err(|_| INVALID_CONTEXT)?;
        nanos_of(&process, kernel as usize)
    });
    // SAFETY: the caller's out-pointer.
    code(known.and_then(|_| unsafe { put(to, kernel) }))
}

/// Numbers of `CUfunction_attribute`: 0 is the most threads in a block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    function: *mut c_void,
) -> c_int {
    let known = process().and_then(|process| nanos_of(&process, function as usize));
    // SAFETY: the caller's out-pointer.
    code(known.and_then(|_| unsafe { put(value, if attribute == 0 { 1024 } else { 0 }) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: *mut c_void, _attribute: c_int, _value: c_int) -> c_int {
    code(process().and_then(|process| nanos_of(&process, function as usize)).map(|_| ()))
}
