//! Memory pools of the CUDA driver, and streams: on which device memory is that is given in stream order. The context that
//! the calling thread has current says nothing of it, and it need not have one.

use std::ffi::c_void;

use vnpu_quota_abi::table::{CURRENT_DEVICE, Vendor};

use crate::cuda_contexts::is_default;
use crate::pointers::Plain;
use crate::process::Process;

/// What is known of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) device: i32,
}

// SAFETY: numbers.
unsafe impl Plain for Pool {}

impl Process {
    /// A pool has its memory on a device.
    pub(crate) fn note_pool(&self, pool: *mut c_void, device: i32) {
        self.retry();
        self.pool_made(pool as u64);
        let _ = self.pools.insert(pool as u64, Pool { device });
    }

    /// The number of a device that may be the current one.
    pub(crate) fn ordinal(&self, device: i32) -> Option<i32> {
        if device != CURRENT_DEVICE {
            return Some(device);
        }
        let current = self.driver().and_then(|driver| driver.current_device());
        current.or_else(|| self.sees_one(Vendor::Cuda).then_some(0))
    }

    /// The device of a stream.
    pub(crate) fn device_of_stream(&self, stream: u64) -> i32 {
        if self.sees_one(Vendor::Cuda) {
            return 0;
        }
        if is_default(stream as *mut c_void) {
            return CURRENT_DEVICE;
        }
        self.driver().and_then(|driver| driver.device_of_stream(stream)).unwrap_or(CURRENT_DEVICE)
    }

    /// The device of a pool. One that is not known, which is one of another process's, gives nothing.
    pub(crate) fn device_of_pool(&self, pool: u64, stream: u64) -> i32 {
        match self.pools.get(pool) {
            Some(Pool { device }) if device != CURRENT_DEVICE => device,
            _ => self.device_of_stream(stream),
        }
    }
}
