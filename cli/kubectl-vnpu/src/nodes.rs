//! The verb `get nodes`: what nodes publish and what claims hold of it. Reading is in `read`, the model and its sums in
//! `model`, and the drawing in `draw` and `detail`.

mod detail;
mod draw;
mod model;
mod read;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::Api;
use kube::api::ListParams;
use vnpu_driver::DRIVER_NAME;

use crate::cluster::{ABSENT, ClusterArguments, ClusterError, UNREACHABLE, block_on, connect, list};
use crate::output;
use draw::Strokes;
use model::Node;

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

/// How it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// More columns.
    Wide,
    /// JSON.
    Json,
}

/// Shows the nodes.
pub(crate) fn nodes(arguments: &NodesArguments) -> ExitCode {
    let all = match block_on(fetch(&arguments.cluster)) {
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

async fn fetch(cluster: &ClusterArguments) -> Result<Vec<Node>, ClusterError> {
    let (client, _) = connect(cluster).await?;
    let slices: Api<ResourceSlice> = Api::all(client.clone());
    let ours = ListParams::default().fields(&format!("spec.driver={DRIVER_NAME}"));
    let slices = list(&slices, "list resourceslices", ours, Some).await?;
    let claims: Api<ResourceClaim> = Api::all(client);
    let claims =
        list(&claims, "list resourceclaims", ListParams::default(), |claim| read::holder(&claim)).await?;
    Ok(read::nodes(&slices, &claims))
}
