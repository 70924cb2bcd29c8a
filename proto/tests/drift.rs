//! Proves that the checked-in code is what the protos generate.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

use std::path::Path;

include!("support/generate.rs");

#[test]
fn checked_in_code_is_what_the_protos_generate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = tempfile::tempdir().unwrap();
    generate(root, fresh.path()).unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(fresh.path()).unwrap() {
        let entry = entry.unwrap();
        let checked_in = root.join("src/generated").join(entry.file_name());
        assert_eq!(
            std::fs::read_to_string(entry.path()).unwrap(),
            std::fs::read_to_string(&checked_in).unwrap_or_default(),
            "{} is stale: cargo run -p vnpu-proto --example generate",
            checked_in.display()
        );
        count += 1;
    }
    assert_eq!(count, std::fs::read_dir(root.join("src/generated")).unwrap().count(), "stray generated file");
}
