//! `libacl_rt_impl.so`: the ACL layer's work, on top of `libruntime.so`, layering of CANN 8.5 to 9.1.
//! Sizes: `aclrtMalloc` and `aclrtMallocCached` round up to 32 bytes and add 32 more, `aclrtMallocAlign32` only
//! rounds, the rest pass their size on (names and documentation of the vendor's ACL; unverified on hardware).
// The exported names and what they do are the vendor's.
#![allow(
    non_snake_case,
    missing_docs,
    clippy::missing_safety_doc,
    clippy::not_unsafe_ptr_arg_deref,
    clippy::too_many_arguments
)]

mod memory;
mod rest;
mod runtime;
