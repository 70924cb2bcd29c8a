//! `xtask soak`: a thousand kills of the node plugin, then the end-to-end cases again and again, each time on a
//! fresh cluster, until the time is up or one fails. What happens once in a hundred runs shows here.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Runs for `minutes`.
pub(crate) fn run(minutes: u64, filter: &[String]) -> Result<()> {
    crate::crash::run(1000)?;
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
