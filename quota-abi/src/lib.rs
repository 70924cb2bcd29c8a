//! The shared regions between the node's agent and the interposer in every tenant process: their layout, the
//! atomic protocols on them, and the function table between the interposer's two halves.
//!
//! Three kinds of region: `quota` (limits of one claim, written by the agent only), `usage` (the ledger of one
//! claim, written by its processes) and `device` (one per chip, shared by the claims on it). No pointers, no
//! mutexes, fixed widths, native endianness: a region never leaves its machine.
#![no_std]

pub mod allowance;
pub mod bucket;
pub mod charge;
pub mod device;
pub mod gate;
pub mod header;
pub mod lease;
pub mod ledger;
pub mod line;
pub mod mark;
mod marks;
pub mod quota;
pub mod recent;
pub mod slot;
mod sync;
pub mod table;
mod tuning;
pub mod usage;
pub mod view;
mod wishes;

/// Version of the layouts in this crate. Appending to a reserved field keeps it; moving anything raises it.
pub const LAYOUT_VERSION: u16 = 2;
/// Lowest [`LAYOUT_VERSION`] of a reader that can work with regions written by this crate.
pub const MIN_READER: u16 = 2;
/// Slots of a `usage` region: processes of one claim that can hold device memory at a time.
pub const SLOT_COUNT: u16 = 512;
/// Entries of a `device` region: claims that can share one chip.
pub const DEVICE_ENTRIES: u16 = 128;
