//! The few functions of the C library that are used. They are declared here without symbol versions, so that
//! any glibc (and musl) satisfies them; the loader's own are weak, see `asm`.

use core::ffi::{c_char, c_int, c_void};

pub(crate) const RTLD_LAZY: c_int = 1;
pub(crate) const RTLD_NOW: c_int = 2;
pub(crate) const RTLD_NOLOAD: c_int = 4;
pub(crate) const RTLD_NEXT: *mut c_void = usize::MAX as *mut c_void;

pub(crate) type DlIterateCallback = unsafe extern "C" fn(*mut c_void, usize, *mut c_void) -> c_int;

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
    fn access(path: *const c_char, mode: c_int) -> c_int;
    fn write(fd: c_int, from: *const c_void, len: usize) -> isize;
    fn abort() -> !;
    pub(crate) fn dl_iterate_phdr(callback: DlIterateCallback, data: *mut c_void) -> c_int;
}

/// Restores `errno` to what it was when this was made: a hook must not disturb it.
pub(crate) struct Errno(c_int);

impl Errno {
    pub(crate) fn save() -> Self {
        // SAFETY: the C library's per-thread variable, valid for the thread's life.
        Self(unsafe { *__errno_location() })
    }
}

impl Drop for Errno {
    fn drop(&mut self) {
        // SAFETY: as in `save`.
        unsafe { *__errno_location() = self.0 }
    }
}

/// The length of a zero-terminated text.
///
/// # Safety
/// `text` is zero-terminated.
pub(crate) unsafe fn length(text: *const c_char) -> usize {
    let mut len = 0;
    // SAFETY: no byte past the terminator is read.
    while unsafe { *text.add(len) } != 0 {
        len += 1;
    }
    len
}

/// The bytes of a zero-terminated text, without the zero.
///
/// # Safety
/// `text` is zero-terminated and lives for `'a`.
pub(crate) unsafe fn bytes<'a>(text: *const c_char) -> &'a [u8] {
    // SAFETY: `length` bytes are readable.
    unsafe { core::slice::from_raw_parts(text.cast(), length(text)) }
}

/// An environment variable, unless the process runs with raised privileges.
pub(crate) fn environment(name: &'static [u8]) -> Option<&'static [u8]> {
    debug_assert!(name.last() == Some(&0));
    // SAFETY: `name` is zero-terminated.
    let value = unsafe { crate::asm::secure_getenv()?(name.as_ptr().cast()) };
    // SAFETY: values are zero-terminated; whoever changes the environment while others read breaks every program.
    (!value.is_null()).then(|| unsafe { bytes(value) })
}

/// Whether a path (with its zero) exists.
pub(crate) fn exists(path: &[u8]) -> bool {
    // SAFETY: `path` ends with a zero, which the callers' buffers guarantee.
    path.last() == Some(&0) && unsafe { access(path.as_ptr().cast(), 0) } == 0
}

/// One line on standard error.
pub(crate) fn log(line: &[u8]) {
    // SAFETY: reads `line.len()` bytes of a valid slice.
    let _ = unsafe { write(2, line.as_ptr().cast(), line.len()) };
}

/// Ends the process.
pub(crate) fn abort_process() -> ! {
    // SAFETY: never returns.
    unsafe { abort() }
}
