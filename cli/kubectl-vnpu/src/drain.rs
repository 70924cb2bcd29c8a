//! The verbs `drain` and `undrain`: chips of a node out of service and back, by DeviceTaintRules. What is meant is in
//! `target`, the rules in `rule`, which of them change in `plan`, and the words in `text`.

mod plan;
mod rule;
mod target;
mod text;

use std::process::ExitCode;

use clap::Args;
use k8s_openapi::api::resource::v1::DeviceTaintRule;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use vnpu_driver::DRIVER_NAME;
use vnpu_driver::slices::TaintEffect;

use crate::cluster::{ABSENT, ClusterArguments, ClusterError, UNREACHABLE, answer, block_on, connect};
use crate::devices::{self, Node};
use crate::output;
use plan::{Step, Wanted};
use rule::Rules;
use target::{Target, TargetError, resolve};

/// Who writes, in `managedFields`.
const MANAGER: &str = "kubectl-vnpu";

/// What `drain` is told.
#[derive(Debug, Args)]
pub(crate) struct DrainArguments {
    #[command(flatten)]
    chips: ChipArguments,
    /// Evict the pods that use them; without it they stay until they end.
    #[arg(long)]
    evict: bool,
}

/// What `undrain` is told.
#[derive(Debug, Args)]
pub(crate) struct UndrainArguments {
    #[command(flatten)]
    chips: ChipArguments,
}

/// Which chips.
#[derive(Debug, Args)]
struct ChipArguments {
    /// The node.
    #[arg(value_name = "NODE")]
    node: String,
    /// Its chips: chip-3-1, module-3 (both dies), partition-0-1-0; node-1/nvidia:chip-0-0 where two vendors have the name.
    #[arg(value_name = "CHIP", required = true)]
    chips: Vec<String>,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Taken, and without effect: devices have no namespace.
    #[arg(short, long, value_name = "NAMESPACE", hide = true)]
    namespace: Option<String>,
}

/// Why nothing was done, or not all.
#[derive(Debug, thiserror::Error)]
enum DrainError {
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The cluster is too old.
    #[error(
        "this cluster does not serve DeviceTaintRule of resource.k8s.io/v1 (Kubernetes 1.37 and later do): upgrade it; \
         until then `kubectl cordon {0}` keeps new pods from the whole node"
    )]
    NotServed(String),
    /// The node.
    #[error("no devices of {DRIVER_NAME} are published for {0}")]
    NoNode(String),
    /// The chips.
    #[error(transparent)]
    Target(#[from] TargetError),
}

impl DrainError {
    fn code(&self) -> u8 {
        match self {
            Self::Cluster(_) | Self::NotServed(_) => UNREACHABLE,
            Self::NoNode(_) | Self::Target(_) => ABSENT,
        }
    }
}

/// Takes chips out of service.
pub(crate) fn drain(arguments: &DrainArguments) -> ExitCode {
    let effect = if arguments.evict { TaintEffect::NoExecute } else { TaintEffect::NoSchedule };
    let chips = &arguments.chips;
    finish("drain", chips, |rules, targets| plan::drained(rules, targets, effect), text::drain)
}

/// Brings chips back into service.
pub(crate) fn undrain(arguments: &UndrainArguments) -> ExitCode {
    finish("undrain", &arguments.chips, plan::returned, text::undrain)
}

/// What is said of it.
type Words = fn(&Node, &[Target], &Rules, &Wanted, bool) -> String;

fn finish(
    verb: &str,
    chips: &ChipArguments,
    wanted: impl Fn(&Rules, &[Target]) -> Wanted,
    words: Words,
) -> ExitCode {
    match block_on(change(chips, wanted, words)) {
        Ok(said) => {
            output::print(&said);
            ExitCode::SUCCESS
        }
        Err(error) => output::complain(verb, &error, error.code()),
    }
}

/// Finds out what is meant, and does it. Nothing is changed unless all chips are known.
async fn change(
    arguments: &ChipArguments,
    wanted: impl Fn(&Rules, &[Target]) -> Wanted,
    words: Words,
) -> Result<String, DrainError> {
    let (client, _) = connect(&arguments.cluster).await?;
    let seen = devices::fetch(&client).await?;
    let rules = match seen.rules {
        Ok(objects) => rule::own(&objects),
        Err(error) if error.is_not_served() => return Err(DrainError::NotServed(arguments.node.clone())),
        Err(error) => return Err(error.into()),
    };
    let published = seen.nodes.into_iter().find(|node| node.name == arguments.node);
    let Some(node) = published.or_else(|| left_over(&arguments.node, &rules)) else {
        return Err(DrainError::NoNode(arguments.node.clone()));
    };
    let mut targets: Vec<Target> = Vec::new();
    for chip in &arguments.chips {
        let target = resolve(chip, &node, &rules)?;
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    let wanted = wanted(&rules, &targets);
    if !arguments.dry_run {
        for step in plan::steps(&rules, &wanted) {
            carry_out(&client, step).await?;
        }
    }
    Ok(words(&node, &targets, &rules, &wanted, arguments.dry_run))
}

/// A node of which nothing is left but rules.
fn left_over(name: &str, rules: &Rules) -> Option<Node> {
    let of_node = format!("{name}/");
    rules.keys().any(|(pool, _)| pool.starts_with(&of_node)).then(|| Node {
        name: name.to_owned(),
        leaf: String::new(),
        superpod: String::new(),
        pools: Vec::new(),
    })
}

async fn carry_out(client: &Client, step: Step) -> Result<(), ClusterError> {
    let api: Api<DeviceTaintRule> = Api::all(client.clone());
    let what = step.what();
    match step {
        Step::Create(place, effect) => {
            let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
            answer(&what, api.create(&parameters, &rule::object(&place, effect))).await?;
        }
        Step::Change(name, effect) => {
            // The API server sets the time of the taint anew where its effect changes.
            let patch = json!({"spec": {"taint": {"effect": effect.as_str()}}});
            let parameters =
                PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            answer(&what, api.patch(&name, &parameters, &Patch::Merge(&patch))).await?;
        }
        Step::Delete(name) => {
            let deleted = answer(&what, api.delete(&name, &DeleteParams::default())).await;
            match deleted {
                // Somebody else was faster.
                Err(error) if error.is_not_served() => {}
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
    }
    Ok(())
}
