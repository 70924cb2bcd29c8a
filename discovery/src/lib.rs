//! What accelerators this node has, by the vendors' own libraries. All vendor `unsafe` of the product is here;
//! nothing here is simulated.

pub mod ascend;
mod backend;
mod error;

pub use backend::Backend;
pub use error::DiscoveryError;
