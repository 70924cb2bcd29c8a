//! For build scripts: links the unwinder into the object instead of needing `libgcc_s.so.1`, which a minimal
//! image need not have, and asks for nothing that an old C library lacks. The vendor's libraries and a C program
//! are no different.

use std::fs;
use std::path::PathBuf;

use vnpu_floor::Links;

/// Called by a library's build script.
pub fn link_statically() {
    link(Links::Library);
}

/// Called by a program's build script.
pub fn link_program_statically() {
    link(Links::Programs);
}

/// Makes `-lgcc_s`, which rustc always passes, mean the static libraries.
fn link(links: Links) {
    vnpu_floor::lower(links);
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("unwinder");
    fs::create_dir_all(&out).expect("create a directory in OUT_DIR");
    // A linker script under the library's name: directories given with -L come before the system's.
    fs::write(out.join("libgcc_s.so"), "GROUP ( -lgcc_eh -lgcc )\n").expect("write into OUT_DIR");
    println!("cargo::rustc-link-search=native={}", out.display());
}
