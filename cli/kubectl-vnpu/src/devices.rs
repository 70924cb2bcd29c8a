//! What nodes publish and what claims hold of it, for all verbs that show it: reading is in `read`, the model in `model`,
//! its sums in `totals` and `kinds`, and what is wrong in `remarks`.

mod kinds;
mod model;
mod read;
mod remarks;
mod totals;

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::Api;
use kube::api::ListParams;
use vnpu_driver::DRIVER_NAME;

use crate::cluster::{ClusterArguments, ClusterError, connect, list};

pub(crate) use kinds::{Kind, Sharing, Stock, kinds};
pub(crate) use model::{Chip, Module, Node, Pool, Share, State};
#[cfg(test)]
pub(crate) use read::{holder, nodes};
pub(crate) use remarks::remarks;
pub(crate) use totals::Totals;

/// Asks the API server for all nodes with devices of this driver.
///
/// # Errors
/// The cluster cannot be reached, or slices or claims may not be listed.
pub(crate) async fn fetch(cluster: &ClusterArguments) -> Result<Vec<Node>, ClusterError> {
    let (client, _) = connect(cluster).await?;
    let slices: Api<ResourceSlice> = Api::all(client.clone());
    let ours = ListParams::default().fields(&format!("spec.driver={DRIVER_NAME}"));
    let slices = list(&slices, "list resourceslices", ours, Some).await?;
    let claims: Api<ResourceClaim> = Api::all(client);
    let claims =
        list(&claims, "list resourceclaims", ListParams::default(), |claim| read::holder(&claim)).await?;
    Ok(read::nodes(&slices, &claims))
}
