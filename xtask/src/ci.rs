//! `xtask ci`: everything that must pass, in the order in which a failure shows soonest, with times.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::shell::{NotRun, cargo, target};

type Step = (&'static str, fn() -> Result<()>);

/// The steps. Cheap ones first; those that need a cluster last.
const STEPS: &[Step] = &[
    ("system packages", crate::deps::run),
    ("format", format),
    ("dependency arrows", crate::arrows::run),
    ("licences, bans, sources", crate::deny::run),
    ("lints", lints),
    ("lints of the interposer's front end", preload_lints),
    ("interposer", crate::interposer::own),
    ("stand-ins", crate::standins::run),
    ("unit, property and integration tests", tests),
    ("interposer for the other architecture", crate::interposer::other),
    ("node plugin killed at every place and at random", crate::crash::short),
    ("model checking of the shared regions", loom),
    ("undefined behaviour of the shared regions", crate::miri::short),
    ("fuzzing of the shared regions", crate::fuzz::short),
    ("cluster binaries", cluster),
    ("cluster harness leaves nothing behind", leaves_nothing),
    ("demo", demo),
    ("end to end", end_to_end),
];

/// Runs the steps whose name contains `only`; stops at the first failure unless `keep_going`.
pub(crate) fn run(keep_going: bool, only: Option<&str>) -> Result<()> {
    let begun = Instant::now();
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    for (name, step) in STEPS.iter().filter(|(name, _)| only.is_none_or(|o| name.contains(o))) {
        println!("\n=== {name}");
        let begun = Instant::now();
        let outcome = step();
        let left_out = outcome.as_ref().is_err_and(|error| error.is::<NotRun>());
        let verdict = if left_out {
            "NOT RUN"
        } else if outcome.is_ok() {
            "ok"
        } else {
            "FAILED"
        };
        lines.push(format!("{verdict:<7} {name:<44} {:>6.0} s", begun.elapsed().as_secs_f32()));
        if let Err(error) = outcome {
            println!("{error:#}");
            if left_out {
                continue;
            }
            failed.push(*name);
            if !keep_going {
                break;
            }
        }
    }
    println!("\n{}", lines.join("\n"));
    let total = begun.elapsed().as_secs();
    if !failed.is_empty() {
        bail!("failed after {} min {} s: {}", total / 60, total % 60, failed.join(", "));
    }
    println!("all passed in {} min {} s", total / 60, total % 60);
    Ok(())
}

fn format() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    for manifest in ["interposer/preload/Cargo.toml", "fuzz/Cargo.toml"] {
        cargo(&["fmt", "--check", "--manifest-path", manifest])?;
    }
    Ok(())
}

fn lints() -> Result<()> {
    cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

/// No `--all-targets`: a no_std library has no test target.
fn preload_lints() -> Result<()> {
    let directory = target().join("preload").to_string_lossy().into_owned();
    let manifest = "interposer/preload/Cargo.toml";
    cargo(&[
        "clippy",
        "--quiet",
        "--manifest-path",
        manifest,
        "--target-dir",
        &directory,
        "--",
        "-D",
        "warnings",
    ])
}

fn tests() -> Result<()> {
    cargo(&["test", "--quiet", "--workspace", "--no-fail-fast"])
}

/// In a target directory of its own: the flag changes every crate's fingerprint, and would make the next
/// ordinary build start from nothing.
fn loom() -> Result<()> {
    let directory = target().join("loom").to_string_lossy().into_owned();
    let arguments =
        ["test", "--quiet", "--release", "--package", "vnpu-quota-abi", "--target-dir", &directory];
    let mut command = crate::shell::command(&crate::shell::cargo_program(), &arguments);
    crate::shell::finish(command.env("RUSTFLAGS", "--cfg loom"))
}

fn cluster() -> Result<()> {
    crate::cluster::build().map(drop)
}

/// One case at a time: each compares the machine before and after. Before all that needs a cluster, which would
/// only show later, and less clearly, that something stays.
fn leaves_nothing() -> Result<()> {
    cargo(&[
        "test",
        "--quiet",
        "--package",
        "vnpu-harness",
        "--test",
        "leaves_nothing",
        "--",
        "--ignored",
        "--test-threads=1",
    ])
}

/// The README's first command, as it is when everything is built. It fails when an answer is not the promised one.
fn demo() -> Result<()> {
    crate::demo::up(false)
}

fn end_to_end() -> Result<()> {
    crate::e2e::run(&[])
}
