//! Link options: no start files (they would bring `.init_array` entries into every process) and a SONAME.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-nostdlib");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libvnpu.so");
    println!("cargo:rustc-cdylib-link-arg=-Wl,--hash-style=both");
}
