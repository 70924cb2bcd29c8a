//! Runs the planner and its rivals on simulated clusters.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    vnpu_sim::cli::Cli::parse().run()
}
