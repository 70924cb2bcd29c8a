//! Link arguments of `libascendcl.so` of CANN 9.2, which lies over `libruntime.so`. The source is `../ascendcl`'s.

fn main() {
    standin_unwinder::link_statically();
    println!("cargo::rerun-if-changed=../ascendcl/src");
    standin_unwinder::link_over("libascendcl.so", "libruntime.so");
}
