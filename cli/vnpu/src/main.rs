//! `vnpu`: shares of accelerators on one machine, without Kubernetes. `vnpu run` holds any program to a memory
//! quota, with the same regions and the same interposer as in a cluster.

mod child;
mod choose;
mod error;
mod regions;
mod run;

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
    /// Run a program under a quota of one chip's memory.
    ///
    /// The program and all it starts share the quota. Its exit code is passed on; a program killed by a signal
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
