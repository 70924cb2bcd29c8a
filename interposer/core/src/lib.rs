//! The back end of the interposer, `libvnpu_core.so`: keeps a process to the quotas of its claims. The
//! front end loads it on the first call that concerns it and speaks to it through one table.

mod allowance;
mod broken;
mod chip_region;
mod chips;
mod claim;
mod clock;
mod compute;
mod entry;
mod events;
#[cfg(feature = "fault")]
mod fault;
mod incarnation;
mod lane;
mod limits;
mod liveness;
mod log;
mod map;
mod measure;
mod numbers;
mod once;
mod place;
mod pointers;
mod primary;
mod process;
mod rate;
mod streams;

pub use entry::vnpu_core_entry;
