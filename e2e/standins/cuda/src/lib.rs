//! Stand-in `libcuda.so.1`: the CUDA driver interface over the stand-in driver. Every function that it exports is
//! modelled; what is not modelled is not exported.

#![allow(
    clippy::missing_safety_doc, // the contract is that of the vendor's function of the same name
    clippy::not_unsafe_ptr_arg_deref, // handles are numbers, never dereferenced
    clippy::too_many_arguments,
    clippy::unnecessary_cast, // the same code for pointers and numbers
    missing_docs,
    non_snake_case,
    non_upper_case_globals
)]

mod array;
mod capture;
mod context;
mod copy;
mod device;
mod entry;
mod event;
mod graph;
mod graph_memory;
mod launch;
mod memory;
mod module;
mod pool;
mod process;
mod sharing;
mod sparse;
mod status;
mod stream;
mod virtual_memory;
