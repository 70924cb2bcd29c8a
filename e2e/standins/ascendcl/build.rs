//! Link arguments of `libascendcl.so`, which lies over `libacl_rt_impl.so`.

fn main() {
    standin_unwinder::link_statically();
    standin_unwinder::link_over("libascendcl.so", "libacl_rt_impl.so");
}
