//! The back end of the interposer, `libvnpu_core.so`: keeps a process to the quotas of its claims. The
//! front end loads it on the first call that concerns it and speaks to it through one table.

mod allocations;
mod bounded;
mod broken;
mod chip_region;
mod chips;
mod claim;
mod clock;
mod compute;
mod contexts;
mod cuda_contexts;
mod driver;
mod entry;
mod events;
mod exports;
#[cfg(feature = "fault")]
mod fault;
mod graphs;
mod incarnation;
mod lane;
mod limits;
mod liveness;
mod log;
mod map;
mod mappings;
mod measure;
mod numbers;
mod once;
mod place;
mod pointers;
mod pool_memory;
mod pools;
mod primary;
mod process;
mod rate;
mod streams;

pub use entry::vnpu_core_entry;
