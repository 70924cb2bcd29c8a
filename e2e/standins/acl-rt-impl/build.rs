//! Link arguments of `libacl_rt_impl.so`: its name, own symbols bound to itself, and the need for `libruntime.so`.
//! Cargo orders no cdylibs, so the linker sees an empty library of that name; the loader finds the real one.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    standin_unwinder::link_statically();
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let status = Command::new("cc")
        .args(["-shared", "-nostdlib", "-x", "c", "/dev/null", "-Wl,-soname,libruntime.so", "-o"])
        .arg(out.join("libruntime.so"))
        .status()
        .expect("a C compiler driver is there, rustc links with it");
    assert!(status.success(), "the stub of libruntime.so does not link");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libacl_rt_impl.so");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-rpath,$ORIGIN");
    println!("cargo::rustc-cdylib-link-arg=-Wl,--no-as-needed");
    println!("cargo::rustc-cdylib-link-arg=-L{}", out.display());
    println!("cargo::rustc-cdylib-link-arg=-l:libruntime.so");
}
