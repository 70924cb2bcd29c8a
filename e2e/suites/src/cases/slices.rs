//! What large and unusual machines look like in the API server: every slice is taken as it was meant, and nothing is
//! left out.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vnpu_e2e_stack::{Machine, MultiDiePolicy};

use super::identity::{NO_DEVICES, chip_nodes};
use crate::case::Case;
use crate::context::Context;
use crate::holding::{PATIENCE, holder, module_number, share, share_of_module};
use crate::plugins::Simulated;
use crate::simulated::text;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "slices/sixty_four_dual_die_cards",
        about: "64 modules are four device slices and their counters in the API server, none missing; the last ones are allocated",
        run: sixty_four_dual_die_cards,
    },
    Case {
        name: "slices/union_policy",
        about: "a machine whose dies must stay together publishes its 64 modules and no chip, and shares pend",
        run: union_policy,
    },
];

const CARDS: u32 = 64;

/// The devices of one slice may be so many where counters are used.
const MOST_DEVICES: usize = 64;

/// The slices of a node's pool, once all that its generation announces are there.
fn slices(context: &Context, node: &str) -> Result<Vec<Value>> {
    let selector = format!("--field-selector=spec.nodeName={node},spec.driver=vnpu.dev");
    let mut found = Vec::new();
    let waited = context.cluster.wait_for(&format!("all slices of {node}"), PATIENCE, || {
        let list = context.cluster.kubectl_json(&["get", "resourceslices", &selector])?;
        found = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let announced = |pointer: &str| -> BTreeSet<u64> {
            found.iter().filter_map(|s| s.pointer(pointer)?.as_u64()).collect()
        };
        Ok(announced("/spec/pool/resourceSliceCount") == BTreeSet::from([found.len() as u64])
            && announced("/spec/pool/generation").len() == 1)
    });
    waited.with_context(|| format!("there are {} slices", found.len()))?;
    Ok(found)
}

/// The names of what a slice has at `pointer`.
fn names(slice: &Value, pointer: &str) -> Vec<String> {
    let entries = slice.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    entries.map(|e| text(e, "/name").to_owned()).collect()
}

/// The counters of the pool, as set and counter.
fn counters(slices: &[Value]) -> BTreeSet<(String, String)> {
    let sets = slices.iter().filter_map(|s| s.pointer("/spec/sharedCounters")?.as_array()).flatten();
    let pairs = sets.flat_map(|set| {
        let names = set.get("counters").and_then(Value::as_object).into_iter().flatten();
        names.map(|(name, _)| (text(set, "/name").to_owned(), name.clone()))
    });
    pairs.collect()
}

/// That each device consumes the counters of its module: both, or its own.
fn consume(slices: &[Value]) -> Result<()> {
    for device in slices.iter().filter_map(|s| s.pointer("/spec/devices")?.as_array()).flatten() {
        let name = text(device, "/name");
        let mut parts = name.split('-').skip(1);
        let card: u32 = parts.next().and_then(|c| c.parse().ok()).with_context(|| name.to_owned())?;
        let wanted: Vec<String> = match parts.next() {
            Some(die) => vec![format!("m{card}-c{die}")],
            None => vec![format!("m{card}-c0"), format!("m{card}-c1")],
        };
        let set = format!("modules-{}", card / 16);
        let counters: BTreeMap<String, Value> =
            wanted.into_iter().map(|c| (c, json!({"value": "1"}))).collect();
        let wanted = json!([{"counterSet": set, "counters": counters}]);
        let found = device.get("consumesCounters");
        ensure!(found == Some(&wanted), "{name} should consume {wanted}, but consumes {found:?}");
    }
    Ok(())
}

/// Device slices as the names and numbers of devices, whichever order the API server lists them in.
fn shape(slices: &[Value]) -> Vec<usize> {
    let mut sizes: Vec<usize> =
        slices.iter().map(|s| names(s, "/spec/devices").len()).filter(|n| *n > 0).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes
}

/// That the pool has exactly these devices, and 64 modules' counters in sets of 16.
fn holds(slices: &[Value], wanted: &BTreeSet<String>) -> Result<()> {
    let all: Vec<String> = slices.iter().flat_map(|s| names(s, "/spec/devices")).collect();
    let found: BTreeSet<String> = all.iter().cloned().collect();
    let odd: Vec<_> = found.symmetric_difference(wanted).collect();
    ensure!(odd.is_empty(), "devices that are missing or too many: {odd:?}");
    ensure!(all.len() == wanted.len(), "{} devices under {} names", all.len(), wanted.len());
    ensure!(shape(slices).iter().all(|n| *n <= MOST_DEVICES), "devices per slice: {:?}", shape(slices));
    let cards = (0..CARDS)
        .flat_map(|card| [0, 1].map(|die| (format!("modules-{}", card / 16), format!("m{card}-c{die}"))));
    let (cards, found) = (cards.collect::<BTreeSet<_>>(), counters(slices));
    let odd: Vec<_> = cards.symmetric_difference(&found).collect();
    ensure!(odd.is_empty(), "counters that are missing or too many: {odd:?}");
    consume(slices)
}

fn sixty_four_dual_die_cards(context: &mut Context) -> Result<()> {
    const NODE: &str = "sixty-four";
    let node = Simulated::start(context, NODE, Machine::ascend_910c(CARDS, 65536))?;
    let slices = slices(context, NODE)?;
    let names =
        (0..CARDS).flat_map(|c| [format!("module-{c}"), format!("chip-{c}-0"), format!("chip-{c}-1")]);
    holds(&slices, &names.collect())?;
    println!("        {} slices, devices per slice {:?}", slices.len(), shape(&slices));
    ensure!(
        shape(&slices) == [63, 63, 63, 3] && slices.len() == 5,
        "{} slices: {:?}",
        slices.len(),
        shape(&slices)
    );
    complete(&node)?;
    // The scheduler has them too: the last of the last slice, and one of a slice in the middle.
    context.hold("last", NODE, &module_number("last", CARDS - 1))?;
    let last = chip_nodes(&node, &context.claim_uid("last")?)?;
    ensure!(last == BTreeSet::from([126, 127]), "module 63 is device nodes {last:?}");
    context.hold("middle", NODE, &share_of_module("middle", "4Gi", 31))?;
    ensure!(context.devices_of("middle")? == ["chip-31-0"], "{:?}", context.devices_of("middle")?);
    Ok(())
}

fn union_policy(context: &mut Context) -> Result<()> {
    const NODE: &str = "union";
    let mut machine = Machine::ascend_910c(CARDS, 65536);
    machine.multi_die_policy = MultiDiePolicy::Union;
    let node = Simulated::start(context, NODE, machine)?;
    let slices = slices(context, NODE)?;
    holds(&slices, &(0..CARDS).map(|card| format!("module-{card}")).collect())?;
    println!("        {} slices, devices per slice {:?}", slices.len(), shape(&slices));
    complete(&node)?;
    context.hold("module", NODE, &module_number("module", CARDS - 1))?;
    let dies = chip_nodes(&node, &context.claim_uid("module")?)?;
    ensure!(dies == BTreeSet::from([126, 127]), "module 63 is device nodes {dies:?}");
    context.apply(&format!("{}{}", share("share", "1Gi", 1), holder("share", NODE, "share")))?;
    context.wait_unschedulable("share", NO_DEVICES)
}

/// That the plugin itself knows of no slice, and no part of one, that the API server did not take.
fn complete(node: &Simulated) -> Result<()> {
    let metrics = node.admin("/metrics")?;
    let found = metrics.lines().find(|line| line.starts_with("vnpu_slices_complete"));
    ensure!(found.is_some_and(|line| line.ends_with(" 1")), "the plugin says {found:?}");
    Ok(())
}
