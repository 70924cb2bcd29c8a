//! Links `cuda-demo-linked` against a stub of `libcuda.so.1` that has the functions it uses, so that the program needs
//! the library at run time only.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    standin_unwinder::link_program_statically();
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/names.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let names = fs::read_to_string("src/names.rs").expect("the list of functions");
    let linked = names
        .lines()
        .filter_map(|line| line.trim().strip_suffix(','))
        .filter(|line| line.starts_with("cu"))
        .filter_map(|line| line.split(' ').nth(1));
    let source: String = linked.map(|name| format!("void {name}(void) {{}}\n")).collect();
    let file = out.join("libcuda.so.1.c");
    fs::write(&file, source).expect("write the stub's source");
    let status = Command::new("cc")
        .args(["-shared", "-nostdlib", "-fPIC"])
        .arg(&file)
        .args(["-Wl,-soname,libcuda.so.1", "-o"])
        .arg(out.join("libcuda.so.1"))
        .status()
        .expect("a C compiler driver is there, rustc links with it");
    assert!(status.success(), "the stub of libcuda.so.1 does not link");
    for argument in [
        "-Wl,--no-as-needed".to_owned(),
        "-Wl,--allow-shlib-undefined".to_owned(),
        format!("-L{}", out.display()),
        "-l:libcuda.so.1".to_owned(),
    ] {
        println!("cargo::rustc-link-arg-bin=cuda-demo-linked={argument}");
    }
}
