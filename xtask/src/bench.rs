//! `xtask bench`: the benchmarks whose figures are in docs/performance.md.

use anyhow::Result;
use clap::ValueEnum;

use crate::shell::cargo;

/// Which benchmark.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Name {
    /// The node plugin behind kubelet's own DRA code: rate, latency, start time, memory.
    Plugin,
    /// The rate at which the stock scheduler binds pods with claims, alone and with the planner.
    Scheduling,
    /// How long decisions of the planner take, and where it places what, beside other policies.
    Placement,
    /// How long the webhooks take to answer.
    Webhook,
    /// What the interposer costs each process, allocation and launch, and what tenants get of a chip.
    Interposer,
}

/// Runs it; what is measured is optimised.
pub(crate) fn run(name: Name, arguments: &[String]) -> Result<()> {
    let mut all = match name {
        // It builds the plugin with optimisation; who only starts processes and reads clocks needs none.
        Name::Plugin => vec!["run", "--quiet", "--package", "vnpu-e2e", "--bin", "vnpu-bench-plugin", "--"],
        Name::Scheduling => {
            vec!["run", "--quiet", "--package", "vnpu-e2e", "--bin", "vnpu-bench-scheduling", "--"]
        }
        Name::Placement => {
            cargo(&["bench", "--quiet", "--package", "vnpu-placement"])?;
            vec!["run", "--quiet", "--release", "--package", "vnpu-sim", "--", "compare"]
        }
        Name::Webhook => vec!["bench", "--quiet", "--package", "vnpu-controller", "--bench", "webhook", "--"],
        Name::Interposer => {
            crate::interposer::build()?;
            vec!["bench", "--quiet", "--package", "vnpu-core", "--bench", "cost", "--bench", "shares", "--"]
        }
    };
    all.extend(arguments.iter().map(String::as_str));
    cargo(&all)
}
