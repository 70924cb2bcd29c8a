//! Link arguments of `libnvidia-ml.so.1`: its name, and own symbols bound to itself.

fn main() {
    standin_unwinder::link_statically();
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnvidia-ml.so.1");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
}
