//! What stable Rust cannot say without std: weak references to functions that not every C library has, one thread-local counter,
//! and a `dlsym` that can hand over to the real one without a frame of ours on the stack.
//!
//! Before glibc 2.34 the loader's functions live in libdl.so.2. A strong reference would keep every program that
//! does not load it from starting; a weak one is null there, and such a process can load no vendor library.

use core::arch::global_asm;
use core::ffi::{c_char, c_int, c_void};

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".weak dlopen",
    ".weak dlvsym",
    ".weak secure_getenv",
    ".globl vnpu_address_of_dlopen",
    ".hidden vnpu_address_of_dlopen",
    ".type vnpu_address_of_dlopen,@function",
    "vnpu_address_of_dlopen:",
    "mov rax, qword ptr [rip + dlopen@GOTPCREL]",
    "ret",
    ".globl vnpu_address_of_dlvsym",
    ".hidden vnpu_address_of_dlvsym",
    ".type vnpu_address_of_dlvsym,@function",
    "vnpu_address_of_dlvsym:",
    "mov rax, qword ptr [rip + dlvsym@GOTPCREL]",
    "ret",
    ".globl vnpu_address_of_secure_getenv",
    ".hidden vnpu_address_of_secure_getenv",
    ".type vnpu_address_of_secure_getenv,@function",
    "vnpu_address_of_secure_getenv:",
    "mov rax, qword ptr [rip + secure_getenv@GOTPCREL]",
    "ret",
    // Initial-exec: the library is in the process from its start, so its block is in the static area.
    ".section .tbss.vnpu_depth,\"awT\",@nobits",
    ".p2align 2",
    ".hidden vnpu_depth",
    ".type vnpu_depth,@object",
    ".size vnpu_depth,4",
    "vnpu_depth:",
    ".zero 4",
    ".text",
    ".globl vnpu_depth_address",
    ".hidden vnpu_depth_address",
    ".type vnpu_depth_address,@function",
    "vnpu_depth_address:",
    "mov rax, qword ptr fs:[0]",
    "add rax, qword ptr [rip + vnpu_depth@GOTTPOFF]",
    "ret",
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".weak dlopen",
    ".weak dlvsym",
    ".weak secure_getenv",
    ".globl vnpu_address_of_dlopen",
    ".hidden vnpu_address_of_dlopen",
    ".type vnpu_address_of_dlopen,%function",
    "vnpu_address_of_dlopen:",
    "adrp x0, :got:dlopen",
    "ldr x0, [x0, :got_lo12:dlopen]",
    "ret",
    ".globl vnpu_address_of_dlvsym",
    ".hidden vnpu_address_of_dlvsym",
    ".type vnpu_address_of_dlvsym,%function",
    "vnpu_address_of_dlvsym:",
    "adrp x0, :got:dlvsym",
    "ldr x0, [x0, :got_lo12:dlvsym]",
    "ret",
    ".globl vnpu_address_of_secure_getenv",
    ".hidden vnpu_address_of_secure_getenv",
    ".type vnpu_address_of_secure_getenv,%function",
    "vnpu_address_of_secure_getenv:",
    "adrp x0, :got:secure_getenv",
    "ldr x0, [x0, :got_lo12:secure_getenv]",
    "ret",
    ".section .tbss.vnpu_depth,\"awT\",%nobits",
    ".p2align 2",
    ".hidden vnpu_depth",
    ".type vnpu_depth,%object",
    ".size vnpu_depth,4",
    "vnpu_depth:",
    ".zero 4",
    ".text",
    ".globl vnpu_depth_address",
    ".hidden vnpu_depth_address",
    ".type vnpu_depth_address,%function",
    "vnpu_depth_address:",
    "mrs x0, tpidr_el0",
    "adrp x1, :gottprel:vnpu_depth",
    "ldr x1, [x1, :gottprel_lo12:vnpu_depth]",
    "add x0, x0, x1",
    "ret",
);

unsafe extern "C" {
    fn vnpu_address_of_dlopen() -> *const c_void;
    fn vnpu_address_of_dlvsym() -> *const c_void;
    fn vnpu_address_of_secure_getenv() -> *const c_void;
    fn vnpu_depth_address() -> *mut u32;
}

pub(crate) type Dlopen = unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void;
pub(crate) type Dlvsym = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> *mut c_void;
pub(crate) type Dlsym = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;

/// The loader's `dlopen`, where the process has one.
pub(crate) fn dlopen() -> Option<Dlopen> {
    // SAFETY: reads one word of our own global offset table.
    let address = unsafe { vnpu_address_of_dlopen() };
    // SAFETY: what the dynamic linker resolved under this name has this type; null is `None`.
    unsafe { core::mem::transmute::<*const c_void, Option<Dlopen>>(address) }
}

/// The loader's `dlvsym`, where the process has one.
pub(crate) fn dlvsym() -> Option<Dlvsym> {
    // SAFETY: reads one word of our own global offset table.
    let address = unsafe { vnpu_address_of_dlvsym() };
    // SAFETY: what the dynamic linker resolved under this name has this type; null is `None`.
    unsafe { core::mem::transmute::<*const c_void, Option<Dlvsym>>(address) }
}

pub(crate) type SecureGetenv = unsafe extern "C" fn(*const c_char) -> *const c_char;

/// The C library's `secure_getenv`, which musl has from 1.1.24 on.
pub(crate) fn secure_getenv() -> Option<SecureGetenv> {
    // SAFETY: reads one word of our own global offset table.
    let address = unsafe { vnpu_address_of_secure_getenv() };
    // SAFETY: what the dynamic linker resolved under this name has this type; null is `None`.
    unsafe { core::mem::transmute::<*const c_void, Option<SecureGetenv>>(address) }
}

/// How many of our hooks the calling thread is in.
pub(crate) fn depth() -> *mut u32 {
    // SAFETY: computes the address of the thread's own counter.
    unsafe { vnpu_depth_address() }
}

/// `dlsym` as programs see it. Names that we hook are answered by `vnpu_dlsym_hooked`; everything else goes on
/// to the real function by a jump, because it judges RTLD_NEXT and RTLD_DEFAULT by its return address.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!(
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {hooked}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "test rdx, rdx",
        "jz 2f",
        "jmp rax",
        "2:",
        "ret",
        hooked = sym crate::dlsym::vnpu_dlsym_hooked,
    );
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!(
        "stp x29, x30, [sp, #-32]!",
        "stp x0, x1, [sp, #16]",
        "mov x29, sp",
        "bl {hooked}",
        "mov x9, x0",
        "mov x10, x1",
        "ldp x0, x1, [sp, #16]",
        "ldp x29, x30, [sp], #32",
        "cbz x10, 2f",
        "br x9",
        "2:",
        "mov x0, x9",
        "ret",
        hooked = sym crate::dlsym::vnpu_dlsym_hooked,
    );
}
