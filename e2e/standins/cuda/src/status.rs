//! `CUresult` by the numbers of the vendor's `cuda.h`, and how results become return values.

use std::ffi::{c_char, c_int};

/// A call's result: the error is a `CUresult`.
pub type Answer<T> = Result<T, c_int>;

macro_rules! results {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        $(#[doc = $text] pub const $name: c_int = $value;)*

        fn texts(code: c_int) -> Option<(&'static [u8], &'static [u8])> {
            match code {
                0 => Some((b"CUDA_SUCCESS\0", b"no error\0")),
                $($value => Some((
                    concat!("CUDA_ERROR_", stringify!($name), "\0").as_bytes(),
                    concat!($text, "\0").as_bytes(),
                )),)*
                _ => None,
            }
        }
    };
}

results! {
    INVALID_VALUE = 1, "invalid argument";
    OUT_OF_MEMORY = 2, "out of memory";
    NOT_INITIALIZED = 3, "initialization error";
    NO_DEVICE = 100, "no CUDA-capable device is detected";
    INVALID_DEVICE = 101, "invalid device ordinal";
    INVALID_CONTEXT = 201, "invalid device context";
    FILE_NOT_FOUND = 301, "file not found";
    OPERATING_SYSTEM = 304, "OS call failed or operation not supported on this OS";
    INVALID_HANDLE = 400, "invalid resource handle";
    ILLEGAL_STATE = 401, "the operation cannot be performed in the present state";
    NOT_FOUND = 500, "named symbol not found";
    NOT_READY = 600, "device not ready";
    NOT_SUPPORTED = 801, "operation not supported";
    STREAM_CAPTURE_UNSUPPORTED = 900, "operation not permitted when stream is capturing";
    STREAM_CAPTURE_INVALIDATED = 901, "operation failed due to a previous error during capture";
    STREAM_CAPTURE_MERGE = 902, "operation would result in a merge of separate capture sequences";
    STREAM_CAPTURE_UNMATCHED = 903, "capture was not ended in the same stream as it began";
    STREAM_CAPTURE_UNJOINED = 904, "capturing stream has unjoined work";
    STREAM_CAPTURE_ISOLATION = 905, "dependency created on uncaptured work in another stream";
    STREAM_CAPTURE_IMPLICIT = 906, "operation would make the legacy stream depend on a capturing blocking stream";
    CAPTURED_EVENT = 907, "operation not permitted on an event last recorded in a capturing stream";
    STREAM_CAPTURE_WRONG_THREAD = 908, "attempt to terminate a thread-local capture sequence from another thread";
    GRAPH_RECAPTURE_FAILURE = 918, "the recorded graph is not as it was";
    UNKNOWN = 999, "unknown error";
}

/// Success, or the error's number.
pub fn code(answer: Answer<()>) -> c_int {
    answer.err().unwrap_or(0)
}

/// Writes through an out-pointer of the caller.
///
/// # Safety
/// `to` is null or valid for a write of `T`.
pub unsafe fn put<T>(to: *mut T, value: T) -> Answer<()> {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: not null, and the caller promises the rest.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes through an out-pointer that may be null.
///
/// # Safety
/// `to` is null or valid for a write of `T`.
pub unsafe fn put_if<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: not null, and the caller promises the rest.
        unsafe { to.write(value) };
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: c_int, name: *mut *const c_char) -> c_int {
    let found = texts(error).map(|(name, _)| name.as_ptr().cast());
    // SAFETY: the caller's out-pointer; null for a number that is no result, as the vendor documents.
    let written = unsafe { put(name, found.unwrap_or(std::ptr::null())) };
    code(written.and_then(|()| found.map(|_| ()).ok_or(INVALID_VALUE)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: c_int, text: *mut *const c_char) -> c_int {
    let found = texts(error).map(|(_, text)| text.as_ptr().cast());
    // SAFETY: as for the name.
    let written = unsafe { put(text, found.unwrap_or(std::ptr::null())) };
    code(written.and_then(|()| found.map(|_| ()).ok_or(INVALID_VALUE)))
}
