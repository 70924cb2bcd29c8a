//! The fuzz targets without a fuzzer: inputs that once showed something, and many by a generator. What libFuzzer finds
//! is put into `fuzz/found/<target>/` and stays tested here.
#![allow(clippy::unwrap_used)] // as tests do

use std::path::Path;

/// Runs `target` on what was found, and on `rounds` inputs of a generator.
fn replay(name: &str, target: fn(&[u8]), rounds: u32) {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("found").join(name);
    for entry in std::fs::read_dir(found).into_iter().flatten() {
        target(&std::fs::read(entry.unwrap().path()).unwrap());
    }
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..rounds {
        let length = random() % 2048;
        // Small numbers and all ones are what counts and sizes are made of.
        let bytes: Vec<u8> = (0..length)
            .map(|_| match random() % 8 {
                0 => 0,
                1 => 0xff,
                2 | 3 => (random() % 8) as u8,
                _ => random() as u8,
            })
            .collect();
        target(&bytes);
    }
}

#[test]
fn quota_regions() {
    replay("quota", vnpu_fuzz::quota, 50_000);
}

#[test]
fn usage_regions() {
    replay("usage", vnpu_fuzz::usage, 20_000);
}

#[test]
fn chips_regions() {
    replay("chip", vnpu_fuzz::chip, 2_000);
}

#[test]
fn the_node_agent() {
    replay("agent", vnpu_fuzz::agent, 500);
}
