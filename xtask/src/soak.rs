//! `xtask soak`: a thousand kills of the node plugin, ten thousand of programs under the interposer, ten thousand claims of the bank-like mix, the long forms of miri and fuzzing, then the end-to-end cases
//! again and again, each time on a fresh cluster, until the time is up or one fails. What happens once in a hundred
//! runs shows here.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::shell::{NotRun, cargo_program, command, finish};

/// Seconds of each fuzz target.
const FUZZ: u64 = 300;

/// Kills programs that allocate all the time, at random moments: the ledger stays exact.
fn storm(kills: u32) -> Result<()> {
    let arguments = ["test", "--quiet", "-p", "vnpu-core", "--test", "storm", "sigkills"];
    finish(command(&cargo_program(), &arguments).env("VNPU_STORM_KILLS", kills.to_string()))
}

/// The bank-like mix until so many claims have been made: nothing straddles.
fn bank_mix(claims: u32) -> Result<()> {
    let arguments = ["run", "--quiet", "--package", "vnpu-e2e", "--bin", "vnpu-e2e", "--", "bank_mix"];
    finish(command(&cargo_program(), &arguments).env("VNPU_BANK_CLAIMS", claims.to_string()))
}

/// Runs for `minutes`.
pub(crate) fn run(minutes: u64, filter: &[String]) -> Result<()> {
    crate::crash::run(1000)?;
    storm(10_000)?;
    bank_mix(10_000)?;
    // Elsewhere than on a machine with what they need they say so, which is no reason to stop.
    for check in [crate::miri::run(), crate::fuzz::run(FUZZ)] {
        match check {
            Err(error) if error.is::<NotRun>() => println!("{error}"),
            other => other?,
        }
    }
    let begun = Instant::now();
    let length = Duration::from_secs(minutes * 60);
    let mut arguments = filter.to_vec();
    arguments.push("--fail-fast".to_owned());
    let mut round = 0_u32;
    while begun.elapsed() < length {
        round += 1;
        println!("soak: round {round}, {} of {minutes} minutes", begun.elapsed().as_secs() / 60);
        crate::e2e::run(&arguments).with_context(|| format!("soak: round {round}"))?;
    }
    println!("soak: {round} rounds passed");
    Ok(())
}
