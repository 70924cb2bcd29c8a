//! The face of one vendor towards the node plugin: an inventory, and what containers need of the vendor.

use vnpu_driver::hardware::{Chip, Inventory, ProcessView, Usage, Vendor, VendorEdits};

use crate::error::DiscoveryError;
use crate::heard::Heard;

/// One vendor's devices on this node.
///
/// All calls may block up to the configured deadline per vendor call: an async caller uses a blocking thread.
/// They are safe to make from several threads.
pub trait Backend: ProcessView + Send + Sync {
    /// Whose devices.
    fn vendor(&self) -> Vendor;

    /// Looks at all devices afresh. What is wrong with single devices stands in `Inventory::problems` (and in a
    /// chip's health), and the others are still there.
    ///
    /// # Errors
    /// When nothing can be said about any device; the caller keeps its last inventory and, where
    /// [`DiscoveryError::retryable`], asks again.
    fn discover(&self) -> Result<Inventory, DiscoveryError>;

    /// From now on `heard` is told when the vendor says that something happened to a device, so that a look need not wait
    /// for its period. To be called once, before the first look. A vendor that says nothing is only looked at.
    fn listen(&self, heard: Heard) {
        drop(heard);
    }

    /// What a chip of the last look does now. What cannot be said, or not within the deadline, is left out.
    fn usage(&self, chip: &Chip) -> Usage {
        let _ = chip;
        Usage::default()
    }

    /// Device nodes and driver files of a container that gets `chips`. Only what exists now is named.
    ///
    /// # Errors
    /// [`DiscoveryError::DeviceNode`] when a node that the chips cannot do without is missing.
    fn edits(&self, chips: &[Chip]) -> Result<VendorEdits, DiscoveryError>;
}
