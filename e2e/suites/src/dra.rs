//! Calls on a node's plugin as its kubelet makes them: for what a real kubelet would not ask.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use vnpu_e2e_stack::MachineNode;
use vnpu_proto::dra::v1::dra_plugin_client::DraPluginClient;
use vnpu_proto::dra::v1::{self, NodePrepareResourceResponse as Prepared};

use crate::context::Context;
use crate::simulated::{get, text};

/// A claim as kubelet names it.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    /// Name, in the case's namespace.
    pub(crate) name: String,
    /// UID, or what stands for one.
    pub(crate) uid: String,
}

impl Claim {
    /// The claim of that name as it is now.
    pub(crate) fn of(context: &Context, name: &str) -> Result<Self> {
        let object = get(context, "resourceclaim", name)?;
        Ok(Self { name: name.to_owned(), uid: text(&object, "/metadata/uid").to_owned() })
    }

    fn wire(&self, context: &Context) -> v1::Claim {
        v1::Claim { namespace: context.namespace.clone(), uid: self.uid.clone(), name: self.name.clone() }
    }
}

/// One Prepare call with all these claims; the answers in their order.
pub(crate) fn prepare(context: &Context, node: &MachineNode, claims: &[Claim]) -> Result<Vec<Prepared>> {
    let request =
        v1::NodePrepareResourcesRequest { claims: claims.iter().map(|c| c.wire(context)).collect() };
    let answer = context.cluster.block_on(async {
        let mut plugin = DraPluginClient::new(dial(node).await?);
        anyhow::Ok(plugin.node_prepare_resources(request).await?.into_inner())
    })?;
    in_order(claims, answer.claims)
}

/// A Prepare call with one claim.
pub(crate) fn prepare_one(context: &Context, node: &MachineNode, claim: &Claim) -> Result<Prepared> {
    prepare(context, node, std::slice::from_ref(claim))?.pop().context("no answer")
}

/// One Unprepare call with all these claims; their errors in their order.
pub(crate) fn unprepare(context: &Context, node: &MachineNode, claims: &[Claim]) -> Result<Vec<String>> {
    let request =
        v1::NodeUnprepareResourcesRequest { claims: claims.iter().map(|c| c.wire(context)).collect() };
    let answer = context.cluster.block_on(async {
        let mut plugin = DraPluginClient::new(dial(node).await?);
        anyhow::Ok(plugin.node_unprepare_resources(request).await?.into_inner())
    })?;
    Ok(in_order(claims, answer.claims)?.into_iter().map(|a| a.error).collect())
}

async fn dial(node: &MachineNode) -> Result<Channel> {
    let path = node.handle.plugins.join("vnpu.dev/dra.sock");
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connect)
        .await
        .context("dialling the plugin")
}

fn in_order<T>(claims: &[Claim], mut answers: BTreeMap<String, T>) -> Result<Vec<T>> {
    ensure!(answers.len() == claims.len(), "{} answers to {} claims", answers.len(), claims.len());
    let answer = |c: &Claim| answers.remove(&c.uid).with_context(|| format!("no answer for {}", c.uid));
    claims.iter().map(answer).collect()
}
