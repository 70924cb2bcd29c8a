//! The node's half of the quota: creates, fills, reaps, reads and removes the shared regions that the
//! interposer works on. Synchronous and thread-safe; it decides nothing about pods and talks to no API.

mod agent;
mod chip;
mod claim;
mod error;
mod file;
mod layout;
mod locks;
mod map;
mod process;
mod quota;
mod reader;
mod report;
mod usage;

pub use agent::Agent;
pub use error::AgentError;
pub use reader::{ChipTerms, ClaimReading, Reader};
pub use report::{
    Attached, ChipUsage, ClaimRegions, ClaimUsage, ComputeUsage, LedgerCheck, MOST_WITHOUT_SLOT, ReapReport,
};
