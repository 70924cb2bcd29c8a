//! `vnpu-cluster up | status | down`: a cluster to look at by hand, which stays until it is taken down.

use anyhow::Result;
use clap::{Parser, Subcommand};
use vnpu_harness::{Cluster, Options, RealNode};

#[derive(Debug, Parser)]
#[command(about = "A test cluster to look at by hand")]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring a cluster up and leave it standing.
    Up {
        /// Control plane only, which needs no root.
        #[arg(long)]
        no_node: bool,
        /// Take it down again when Enter or the end of input comes, or this process dies.
        #[arg(long)]
        attached: bool,
    },
    /// List the clusters on this machine.
    Status,
    /// Take a standing cluster down: the one named, or all.
    Down {
        /// Its identifier.
        id: Option<String>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Verb::Up { no_node, attached } => up(no_node, attached),
        Verb::Status => status(),
        Verb::Down { id } => {
            let removed = vnpu_harness::take_down(id.as_deref())?;
            if removed.is_empty() {
                println!("no cluster was left standing");
            }
            for id in removed {
                println!("removed cluster {id}");
            }
            Ok(())
        }
    }
}

fn up(no_node: bool, attached: bool) -> Result<()> {
    let real_node = if no_node { RealNode::None } else { RealNode::Required };
    let cluster = Cluster::start(Options { real_node, detached: !attached, ..Options::default() })?;
    println!("cluster {}", cluster.id());
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("kubectl: {}", cluster.kubectl_path().display());
    if attached {
        std::io::stdin().read_line(&mut String::new())?;
        return cluster.stop();
    }
    cluster.leave()
}

fn status() -> Result<()> {
    let kubectl = vnpu_harness::kubectl()?;
    for cluster in vnpu_harness::standing()? {
        let state = match (cluster.alive, cluster.alive && cluster.ready(&kubectl)) {
            (false, _) => "dead",
            (true, false) => "not ready",
            (true, true) => "ready",
        };
        let kind = if cluster.detached { "standing" } else { "of a running process" };
        println!("{} {state}, {kind}\n  KUBECONFIG={}", cluster.id, cluster.kubeconfig.display());
    }
    Ok(())
}
