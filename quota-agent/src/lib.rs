//! The node's half of the quota: creates, fills, reaps, reads and removes the shared regions that the
//! interposer works on. Synchronous and thread-safe; it decides nothing about pods and talks to no API.

mod agent;
mod aside;
mod audit;
mod breach;
mod chip;
mod claim;
mod debt;
mod error;
mod file;
mod kill;
mod layout;
pub mod ledger;
mod live;
mod locks;
mod map;
mod process;
mod quota;
mod reader;
mod report;
mod usage;
mod witness;

pub use agent::Agent;
pub use audit::{Books, ChipAudit, ClaimAudit, Promise};
pub use breach::{Facts, Judgement, Limits, Verdict, Watch};
pub use error::AgentError;
pub use kill::{Offender, Spared};
pub use reader::{ChipTerms, ClaimReading, Reader};
pub use report::{
    Attached, ChipUsage, ClaimRegions, ClaimUsage, ComputeUsage, MOST_WITHOUT_SLOT, ReapReport,
};
pub use witness::{Evidence, Home};
