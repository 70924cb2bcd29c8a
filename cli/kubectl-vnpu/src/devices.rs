//! What nodes publish and what claims hold of it, for all verbs that show it: reading is in `read`, the model in `model`,
//! its sums in `totals` and `kinds`, and what is wrong in `remarks`.

mod kinds;
mod model;
mod read;
mod remarks;
mod tolerance;
mod totals;

use k8s_openapi::api::resource::v1::{DeviceTaintRule, ResourceClaim, ResourceSlice};
use kube::api::ListParams;
use kube::{Api, Client};
use vnpu_driver::DRIVER_NAME;
use vnpu_kube_types::taint_rule::TaintRule;

use crate::cluster::{ClusterArguments, ClusterError, connect, list};

pub(crate) use kinds::{Kind, Sharing, Stock, kinds};
pub(crate) use model::{Chip, Module, Node, Pool, Share, State, Taint};
#[cfg(test)]
pub(crate) use read::{holder, nodes};
pub(crate) use remarks::remarks;
pub(crate) use tolerance::Tolerance;
pub(crate) use totals::Totals;

/// What the API server tells.
#[derive(Debug)]
pub(crate) struct Seen {
    /// All nodes with devices of this driver, with what taints them.
    pub(crate) nodes: Vec<Node>,
    /// All DeviceTaintRules, of whatever driver, or why there are none to see.
    pub(crate) rules: Result<Vec<DeviceTaintRule>, ClusterError>,
}

/// Asks for nodes and rules.
///
/// # Errors
/// Slices or claims may not be listed, or there is no answer. Rules that are not served, or may not be listed, are no
/// reason to fail.
pub(crate) async fn fetch(client: &Client) -> Result<Seen, ClusterError> {
    let slices: Api<ResourceSlice> = Api::all(client.clone());
    let ours = ListParams::default().fields(&format!("spec.driver={DRIVER_NAME}"));
    let slices = list(&slices, "list resourceslices", ours, Some).await?;
    let claims: Api<ResourceClaim> = Api::all(client.clone());
    let claims =
        list(&claims, "list resourceclaims", ListParams::default(), |claim| read::holder(&claim)).await?;
    let rules: Api<DeviceTaintRule> = Api::all(client.clone());
    let rules = match list(&rules, "list devicetaintrules", ListParams::default(), Some).await {
        Err(error) if !error.is_not_served() && !error.is_forbidden() => return Err(error),
        other => other,
    };
    let known: Vec<TaintRule> = rules.iter().flatten().filter_map(TaintRule::read).collect();
    Ok(Seen { nodes: read::nodes(&slices, &claims, &known), rules })
}

/// Asks a cluster for its nodes.
///
/// # Errors
/// As [`fetch`], or there is no connection.
pub(crate) async fn nodes_of(cluster: &ClusterArguments) -> Result<Vec<Node>, ClusterError> {
    let (client, _) = connect(cluster).await?;
    Ok(fetch(&client).await?.nodes)
}
