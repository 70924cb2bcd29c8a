//! `vnpu`: shares of accelerators on one machine, without Kubernetes. `vnpu run` holds any program to a share of one
//! chip's memory and compute, with the same regions and the same interposer as in a cluster.

mod audit;
mod base;
mod child;
mod choose;
mod doctor;
mod error;
mod interposer;
mod node_plugin;
mod regions;
mod run;
mod top;
mod vendors;
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
    /// Show what the runs and claims on this machine may use and do use.
    ///
    /// It only looks: nothing is given back, repaired or removed. Runs are those of this user; the claims of the
    /// node plugin are shown to root.
    Top(top::TopArguments),
    /// Say what is installed here, and whether this version fits it.
    ///
    /// The report can be attached to an issue: it holds versions, paths, names of functions and identities of chips,
    /// and nothing of programs or data. The exit code is 0 when all fits, 1 when something does not, and 2 when
    /// something could not be looked at.
    Doctor(doctor::DoctorArguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Top(arguments) => top::top(&arguments),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("vnpu: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
