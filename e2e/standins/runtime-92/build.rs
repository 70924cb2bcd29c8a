//! Link arguments of `libruntime.so`: its name, and own symbols bound to itself as the vendor builds it.

fn main() {
    standin_unwinder::link_statically();
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libruntime.so");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
}
