//! Return codes, by the numbers of the vendor's `rt_error_codes.h`.

/// Success.
pub const DONE: i32 = 0;
/// An argument is wrong, or names nothing.
pub const PARAM_INVALID: i32 = 107_000;
/// No such device in this process.
pub const INVALID_DEVICE: i32 = 107_001;
/// The thread has no device.
pub const CONTEXT_NULL: i32 = 107_002;
/// A branch of the capture is not joined to where it began.
pub const STREAM_UNJOINED: i32 = 107_025;
/// The stream is in capture.
pub const STREAM_CAPTURED: i32 = 107_027;
/// The event is a place in a capture.
pub const EVENT_CAPTURED: i32 = 107_028;
/// The stream is not in capture.
pub const STREAM_NOT_CAPTURED: i32 = 107_029;
/// Not while a capture runs that is not relaxed.
pub const CAPTURE_MODE_NOT_SUPPORT: i32 = 107_030;
/// The capture began on another stream.
pub const STREAM_CAPTURE_UNMATCHED: i32 = 107_036;
/// The capture began on another thread.
pub const STREAM_CAPTURE_WRONG_THREAD: i32 = 107_038;
/// The device has not so much memory.
pub const MEMORY_ALLOCATION: i32 = 207_001;
/// The driver does not answer.
pub const DRIVER_INTERNAL: i32 = 507_899;
/// Something broke the capture.
pub const STREAM_CAPTURE_INVALIDATED: i32 = 507_903;
