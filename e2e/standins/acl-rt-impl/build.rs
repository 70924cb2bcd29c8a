//! Link arguments of `libacl_rt_impl.so`, which lies over `libruntime.so`.

fn main() {
    standin_unwinder::link_statically();
    standin_unwinder::link_over("libacl_rt_impl.so", "libruntime.so");
}
