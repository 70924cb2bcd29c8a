//! What accelerators this node has, by the vendors' own libraries. All vendor `unsafe` of the product is here;
//! nothing here is simulated.

pub mod ascend;
mod backend;
mod error;
mod found;
pub mod generic;
mod heard;
mod host;
mod nodes;
pub mod nvidia;
mod pace;
mod rooted;
mod stamp;
mod sysfs;
mod worker;

#[cfg(test)]
mod promises;
#[cfg(test)]
mod template;

pub use backend::Backend;
pub use error::{DiscoveryError, VendorLibrary};
pub use heard::Heard;
pub use host::Host;
