//! Compute on the real node: what containers get of a chip that they share. How exact it is says the scheduler's own
//! test on virtual time; here a whole cluster shares the machine's cores with the pods, so the bounds are wide.

use anyhow::{Context as _, Result, ensure};

use crate::case::Case;
use crate::context::Context;
use crate::pods::{Sleeper, sh, share};

pub(crate) const CASES: &[Case] = &[Case {
    name: "compute/two_pods_share_a_chip",
    about: "of two busy pods on one chip each gets the percent that its claim asks for, and no more when it is alone",
    run: two_pods_share_a_chip,
}];

/// The mean share that `acl-demo busy` told last.
fn mean(said: &str) -> Result<f64> {
    let last = said.lines().rfind(|line| line.starts_with("busy ")).context("it was never busy")?;
    let mean = last.split_whitespace().find_map(|word| word.strip_prefix("mean=")).context("no mean")?;
    Ok(mean.parse()?)
}

fn two_pods_share_a_chip(context: &mut Context) -> Result<()> {
    let claims = [share("small", "1Gi", 30), share("large", "1Gi", 70)];
    let pods = [("small", &["small"]), ("large", &["large"])].map(|(name, claims)| Sleeper {
        name,
        claims,
        ..Sleeper::default()
    });
    Sleeper::start(context, &claims, &pods)?;
    let mut chips = Vec::new();
    for pod in ["small", "large"] {
        chips.push(sh(context, pod, "acl-demo info")?.number("device ", "phys")?);
    }
    ensure!(chips.first() == chips.last(), "the pods are on chips {chips:?}, which proves nothing");

    let alone = mean(&sh(context, "small", "acl-demo busy --seconds 4")?.out)?;
    ensure!((10.0..33.0).contains(&alone), "a share of 30 % got {alone} % of an idle chip");

    sh(context, "small", "acl-demo busy --seconds 9 > /tmp/busy 2>&1 &")?;
    let large = mean(&sh(context, "large", "acl-demo busy --seconds 6")?.out)?;
    sh(context, "small", "sleep 5")?;
    let small = mean(&sh(context, "small", "cat /tmp/busy")?.out)?;
    println!(
        "        alone 30 % got {alone:.1} %; side by side 30 % got {small:.1} %, 70 % got {large:.1} %"
    );
    // Without a quota it would be 50 and 50; a machine that has no time for the pods gives both less.
    ensure!((10.0..33.0).contains(&small), "a share of 30 % got {small} % beside one of 70 %");
    ensure!(
        large < 74.0 && large > 1.3 * small,
        "a share of 70 % got {large} % beside {small} % for one of 30 %"
    );
    Ok(())
}
