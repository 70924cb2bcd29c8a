//! Writes the Rust code of `protos/` into `src/generated/`, with a compiler in pure Rust (no `protoc`).
//! Run `cargo run -p vnpu-proto --example generate`; a test of the crate fails when the result would differ.

use std::path::Path;

include!("../tests/support/generate.rs");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    generate(root, &root.join("src/generated"))
}
