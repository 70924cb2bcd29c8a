//! How long a fault that a driver tells takes to the slice at the API server, while nobody looks.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{Api, ListParams};
use vnpu_e2e_stack::{Machine, MachineNode, Xid};

use crate::case::Case;
use crate::context::Context;
use crate::plugins::{Altered, Simulated, set_argument};
use crate::simulated::PATIENCE;

pub(crate) const CASES: &[Case] = &[Case {
    name: "alerts/reach_the_slices",
    about: "faults that the drivers of both vendors tell are published although the next look is an hour away",
    run: reach_the_slices,
}];

/// How many faults of each vendor, for figures.
const COUNT: &str = "VNPU_ALERTS";

/// Nothing is seen but what is told.
const CONFIG: &str = "apiVersion: vnpu.dev/v1alpha1\nkind: NodeConfig\ndiscoverySeconds: 3600\n";

fn reach_the_slices(context: &mut Context) -> Result<()> {
    let count: u32 = std::env::var(COUNT).ok().and_then(|text| text.parse().ok()).unwrap_or(4).max(1);
    let machine = Machine::ascend_910c(count.div_ceil(2), 65_536).with_gpus(count, 81_920);
    let node = Simulated::start(context, "alerts", machine)?;
    let plugin = Altered::of(context, &node)?;
    let file = node.handle.root.join("node-config.yaml");
    std::fs::write(&file, CONFIG)?;
    plugin.restart(|spec| set_argument(spec, "--config", &file.to_string_lossy()))?;
    context.wait_published(&node)?;
    let mut took = Vec::new();
    for number in 0..count {
        let (card, die) = (number / 2, number % 2);
        took.push(published(context, &node, "ascend", &format!("chip-{card}-{die}"), |machine| {
            let dies = machine.cards.iter_mut().filter(|c| c.id as u32 == card).flat_map(|c| &mut c.dies);
            for found in dies.filter(|d| d.id as u32 == die) {
                (found.health, found.error_codes) = (3, vec![0x80E0_1801]);
            }
        })?);
        took.push(published(context, &node, "nvidia", &format!("chip-{number}-0"), |machine| {
            let gpus = machine.nvidia.iter_mut().flat_map(|nvidia| &mut nvidia.gpus);
            for gpu in gpus.filter(|gpu| gpu.minor == number) {
                gpu.xids.push(Xid { code: 79, gpu_instance: None });
            }
        })?);
    }
    took.sort();
    let at =
        |part: usize| took.get((took.len() * part / 100).min(took.len() - 1)).copied().unwrap_or_default();
    println!(
        "        {} faults, from the driver's file to the slice: p50 {:.0?}, p99 {:.0?}, longest {:.0?}",
        took.len(),
        at(50),
        at(99),
        at(100)
    );
    Ok(())
}

/// How long it takes from a change of the hardware until this device is tainted.
fn published(
    context: &Context,
    node: &MachineNode,
    vendor: &str,
    device: &str,
    ail: impl FnOnce(&mut Machine),
) -> Result<Duration> {
    // Slices are written a second apart, and this is not about that.
    std::thread::sleep(Duration::from_millis(1100));
    let pool = format!("{}/{vendor}", node.handle.name);
    let api: Api<ResourceSlice> = Api::all(context.cluster.client()?);
    let of_node = ListParams::default().fields(&format!("spec.nodeName={}", node.handle.name));
    let begun = Instant::now();
    node.change(ail)?;
    loop {
        let slices = context.cluster.block_on(async { api.list(&of_node).await }).context("slices")?;
        let devices = slices.iter().filter(|slice| slice.spec.pool.name == pool);
        let mut devices = devices.flat_map(|slice| slice.spec.devices.iter().flatten());
        if devices.any(|found| found.name == device && found.taints.as_ref().is_some_and(|t| !t.is_empty())) {
            return Ok(begun.elapsed());
        }
        ensure!(begun.elapsed() < PATIENCE, "{pool} {device} is not tainted");
        std::thread::sleep(Duration::from_millis(5));
    }
}
