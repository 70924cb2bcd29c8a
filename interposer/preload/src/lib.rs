//! The front end of the interposer, preloaded into every process of a container: it stands before the vendor
//! runtime's allocation, free and memory-info functions and before `dlsym`, and nothing else.
//!
//! It has no std, no constructors, no allocation and needs no library: most processes of a container never touch
//! the runtime and pay only for the mapping. The back end is loaded on the first call that concerns it.
#![no_std]

mod arrays;
mod asm;
mod call;
mod contexts;
mod core_library;
mod dlsym;
mod elf;
mod exports;
mod graphs;
mod hooks;
mod libc;
mod manage;
mod memory;
mod pools;
mod real;
mod unhooked;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic short of a bug; there is no way to go on and nothing to unwind to.
    libc::abort_process()
}
