//! `vnpu-demo`: what `make demo` shows. Each step prints the command that a user would type, runs exactly that
//! command, prints what it answered, and fails when the answer is not the promised one.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use vnpu_e2e_stack::Artefacts;

mod batch;
mod cluster;
mod local;
mod machine;
mod shares;
mod shell;

#[derive(Debug, Parser)]
#[command(about = "Shows the product: on this machine, and on a cluster")]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// `vnpu run` on this machine, against a stand-in chip; no Kubernetes, no root.
    Local,
    /// Shares and modules on a real cluster with a stand-in machine; needs root.
    Cluster {
        /// Leave the cluster standing at the end.
        #[arg(long)]
        keep: bool,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse().part) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(part: &Part) -> Result<()> {
    // Silent otherwise, and minutes long the first time.
    eprintln!("  building what is missing of the interposer, the stand-ins and the node plugin");
    let artefacts = Artefacts::build(false)?;
    match part {
        Part::Local => local::show(&artefacts),
        Part::Cluster { keep } => cluster::show(artefacts, *keep),
    }
}
