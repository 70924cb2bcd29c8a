//! `kubectl vnpu`: the kubectl plugin. Each verb is a module of its own; this file only hands over to them.

mod cluster;
mod devices;
mod drain;
mod lint;
mod nodes;
mod output;
mod pool;
mod why;

#[cfg(test)]
#[path = "../tests/support/objects.rs"]
mod objects;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What vnpu makes of claims and pods.
#[derive(Debug, Parser)]
#[command(name = "kubectl-vnpu", bin_name = "kubectl vnpu", version, about)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say what the cluster would make of files, before they are applied.
    ///
    /// Claims, templates, pods and the pods of workloads are judged as they would be when they are created: what is
    /// refused, with the form to write instead, what is changed, and what deserves a warning. It talks to no cluster.
    /// The exit code is 1 when something is refused, and 2 when something cannot be read.
    Lint(lint::LintArguments),
    /// Say where a pod went and why, or why it waits.
    ///
    /// The controller is asked for the decision about the pod's batch: what it needs, the domains that were considered
    /// and why they were refused, and what has happened since. Where the controller knows nothing of the pod, what the
    /// pod itself tells is shown. The exit code is 1 when there is no such pod, and 2 when the cluster cannot be asked.
    Why(why::WhyArguments),
    /// Take chips of a node out of service.
    ///
    /// No new claim gets them, nor the modules that they are part of; the other chips of those modules go on being given
    /// out. Pods that use them stay, or are evicted with --evict. It is done by DeviceTaintRules, which Kubernetes serves
    /// from 1.37 on. The exit code is 1 when a chip is not known, or the name of several, and 2 when the cluster cannot be
    /// asked or does not serve the rules.
    Drain(drain::DrainArguments),
    /// Bring chips of a node back into service.
    ///
    /// Only what `drain` did is undone; other taints stay. The exit codes are those of `drain`.
    Undrain(drain::UndrainArguments),
    /// Show what there is.
    #[command(subcommand)]
    Get(Get),
}

#[derive(Debug, Subcommand)]
enum Get {
    /// Show the nodes with their modules, chips and shares.
    ///
    /// One line for each node, or one for each chip of the nodes that are named. It is read from ResourceSlices and
    /// ResourceClaims alone, so it works without the controller. The exit code is 1 when a node that is named publishes
    /// no devices, and 2 when the cluster cannot be asked.
    #[command(alias = "node")]
    Nodes(nodes::NodesArguments),
    /// Show what is free in the whole cluster, a line for each kind of device.
    ///
    /// Whole modules, whole chips, parts of chips, memory and compute, of all vendors. It is read from ResourceSlices and
    /// ResourceClaims alone, as `get nodes` is. The exit code is 2 when the cluster cannot be asked.
    Pool(pool::PoolArguments),
}

fn main() -> ExitCode {
    match Arguments::parse().verb {
        Verb::Lint(arguments) => lint::lint(&arguments),
        Verb::Why(arguments) => why::why(&arguments),
        Verb::Drain(arguments) => drain::drain(&arguments),
        Verb::Undrain(arguments) => drain::undrain(&arguments),
        Verb::Get(Get::Nodes(arguments)) => nodes::nodes(&arguments),
        Verb::Get(Get::Pool(arguments)) => pool::pool(&arguments),
    }
}
