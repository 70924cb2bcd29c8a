//! The stand-in for the kernel driver of one machine: it owns memory, chips and processes, and answers the
//! stand-in vendor libraries over a unix socket. Also lays out a driver's files and device nodes.

mod layout;
mod machine_file;
mod meter;
mod server;
mod state;
#[cfg(test)]
mod tests;

pub use layout::{LayoutError, LayoutOptions, lay_out};
pub use machine_file::{MachineFile, parse};
pub use server::Server;
pub use state::{PeerId, State};
