//! `xtask fuzz`: regions of any content, as the interposer and the node agent open and work on them. What was once
//! found and many random inputs with every compiler; then libFuzzer, where there is a nightly one.

use anyhow::{Context, Result};
use vnpu_e2e_binaries::repo_root;

use crate::nightly;
use crate::shell::{cargo_program, command, finish, has, not_run, target};

/// The targets of `fuzz/`.
const TARGETS: &[&str] = &["quota", "usage", "chip", "agent"];

/// Seconds of each target in `make test`.
const SHORT: u64 = 10;

/// As cargo-fuzz sets them: coverage for libFuzzer's choice of inputs, and the address sanitizer.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Zsanitizer=address --cfg fuzzing";

/// The short form.
pub(crate) fn short() -> Result<()> {
    run(SHORT)
}

/// Replays, then fuzzes each target for `seconds`.
pub(crate) fn run(seconds: u64) -> Result<()> {
    let directory = target().join("fuzz");
    let build = |program: &str, before: &[&str], arguments: &[&str]| {
        let mut command = command(program, before);
        command.args(arguments).args(["--quiet", "--release", "--manifest-path", "fuzz/Cargo.toml"]);
        command.arg("--target-dir").arg(&directory);
        command
    };
    finish(&mut build(&cargo_program(), &[], &["test"]))?;
    let cxx = ["c++", "g++", "clang++"].into_iter().any(has);
    if !cxx || !nightly::there() {
        return not_run("the inputs were replayed; libFuzzer needs a nightly Rust and a C++ compiler");
    }
    // The sanitizer needs a target's name, so that build scripts and macros are built without it.
    let host = nightly::host()?;
    let arguments = ["build", "--features", "libfuzzer", "--target", &host];
    finish(build("rustup", nightly::CARGO, &arguments).env("RUSTFLAGS", FLAGS))?;
    for name in TARGETS {
        let corpus = directory.join("corpus").join(name);
        let artifacts = directory.join("artifacts").join(name);
        for made in [&corpus, &artifacts] {
            std::fs::create_dir_all(made).with_context(|| format!("making {}", made.display()))?;
        }
        let program = directory.join(&host).join("release").join(name);
        let mut fuzzer = command(&program.to_string_lossy(), &[]);
        fuzzer.arg(&corpus).arg(repo_root().join("fuzz/found").join(name));
        fuzzer.arg(format!("-max_total_time={seconds}"));
        // From the first on as long as they come, and none that takes as long as a hang.
        fuzzer.args([
            "-len_control=0",
            "-max_len=4096",
            "-timeout=20",
            "-print_final_stats=1",
            "-verbosity=0",
        ]);
        fuzzer.arg(format!("-artifact_prefix={}/", artifacts.display()));
        fuzzer.env("RUST_BACKTRACE", "0");
        println!("fuzz: {name}, {seconds} s");
        finish(&mut fuzzer).with_context(|| {
            format!(
                "fuzz: {name}: the input is in {}; put it into fuzz/found/{name}/ with the fix",
                artifacts.display()
            )
        })?;
    }
    Ok(())
}
