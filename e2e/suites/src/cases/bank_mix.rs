//! The bank-like mix against the real scheduler: whatever comes, nothing straddles, and a batch that fits one node lies
//! on one node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::{Value, json};
use vnpu_e2e_stack::Fleet;

use crate::batches::{PATIENCE, create_pods, member, modules_template, node_of, pods};
use crate::case::Case;
use crate::context::Context;
use crate::simulated::apply;

pub(crate) const CASES: &[Case] = &[Case {
    name: "bank_mix/nothing_straddles",
    about: "64 nodes of 8 modules under the bank-like mix: no claim straddles, what fits one node lies on one node",
    run: nothing_straddles,
}];

/// How many claims are made; `VNPU_BANK_CLAIMS` says another number, such as 10000.
const CLAIMS: u32 = 150;
const NODES: u32 = 64;
const MODULES: u32 = 8;
/// Chips in use above which the oldest batches end.
const FULL: u32 = NODES * MODULES * 2 * 8 / 10;

/// A batch that runs.
struct Running {
    name: String,
    chips: u32,
}

/// SplitMix64: enough to draw sizes, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of the values, by percent.
    fn pick(&mut self, of: &[(u32, u64)]) -> u32 {
        let mut left = self.draw() % 100;
        for (value, percent) in of {
            if left < *percent {
                return *value;
            }
            left -= percent;
        }
        of.last().map_or(1, |(value, _)| *value)
    }
}

/// Pods of a batch, and chips of each.
fn draw(dice: &mut Dice) -> (u32, u32) {
    if dice.draw() % 100 < 60 {
        (1, dice.pick(&[(1, 35), (2, 30), (4, 20), (8, 15)]))
    } else {
        let pods = dice.pick(&[(2, 35), (4, 30), (8, 25), (16, 10)]);
        (pods, dice.pick(&[(1, 15), (2, 30), (4, 30), (8, 25)]))
    }
}

fn nothing_straddles(context: &mut Context) -> Result<()> {
    let wanted = std::env::var("VNPU_BANK_CLAIMS").ok().and_then(|n| n.parse().ok()).unwrap_or(CLAIMS);
    context.controller()?;
    let fleet =
        Fleet { name: "bank".to_owned(), nodes: NODES, modules: MODULES, per_leaf: 8, per_superpod: 4 };
    fleet.create(&context.cluster)?;
    apply(context, templates())?;
    let mut dice = Dice(20_261_126);
    let mut running: Vec<Running> = Vec::new();
    let (mut claims, mut batches, mut fitting, mut split) = (0, 0, 0, 0);
    let begun = Instant::now();
    while claims < wanted {
        let (size, chips) = draw(&mut dice);
        while running.iter().map(|r| r.chips).sum::<u32>() + size * chips > FULL {
            let at = usize::try_from(dice.draw() % running.len() as u64)?;
            end(context, &running.swap_remove(at).name)?;
        }
        let free = free(context)?;
        let name = format!("batch-{batches}");
        let template = if chips == 2 && dice.draw().is_multiple_of(2) {
            "pair".to_owned()
        } else {
            format!("chips-{chips}")
        };
        let members =
            (0..size).map(|n| member(&fleet, &name, size, &format!("{name}-{n}"), &template, &json!({})));
        create_pods(context, members.collect())?;
        let lies_on = wait(context, &name, size as usize)?;
        let fits = (0..NODES).any(|n| fits(free.get(&fleet.node(n)), size, chips));
        fitting += u32::from(fits);
        split += u32::from(lies_on.len() > 1);
        ensure!(
            !fits || lies_on.len() == 1,
            "{name}: {size} pods of {chips} chips fit one node and lie on {lies_on:?}"
        );
        running.push(Running { name, chips: size * chips });
        claims += size;
        batches += 1;
    }
    let took = begun.elapsed().as_secs_f32();
    println!(
        "        {claims} claims in {batches} batches, 0 straddle; {fitting} fitted one node and lie on one, {split} lie on several; {took:.0} s"
    );
    for batch in running {
        end(context, &batch.name)?;
    }
    fleet.remove(&context.cluster)
}

fn templates() -> Vec<Value> {
    let mut all: Vec<Value> =
        [2, 4, 8].map(|chips| modules_template(&format!("chips-{chips}"), chips / 2)).into();
    let chips = |name: &str, count: u32, constraints: Value| {
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": name},
            "spec": {"spec": {"devices": {
                "requests": [{"name": "npu", "exactly": {"deviceClassName": "npu.vnpu.dev", "count": count}}],
                "constraints": constraints,
            }}},
        })
    };
    all.push(chips("chips-1", 1, json!([])));
    all.push(chips("pair", 2, json!([{"requests": ["npu"], "matchAttribute": "vnpu.dev/module"}])));
    all
}

/// The dies in use, by node and card. Fails when a claim straddles.
fn free(context: &Context) -> Result<BTreeMap<String, BTreeMap<u32, BTreeSet<u32>>>> {
    let api: Api<ResourceClaim> = Api::namespaced(context.cluster.client()?, &context.namespace);
    let claims = context.cluster.block_on(async { api.list(&ListParams::default()).await })?;
    let mut used: BTreeMap<String, BTreeMap<u32, BTreeSet<u32>>> = BTreeMap::new();
    for claim in claims {
        let allocation = claim.status.and_then(|s| s.allocation).and_then(|a| a.devices);
        let mut own: BTreeMap<(String, u32), BTreeSet<u32>> = BTreeMap::new();
        for result in allocation.and_then(|d| d.results).into_iter().flatten() {
            let node = result.pool.split('/').next().unwrap_or_default().to_owned();
            let parts: Vec<&str> = result.device.split('-').collect();
            let (card, dies) = match parts.as_slice() {
                ["module", card] => (card.parse()?, vec![0, 1]),
                ["chip", card, die] => (card.parse()?, vec![die.parse()?]),
                _ => anyhow::bail!("device {}", result.device),
            };
            own.entry((node.clone(), card)).or_default().extend(&dies);
            used.entry(node).or_default().entry(card).or_default().extend(dies);
        }
        let halves = own.values().filter(|dies| dies.len() == 1).count();
        ensure!(halves <= 1, "claim {:?} straddles: {own:?}", claim.metadata.name);
    }
    Ok(used)
}

/// Whether a node with these dies in use has room for all pods.
fn fits(used: Option<&BTreeMap<u32, BTreeSet<u32>>>, pods: u32, chips: u32) -> bool {
    let touched = used.map_or(0, |used| u32::try_from(used.len()).unwrap_or(MODULES));
    let halves =
        used.map_or(0, |used| u32::try_from(used.values().filter(|d| d.len() == 1).count()).unwrap_or(0));
    let whole = MODULES - touched;
    if chips == 1 { whole * 2 + halves >= pods } else { whole >= pods * chips / 2 }
}

fn wait(context: &Context, batch: &str, size: usize) -> Result<BTreeSet<String>> {
    let selector = format!("vnpu.dev/batch={batch}");
    let mut found = Vec::new();
    let waited = context.cluster.wait_for(&format!("{batch} to be bound"), PATIENCE, || {
        found = pods(context, &selector)?.iter().filter_map(node_of).collect();
        Ok(found.len() == size)
    });
    waited.with_context(|| {
        context.kubectl(&["get", "events", "--sort-by=.lastTimestamp"]).unwrap_or_default()
    })?;
    Ok(found.into_iter().collect())
}

fn end(context: &Context, batch: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(context.cluster.client()?, &context.namespace);
    let claims: Api<ResourceClaim> = Api::namespaced(context.cluster.client()?, &context.namespace);
    let selector = ListParams::default().labels(&format!("vnpu.dev/batch={batch}"));
    context.cluster.block_on(async {
        pods.delete_collection(&DeleteParams::default().grace_period(0), &selector).await
    })?;
    // Claims go with their pods; the next look must not count them.
    let prefix = format!("{batch}-");
    context.cluster.wait_for("the claims to go", PATIENCE, || {
        let claims =
            context.cluster.block_on(async { claims.list_metadata(&ListParams::default()).await })?;
        Ok(!claims.items.iter().any(|c| c.metadata.name.as_deref().is_some_and(|n| n.starts_with(&prefix))))
    })
}
