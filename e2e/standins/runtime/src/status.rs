//! Return codes, by the numbers of the vendor's `rt_error_codes.h`.

/// Success.
pub const DONE: i32 = 0;
/// An argument is wrong, or names nothing.
pub const PARAM_INVALID: i32 = 107_000;
/// No such device in this process.
pub const INVALID_DEVICE: i32 = 107_001;
/// The thread has no device.
pub const CONTEXT_NULL: i32 = 107_002;
/// The device has not so much memory.
pub const MEMORY_ALLOCATION: i32 = 207_001;
/// The driver does not answer.
pub const DRIVER_INTERNAL: i32 = 507_899;
