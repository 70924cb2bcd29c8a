//! Many simulated nodes at once: Node objects and the slices that the product's own planner of slices makes for them,
//! without a process behind any. Pods are bound there and never run.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use vnpu_driver::hardware::{Chip, Health, Inventory, MultiDiePolicy, PciAddress, Traits, Vendor};
use vnpu_driver::id::{DeviceUuid, NodeName};
use vnpu_driver::planner::{NodeLabels, PlanInput, plan_pool};
use vnpu_driver::quantity::Bytes;
use vnpu_harness::Cluster;
use vnpu_kube_types::slice::{NodeOwner, resource_slices};

/// Calls to the API server at the same time.
const AT_ONCE: usize = 64;

/// Label of the nodes of one fleet, and the key of the taint that keeps other pods away.
pub const FLEET: &str = "vnpu.dev/fleet";

/// Nodes of one kind.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// What its nodes' names begin with.
    pub name: String,
    /// How many.
    pub nodes: u32,
    /// Dual-die modules of each.
    pub modules: u32,
    /// Nodes on one leaf switch.
    pub per_leaf: u32,
    /// Leaves of one super-pod.
    pub per_superpod: u32,
}

impl Fleet {
    /// The name of node `index`.
    pub fn node(&self, index: u32) -> String {
        format!("{}-{index:04}", self.name)
    }

    /// The leaf of node `index`.
    pub fn leaf(&self, index: u32) -> String {
        format!("{}-leaf-{}", self.name, index / self.per_leaf)
    }

    fn superpod(&self, index: u32) -> String {
        format!("{}-superpod-{}", self.name, index / (self.per_leaf * self.per_superpod))
    }

    /// Makes nodes and slices.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn create(&self, cluster: &Cluster) -> Result<()> {
        let client = cluster.client()?;
        cluster.block_on(async {
            let made = stream::iter(0..self.nodes).map(|index| self.create_node(client.clone(), index));
            made.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
        })
    }

    /// Removes them.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn remove(&self, cluster: &Cluster) -> Result<()> {
        let client = cluster.client()?;
        let of_fleet = ListParams::default().labels(&format!("{FLEET}={}", self.name));
        cluster.block_on(async {
            let nodes: Api<Node> = Api::all(client.clone());
            nodes.delete_collection(&DeleteParams::default(), &of_fleet).await?;
            let slices: Api<ResourceSlice> = Api::all(client);
            slices.delete_collection(&DeleteParams::default(), &of_fleet).await?;
            anyhow::Ok(())
        })
    }

    /// Makes node `index` again, with its slices.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn create_one(&self, cluster: &Cluster, index: u32) -> Result<()> {
        cluster.block_on(self.create_node(cluster.client()?, index))
    }

    /// Removes node `index` and its slices, as when a machine is taken out of the cluster.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn remove_one(&self, cluster: &Cluster, index: u32) -> Result<()> {
        let client = cluster.client()?;
        let name = self.node(index);
        cluster.block_on(async {
            let nodes: Api<Node> = Api::all(client.clone());
            nodes.delete(&name, &DeleteParams::default()).await?;
            let slices: Api<ResourceSlice> = Api::all(client);
            let its = ListParams::default().fields(&format!("spec.nodeName={name}"));
            slices.delete_collection(&DeleteParams::default(), &its).await?;
            anyhow::Ok(())
        })
    }

    async fn create_node(&self, client: kube::Client, index: u32) -> Result<()> {
        let name = self.node(index);
        let nodes: Api<Node> = Api::all(client.clone());
        let node = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name,
                FLEET: self.name,
                "vnpu.dev/leaf": self.leaf(index),
                "vnpu.dev/superpod": self.superpod(index),
            }},
            "spec": {"taints": [{"key": FLEET, "value": self.name, "effect": "NoSchedule"}]},
        }))?;
        let node: Node =
            nodes.create(&PostParams::default(), &node).await.with_context(|| format!("node {name}"))?;
        let resources = json!({"cpu": "256", "memory": "2Ti", "pods": "1000"});
        let status = json!({"status": {
            "capacity": resources, "allocatable": resources,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Simulated", "message": "a simulated node",
                "lastHeartbeatTime": "2020-01-01T00:00:00Z", "lastTransitionTime": "2020-01-01T00:00:00Z",
            }],
        }});
        nodes.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        let owner = NodeOwner { name: NodeName::new(name)?, uid: node.metadata.uid.context("no UID")? };
        let api: Api<ResourceSlice> = Api::all(client);
        for mut slice in self.slices(&owner, index)? {
            slice.metadata.labels = Some(BTreeMap::from([(FLEET.to_owned(), self.name.clone())]));
            api.create(&PostParams::default(), &slice).await?;
        }
        Ok(())
    }

    fn slices(&self, owner: &NodeOwner, index: u32) -> Result<Vec<ResourceSlice>> {
        let chips = (0..self.modules).flat_map(|card| [0, 1].map(|die| chip(index, card, die)));
        let inventory = Inventory {
            vendor: Vendor::Ascend,
            chips: chips.collect::<Result<_>>()?,
            multi_die_policy: MultiDiePolicy::Independent,
            driver_version: "25.0.rc1".to_owned(),
            cuda_version: String::new(),
            superpod: None,
            problems: Vec::new(),
        };
        let plan = plan_pool(&PlanInput {
            node: &owner.name,
            inventory: &inventory,
            labels: &NodeLabels { leaf: self.leaf(index), superpod: self.superpod(index) },
            in_use: &BTreeSet::new(),
            vanished: &[],
            sick: &BTreeMap::new(),
            order: &BTreeMap::new(),
        })?;
        Ok(resource_slices(&plan, owner, 1))
    }
}

fn chip(node: u32, card: u32, die: u32) -> Result<Chip> {
    Ok(Chip {
        card,
        die,
        uuid: DeviceUuid::new(format!("VDIE-{node:04}-{card:04}-{die}"))?,
        module: Some(card),
        model: "910C".to_owned(),
        product_name: "Stand-in".to_owned(),
        memory: Bytes::gib(64),
        phys_id: card * 2 + die,
        pci: Some(PciAddress { domain: 0, bus: u8::try_from(card % 256)?, device: 0, function: 0 }),
        numa_node: Some(i64::from(card / 4)),
        pcie_root: Some(format!("pci0000:{:02x}", card % 256)),
        health: Health::Healthy,
        traits: Traits::default(),
    })
}
