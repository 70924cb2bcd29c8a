//! `xtask miri`: the tests of the regions' layout and protocols under miri, where the toolchain has it.

use anyhow::Result;

use crate::nightly;
use crate::shell::{command, finish, not_run, target};

/// The layout alone, in seconds.
pub(crate) fn short() -> Result<()> {
    test(&["layout"])
}

/// The ledger's property tests too, with few cases, in minutes.
pub(crate) fn run() -> Result<()> {
    test(&["layout", "ledger"])
}

fn test(tests: &[&str]) -> Result<()> {
    if !nightly::has_component("miri", &["miri", "rust-src"]) {
        return not_run(
            "it needs a nightly Rust with miri: rustup toolchain install nightly -c miri,rust-src",
        );
    }
    let mut miri = command("rustup", nightly::CARGO);
    miri.args(["miri", "test", "--quiet", "--package", "vnpu-quota-abi"]);
    for test in tests {
        miri.args(["--test", test]);
    }
    miri.arg("--target-dir").arg(target().join("miri"));
    // Regions are mapped memory, whose addresses come from outside.
    finish(miri.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "1"))
}
