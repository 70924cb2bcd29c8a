//! The project's chores: what `make` and the continuous integration run.

use clap::{Parser, Subcommand};

mod cluster;

#[derive(Debug, Parser)]
#[command(about = "The project's chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// The test cluster's binaries.
    Cluster {
        #[command(subcommand)]
        action: cluster::Action,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().chore {
        Chore::Cluster { action } => cluster::run(&action),
    }
}
