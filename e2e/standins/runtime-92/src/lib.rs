//! `libruntime.so` of CANN 9.2: the runtime's functions and, in the same library, the ACL layer's `aclrt*Impl` over
//! them. Own symbols are bound to itself, so a preloaded library sees what others call here, and nothing of what the
//! ACL layer asks of the runtime. The sources are those of `libruntime.so` and `libacl_rt_impl.so` of 8.5 to 9.1.
// The exported names and what they do are the vendor's.
#![allow(
    non_snake_case,
    missing_docs,
    clippy::missing_safety_doc,
    clippy::not_unsafe_ptr_arg_deref,
    clippy::too_many_arguments
)]

#[path = "../../runtime/src/capture.rs"]
mod capture;
#[path = "../../runtime/src/device.rs"]
mod device;
#[path = "../../runtime/src/launch.rs"]
mod launch;
#[path = "../../runtime/src/memory.rs"]
mod memory;
#[path = "../../runtime/src/process.rs"]
mod process;
#[path = "../../runtime/src/sharing.rs"]
mod sharing;
#[path = "../../runtime/src/status.rs"]
mod status;

#[path = "../../acl-rt-impl/src/memory.rs"]
mod acl_memory;
#[path = "../../acl-rt-impl/src/rest.rs"]
mod acl_rest;
/// The names by which the ACL layer calls the runtime.
#[path = "../../acl-rt-impl/src/runtime.rs"]
mod runtime;
