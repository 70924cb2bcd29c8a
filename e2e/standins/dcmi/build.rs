//! Link arguments of `libdcmi.so`: its name.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libdcmi.so");
}
