//! How often this process holds each GPU's primary context: it ends with the last release, not with the first.

use std::sync::atomic::{AtomicU32, Ordering};

use vnpu_quota_abi::table::Vendor;

use crate::process::Process;

/// Devices that are counted; of those beyond, every release counts as the last.
const MOST: usize = 64;

/// Holders by the process's own number of the device.
pub(crate) struct Primaries([AtomicU32; MOST]);

impl Primaries {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; MOST])
    }

    fn of(&self, device: i32) -> Option<&AtomicU32> {
        self.0.get(usize::try_from(device).ok()?)
    }

    /// One more.
    pub(crate) fn retained(&self, device: i32) {
        if let Some(holders) = self.of(device) {
            holders.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One less; whether that was the last that is known.
    pub(crate) fn released(&self, device: i32) -> bool {
        let Some(holders) = self.of(device) else { return true };
        // A reset ends the context and leaves its holders.
        let less = |count: u32| count.checked_sub(1);
        !matches!(holders.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less), Ok(before) if before > 1)
    }
}

impl Process {
    /// The program is about to give back a device's primary context; whether that ends it.
    pub(crate) fn is_last_holder(&self, vendor: Vendor, device: i32) -> bool {
        vendor != Vendor::Cuda || self.primaries.released(device)
    }
}
