//! The project's chores: what `make` and continuous integration run. Each chore is in a file of its own.

use clap::{Parser, Subcommand};

mod arrows;
mod bench;
mod ci;
mod clean;
mod cluster;
mod crash;
mod cross;
mod demo;
mod deny;
mod deps;
mod e2e;
mod fuzz;
mod interposer;
mod miri;
mod nightly;
mod shell;
mod soak;
mod standins;

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
    /// Install what is missing on this machine, or say how.
    Deps,
    /// Check the dependency arrows between the crates.
    Arrows,
    /// Build the interposer and check its symbols; `<target>/interposer` has both halves then.
    Interposer {
        /// Build for another architecture (`aarch64-unknown-linux-gnu`), into `<target>/interposer-<target>`, and run
        /// the tests of the files and, in an emulator, of what depends on the architecture.
        #[arg(long)]
        target: Option<String>,
    },
    /// Build the stand-in vendor libraries and programs.
    Standins,
    /// Check licences, bans and sources of the dependencies.
    Deny,
    /// Run end-to-end cases on a fresh cluster.
    E2e {
        /// What the suite is told: name parts to filter by, `--list`, `--fail-fast`, `--hold`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Everything that must pass, in order, with times.
    #[command(alias = "test")]
    Ci {
        /// Go on after a failed step and say all that failed at the end.
        #[arg(long)]
        keep_going: bool,
        /// Run only the steps whose name contains this.
        only: Option<String>,
    },
    /// Show the product: first on this machine, then on a cluster.
    Demo {
        /// Leave the cluster up.
        #[arg(long)]
        keep: bool,
    },
    /// Take down the cluster that `demo --keep` left.
    DemoDown,
    /// Run a benchmark: `plugin`, `interposer`.
    Bench {
        /// Which.
        name: bench::Name,
        /// What it is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Kill the node plugin a thousand times, fuzz, then run the end-to-end cases again and again.
    Soak {
        /// For how many minutes.
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// Only the cases whose name contains one of these.
        filter: Vec<String>,
    },
    /// Kill the node plugin in the middle of its work and judge what it leaves.
    Crash {
        /// How often.
        #[arg(long, default_value_t = 1000)]
        kills: u32,
    },
    /// Fuzz the opening of regions and the work on them.
    Fuzz {
        /// For how many seconds, each target.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Run the tests of the regions' layout and protocols under miri, which finds undefined behaviour.
    Miri,
    /// Remove what builds and clusters have left, the cache too with `--cache`.
    Clean {
        /// The cluster's binaries too; they take minutes to build again.
        #[arg(long)]
        cache: bool,
    },
}

fn main() -> std::process::ExitCode {
    let done = match Arguments::parse().chore {
        Chore::Cluster { action } => cluster::run(&action),
        Chore::Deps => deps::run(),
        Chore::Arrows => arrows::run(),
        Chore::Interposer { target } => interposer::run(target.as_deref()),
        Chore::Standins => standins::run(),
        Chore::Deny => deny::run(),
        Chore::E2e { arguments } => e2e::run(&arguments),
        Chore::Ci { keep_going, only } => ci::run(keep_going, only.as_deref()),
        Chore::Demo { keep } => demo::up(keep),
        Chore::DemoDown => demo::down(),
        Chore::Bench { name, arguments } => bench::run(name, &arguments),
        Chore::Soak { minutes, filter } => soak::run(minutes, &filter),
        Chore::Crash { kills } => crash::run(kills),
        Chore::Fuzz { seconds } => fuzz::run(seconds),
        Chore::Miri => miri::run(),
        Chore::Clean { cache } => clean::run(cache),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
