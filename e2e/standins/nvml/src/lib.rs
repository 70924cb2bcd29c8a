//! Stand-in `libnvidia-ml.so.1`: the management library over the stand-in driver. Every function that it exports is
//! modelled; what is not modelled is not exported, so that programs see `NVML_ERROR_FUNCTION_NOT_FOUND`.

#![allow(
    clippy::missing_safety_doc, // the contract is that of the vendor's function of the same name
    clippy::not_unsafe_ptr_arg_deref, // handles are numbers, never dereferenced
    missing_docs,
    non_snake_case
)]

mod device;
mod event;
mod mig;
mod process;
mod structs;
mod system;
mod wire;
