//! The verb `get pool`: what is free in the whole cluster, kind by kind. Reading and the sums are in `devices`, the table
//! in `draw`.

mod draw;

use std::process::ExitCode;

use clap::Args;
use vnpu_driver::DRIVER_NAME;

use crate::cluster::{ClusterArguments, UNREACHABLE, block_on};
use crate::devices;
use crate::output::{self, Format};

/// What `get pool` is told.
#[derive(Debug, Args)]
pub(crate) struct PoolArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Taken, and without effect: devices have no namespace.
    #[arg(short, long, value_name = "NAMESPACE", hide = true)]
    namespace: Option<String>,
    /// More columns, or everything as JSON.
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

/// Shows the kinds.
pub(crate) fn pool(arguments: &PoolArguments) -> ExitCode {
    let nodes = match block_on(devices::nodes_of(&arguments.cluster)) {
        Ok(nodes) => nodes,
        Err(error) => return output::complain("get pool", &error, UNREACHABLE),
    };
    match arguments.output {
        Some(Format::Json) => output::print_json(&draw::json(&nodes)),
        _ if nodes.is_empty() => {
            output::print(&format!("no node publishes devices of {DRIVER_NAME}\n"));
        }
        format => output::print(&draw::table(&nodes, format == Some(Format::Wide))),
    }
    ExitCode::SUCCESS
}
