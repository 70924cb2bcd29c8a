//! vnpu-kubelet-plugin.
fn main() {}
