//! The verb `get nodes`: what nodes publish and what claims hold of it. Reading and the sums are in `devices`, the drawing
//! in `draw` and `detail`.

mod detail;
mod draw;

use std::process::ExitCode;

use clap::Args;
use vnpu_driver::DRIVER_NAME;

use crate::cluster::{ABSENT, ClusterArguments, UNREACHABLE, block_on};
use crate::devices::{self, Node};
use crate::output::{self, Format};
use draw::Strokes;

/// What `get nodes` is told.
#[derive(Debug, Args)]
pub(crate) struct NodesArguments {
    /// Nodes to show chip by chip; without names all nodes, a line each.
    #[arg(value_name = "NODE")]
    names: Vec<String>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Taken, and without effect: nodes have no namespace.
    #[arg(short, long, value_name = "NAMESPACE", hide = true)]
    namespace: Option<String>,
    /// More columns, or everything as JSON.
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
    /// Draw with ASCII characters even if the locale is a UTF-8 one.
    #[arg(long)]
    ascii: bool,
}

/// Shows the nodes.
pub(crate) fn nodes(arguments: &NodesArguments) -> ExitCode {
    let all = match block_on(devices::nodes_of(&arguments.cluster)) {
        Ok(all) => all,
        Err(error) => return output::complain("get nodes", &error, UNREACHABLE),
    };
    let named = |node: &Node| arguments.names.is_empty() || arguments.names.contains(&node.name);
    let missing: Vec<&str> = arguments
        .names
        .iter()
        .filter(|name| !all.iter().any(|n| n.name == **name))
        .map(String::as_str)
        .collect();
    let shown: Vec<Node> = all.into_iter().filter(named).collect();
    let strokes = if arguments.ascii || !output::is_utf8() { Strokes::ASCII } else { Strokes::UNICODE };
    match arguments.output {
        Some(Format::Json) => output::print_json(&draw::json(&shown)),
        _ if shown.is_empty() && missing.is_empty() => {
            output::print(&format!("no node publishes devices of {DRIVER_NAME}\n"));
        }
        _ if shown.is_empty() => {}
        format if arguments.names.is_empty() => {
            output::print(&draw::table(&shown, &strokes, format == Some(Format::Wide)));
        }
        _ => output::print(&detail::nodes(&shown)),
    }
    if missing.is_empty() {
        return ExitCode::SUCCESS;
    }
    let message = format!("no devices of {DRIVER_NAME} are published for {}", missing.join(", "));
    output::complain("get nodes", &message, ABSENT)
}
