//! Link arguments of `libdcmi.so`: its name.

fn main() {
    standin_unwinder::link_statically();
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libdcmi.so");
}
