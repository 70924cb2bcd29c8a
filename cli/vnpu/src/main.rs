//! `vnpu`: shares of accelerators on one machine, without Kubernetes. `vnpu run` holds any program to a share of one
//! chip's memory and compute, with the same regions and the same interposer as in a cluster.

mod base;
mod child;
mod choose;
mod error;
mod regions;
mod run;
mod wish;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Shares of accelerators on one machine.
#[derive(Debug, Parser)]
#[command(name = "vnpu", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a program under a share of one chip's memory and compute.
    ///
    /// The program and all it starts share the quota. Runs of one user share a chip: together they get no more
    /// memory than it has, and a hard run gets its share of the compute whatever the others want. Its exit code is passed on; a program killed by a signal
    /// gives 128 + the signal, one that cannot be started 126 or 127, and an error of vnpu itself 125.
    Run(run::RunArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Command::Run(arguments) = arguments.command;
    match run::run(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("vnpu: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
