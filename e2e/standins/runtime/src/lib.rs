//! `libruntime.so`: the stand-in of CANN's runtime, layering of 8.5 to 9.1 (the ACL layer above calls it).
//!
//! Modelled: devices by the `davinciN` nodes that the process has, device memory owned by the driver process,
//! page rounding, contexts, handles, sharing of memory. Not modelled: the memory's content (copies to the host
//! give zeros).
//!
//! Rounding, as far as it is known: a request over 1 MiB takes huge pages of 2 MiB unless the policy says normal
//! pages only (documented for `ACL_MEM_MALLOC_HUGE_FIRST`), smaller ones multiples of 512 B (unverified on hardware).
// The exported names and what they do are the vendor's.
#![allow(
    non_snake_case,
    missing_docs,
    clippy::missing_safety_doc,
    clippy::not_unsafe_ptr_arg_deref,
    clippy::too_many_arguments
)]

mod capture;
mod device;
mod launch;
mod memory;
mod process;
mod sharing;
mod status;
