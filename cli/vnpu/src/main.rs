//! vnpu.
fn main() {}
