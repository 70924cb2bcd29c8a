//! For build scripts: links the unwinder into the object instead of needing `libgcc_s.so.1`, which a minimal
//! image need not have, and asks for nothing that an old C library lacks. The vendor's libraries and a C program
//! are no different.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

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

/// Link arguments of one of the vendor's libraries: its name, own symbols bound to itself, and the need for the one
/// below. Cargo orders no cdylibs, so the linker sees an empty library of that name; the loader finds the real one.
pub fn link_over(own: &str, below: &str) {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let status = Command::new("cc")
        .args(["-shared", "-nostdlib", "-x", "c", "/dev/null", "-o"])
        .arg(out.join(below))
        .arg(format!("-Wl,-soname,{below}"))
        .status()
        .expect("a C compiler driver is there, rustc links with it");
    assert!(status.success(), "the stub of {below} does not link");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,{own}");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-rpath,$ORIGIN");
    println!("cargo::rustc-cdylib-link-arg=-Wl,--no-as-needed");
    println!("cargo::rustc-cdylib-link-arg=-L{}", out.display());
    println!("cargo::rustc-cdylib-link-arg=-l:{below}");
}
