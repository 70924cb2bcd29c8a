//! Clusters of both kinds: nodes whose chips have no mates (910B) beside nodes with dual-die modules, and claims that
//! are meant for either.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vnpu_e2e_stack::{Machine, MachineNode};

use super::identity::chip_nodes;
use crate::case::Case;
use crate::context::Context;
use crate::holding::PATIENCE;
use crate::plugins::Simulated;
use crate::simulated::{self, by_name, claim, text};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "single_die/is_published_without_modules",
        about: "a 910B node publishes chips with module -1 and dies 1, no module device and no counters",
        run: is_published_without_modules,
    },
    Case {
        name: "single_die/first_available_on_either_kind",
        about: "examples/first-available gets four chips on a 910B node and two modules on a 910C node, and both are prepared",
        run: first_available_on_either_kind,
    },
    Case {
        name: "single_die/pair_on_either_kind",
        about: "count: 2 with matchAttribute on module gets two chips on a 910B node, one module's chips on a 910C node",
        run: pair_on_either_kind,
    },
];

/// Cards of the single-die node: more than asked for, so that the choice is the scheduler's.
const CARDS: u32 = 6;

/// A node of each kind.
struct Kinds<'a> {
    single: Simulated<'a>,
    dual: Simulated<'a>,
}

impl<'a> Kinds<'a> {
    fn start(context: &'a Context, case: &str) -> Result<Self> {
        let single = Simulated::start(context, &format!("{case}-910b"), Machine::ascend_910b(CARDS, 65536))?;
        let dual = Simulated::start(context, &format!("{case}-910c"), Machine::ascend_910c(3, 65536))?;
        Ok(Self { single, dual })
    }
}

/// What a claim was given: the request of each result, and the device.
type Given = Vec<(String, String)>;

/// A claim of this form and a pod that may go to this node alone, once it runs: what it was given, and that its CDI
/// file brings exactly those devices' nodes, and kubelet would hand the container one id for each.
fn given(context: &Context, node: &MachineNode, name: &str, spec: &Value) -> Result<Given> {
    let pod = simulated::pod(name, &node.handle.name, &[("npu", by_name(name))]);
    simulated::apply(context, vec![claim(name, spec), pod])?;
    let waited = context.wait_pod(name, "Running", PATIENCE);
    waited.with_context(|| context.cluster.describe_pod(&context.namespace, name))?;
    let object = context.claim(name)?;
    let pool = format!("{}/ascend", node.handle.name);
    let mut found = Given::new();
    for result in
        object.pointer("/status/allocation/devices/results").and_then(Value::as_array).into_iter().flatten()
    {
        ensure!(text(result, "/pool") == pool, "a result of another pool than {pool}: {result}");
        found.push((text(result, "/request").to_owned(), text(result, "/device").to_owned()));
    }
    let wanted = nodes_of(node, found.iter().map(|(_, device)| device.as_str()))?;
    let brought = chip_nodes(node, text(&object, "/metadata/uid"))?;
    ensure!(brought == wanted, "{found:?} are device nodes {wanted:?}, the CDI file brings {brought:?}");
    let pod = simulated::get(context, "pod", name)?;
    let file = node.handle.root.join(format!("kubelet/pods/{}.json", text(&pod, "/metadata/uid")));
    let record: Value = serde_json::from_slice(&std::fs::read(&file).context("what kubelet would start")?)?;
    let ids = record.pointer("/containers/main").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(ids == found.len(), "{} devices, and the container gets {ids} CDI ids: {record}", found.len());
    Ok(found)
}

/// The numbers of the device nodes behind devices' names.
fn nodes_of<'a>(node: &MachineNode, devices: impl Iterator<Item = &'a str>) -> Result<BTreeSet<u32>> {
    let machine = node.machine();
    let mut nodes = BTreeSet::new();
    for device in devices {
        let wanted = machine.dies().filter(|(card, die)| {
            device == format!("chip-{}-{}", card.id, die.id) || device == format!("module-{}", card.id)
        });
        let before = nodes.len();
        nodes.extend(wanted.map(|(_, die)| die.phys_id));
        ensure!(nodes.len() > before, "{device} is no device of {}, or was given twice", node.handle.name);
    }
    Ok(nodes)
}

fn is_published_without_modules(context: &mut Context) -> Result<()> {
    let node = Simulated::start(context, "only-910b", Machine::ascend_910b(CARDS, 65536))?;
    let devices = context.devices(&node.handle.name)?;
    let names: Vec<&str> = devices.iter().map(|(name, _)| name.as_str()).collect();
    let wanted: Vec<String> = (0..CARDS).map(|card| format!("chip-{card}-0")).collect();
    ensure!(names == wanted, "published are {names:?}");
    for (name, device) in &devices {
        let is =
            |attribute: &str, kind: &str| device.pointer(&format!("/attributes/{attribute}/{kind}")).cloned();
        ensure!(is("module", "int") == Some(json!(-1)), "module of {name}: {device}");
        ensure!(is("dies", "int") == Some(json!(1)), "dies of {name}: {device}");
        ensure!(is("type", "string") == Some(json!("chip")), "type of {name}: {device}");
        ensure!(device.get("consumesCounters").is_none(), "{name} consumes counters: {device}");
    }
    let selector = format!("--field-selector=spec.nodeName={}", node.handle.name);
    let slices = context.cluster.kubectl_json(&["get", "resourceslices", &selector])?;
    let slices = slices.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    ensure!(slices.len() == 1, "{} slices for {CARDS} chips", slices.len());
    ensure!(
        slices.iter().all(|s| s.pointer("/spec/sharedCounters").is_none()),
        "there are counters: {slices:?}"
    );
    Ok(())
}

fn first_available_on_either_kind(context: &mut Context) -> Result<()> {
    let kinds = Kinds::start(context, "either")?;
    let spec = example(context)?;
    let single = given(context, &kinds.single, "on-single", &spec)?;
    let dual = given(context, &kinds.dual, "on-dual", &spec)?;
    println!("        on 910B {}, on 910C {}", shown(&single), shown(&dual));
    ensure!(
        single.len() == 4 && single.iter().all(|(request, _)| request == "four/chips"),
        "910B: {single:?}"
    );
    ensure!(dual.len() == 2 && dual.iter().all(|(request, _)| request == "four/modules"), "910C: {dual:?}");
    Ok(())
}

/// The specification of the claim in examples/first-available.
fn example(context: &Context) -> Result<Value> {
    let file = context.artefacts.repository.join("examples/first-available/first-available.yaml");
    let file = file.display().to_string();
    let objects = context.cluster.kubectl_ok(&["create", "--dry-run=client", "-o", "json", "-f", &file])?;
    let mut objects = serde_json::Deserializer::from_str(&objects).into_iter::<Value>().map_while(Result::ok);
    let claim = objects.find(|o| text(o, "/kind") == "ResourceClaim").context("the example has no claim")?;
    claim.get("spec").cloned().context("the example's claim has no spec")
}

fn pair_on_either_kind(context: &mut Context) -> Result<()> {
    let kinds = Kinds::start(context, "pair")?;
    let spec = json!({"devices": {
        "requests": [{"name": "pair", "exactly": {"deviceClassName": "npu.vnpu.dev", "count": 2}}],
        "constraints": [{"requests": ["pair"], "matchAttribute": "vnpu.dev/module"}],
    }});
    let single = given(context, &kinds.single, "on-single", &spec)?;
    // A share on the first module, so that whoever takes the next two chips takes those of two modules.
    let share = simulated::share("4Gi", "10");
    let taken = given(context, &kinds.dual, "first", &share)?;
    let dual = given(context, &kinds.dual, "on-dual", &spec)?;
    println!("        on 910B {}; on 910C {} beside {}", shown(&single), shown(&dual), shown(&taken));
    let card = |device: &str| device.split('-').nth(1).map(str::to_owned);
    let cards = |given: &Given| given.iter().filter_map(|(_, device)| card(device)).collect::<BTreeSet<_>>();
    ensure!(single.len() == 2 && cards(&single).len() == 2, "on 910B the pair is {single:?}");
    ensure!(dual.len() == 2 && cards(&dual).len() == 1, "on 910C the pair is {dual:?}");
    ensure!(cards(&dual).is_disjoint(&cards(&taken)), "{dual:?} beside {taken:?}");
    Ok(())
}

fn shown(given: &Given) -> String {
    given.iter().map(|(request, device)| format!("{request}={device}")).collect::<Vec<_>>().join(" ")
}
