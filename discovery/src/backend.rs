//! The face of one vendor towards the node plugin: an inventory, and what containers need of the vendor.

use vnpu_driver::hardware::{Chip, Inventory, ProcessView, Vendor, VendorEdits};

use crate::error::DiscoveryError;

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

    /// Device nodes and driver files of a container that gets `chips`. Only what exists now is named.
    ///
    /// # Errors
    /// [`DiscoveryError::DeviceNode`] when a node that the chips cannot do without is missing.
    fn edits(&self, chips: &[Chip]) -> Result<VendorEdits, DiscoveryError>;
}
