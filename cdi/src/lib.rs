//! Container Device Interface files: the types we write, the rules that readers hold them to, and a writer that
//! a crash cannot make leave half a file. Nothing here knows what a claim or an accelerator is.

mod dir;
mod error;
mod spec;
mod validate;

pub use dir::{CdiDir, Found};
pub use error::{CdiError, Invalid};
pub use spec::{ContainerEdits, Device, DeviceNode, Hook, Mount, Spec, VERSION_0_5, VERSION_0_6};
pub use validate::{qualified_name, validate};
