//! Nodes with the devices of two vendors: each is published and given out by itself, and a claim may say that it takes
//! either.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vnpu_e2e_stack::{Fault, Instance, Machine, MachineNode, Mig};

use super::explained::vnpu;
use crate::case::Case;
use crate::context::Context;
use crate::images;
use crate::plugins::{Altered, Simulated, set_argument};
use crate::pods::{GIB, Said, Sleeper, WITHIN, number, run, sh};
use crate::simulated::{self, PATIENCE, by_name, claim, text};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "kinds/two_vendors_on_one_node",
        about: "modules and GPUs of one node stand in two pools, and pods get what their chip's vendor says",
        run: two_vendors_on_one_node,
    },
    Case {
        name: "kinds/one_vendor_hangs",
        about: "a plugin that starts while NVML hangs serves modules, leaves the GPUs' slices alone, and serves GPUs later",
        run: one_vendor_hangs,
    },
    Case {
        name: "kinds/first_available_over_vendors",
        about: "a claim for a GPU or else an NPU gets GPUs while there are some, then NPUs; by model the other way round",
        run: first_available_over_vendors,
    },
    Case {
        name: "kinds/partitions",
        about: "a GPU under MIG is published as its instances, and a pod gets one, with its capabilities' nodes",
        run: partitions,
    },
    Case {
        name: "kinds/described_by_a_file",
        about: "hardware that no library tells of is published, given out by the class of the docs, and tainted by its file",
        run: described_by_a_file,
    },
    Case {
        name: "kinds/four_in_one_pool",
        about: "910C, 910B, NVIDIA and described devices in one cluster: one table says what is free of each",
        run: four_in_one_pool,
    },
    Case {
        name: "kinds/gpu_share_is_exact",
        about: "GPUs that come to the real node are served, and CUDA programs get their share to the page, by every way",
        run: gpu_share_is_exact,
    },
];

/// One 910C module and so many H100 of 80 GiB.
fn both(gpus: u32) -> Machine {
    Machine { nvidia: Machine::nvidia_h100(gpus, 81_920).nvidia, ..Machine::ascend_910c(1, 65_536) }
}

/// A claim for what a class has, all of it or a part.
fn exactly(class: &str, capacity: &Value) -> Value {
    let mut request = json!({"deviceClassName": class});
    if !capacity.is_null() {
        request = simulated::with(request, "", "capacity", json!({"requests": capacity}));
    }
    json!({"devices": {"requests": [{"name": "one", "exactly": request}]}})
}

fn part(memory: &str, cores: &str) -> Value {
    json!({"memory": memory, "cores": cores})
}

/// Names of the devices in a vendor's pool of the node, sorted; `None` where it has no slices.
fn published(context: &Context, node: &str, vendor: &str) -> Result<Option<Vec<String>>> {
    let slices = slices(context, node, vendor)?;
    let devices = slices.iter().filter_map(|slice| slice.pointer("/spec/devices")?.as_array()).flatten();
    let mut names: Vec<String> = devices.map(|device| text(device, "/name").to_owned()).collect();
    names.sort();
    Ok((!slices.is_empty()).then_some(names))
}

fn slices(context: &Context, node: &str, vendor: &str) -> Result<Vec<Value>> {
    let selector = format!("--field-selector=spec.nodeName={node},spec.driver=vnpu.dev");
    let found = context.cluster.kubectl_json(&["get", "resourceslices", &selector])?;
    let mut slices = found.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    slices.retain(|slice| text(slice, "/spec/pool/name") == format!("{node}/{vendor}"));
    Ok(slices)
}

fn wait_published(context: &Context, node: &str, vendor: &str, wanted: &[&str]) -> Result<()> {
    let mut found = None;
    let waited = context.cluster.wait_for("the pool's devices", PATIENCE, || {
        found = published(context, node, vendor)?;
        Ok(found.as_deref().is_some_and(|found| found == wanted))
    });
    waited.with_context(|| format!("{node}/{vendor} should have {wanted:?}, it has {found:?}"))
}

/// Pool and device of a claim's only result, and the request that it answers.
fn result(context: &Context, name: &str) -> Result<(String, String, String)> {
    let claim = context.claim(name)?;
    let results = claim.pointer("/status/allocation/devices/results").and_then(Value::as_array);
    let result = results.and_then(|r| r.first()).context("the claim has no device")?;
    let word = |pointer| text(result, pointer).to_owned();
    Ok((word("/pool"), word("/device"), word("/request")))
}

/// A claim and a pod that runs with it on the node.
fn holds(context: &Context, node: &MachineNode, name: &str, spec: &Value) -> Result<()> {
    let pod = simulated::pod(name, &node.handle.name, &[("one", by_name(name))]);
    simulated::apply(context, vec![claim(name, spec), pod])?;
    let waited = context.wait_pod(name, "Running", PATIENCE);
    waited.with_context(|| context.cluster.describe_pod(&context.namespace, name))
}

/// What a claim's CDI file brings, as paths in the container: device nodes, mounts.
fn brings(
    context: &Context,
    node: &MachineNode,
    claim: &str,
) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let file = format!("vnpu.dev-claim_{}.json", context.claim_uid(claim)?);
    let spec: Value = serde_json::from_slice(&fs::read(node.handle.cdi.join(file)).context("the CDI file")?)?;
    let devices = spec.get("devices").and_then(Value::as_array).into_iter().flatten();
    let (mut nodes, mut mounts) = (BTreeSet::new(), BTreeSet::new());
    for device in devices {
        for (pointer, path, into) in [
            ("/containerEdits/deviceNodes", "/path", &mut nodes),
            ("/containerEdits/mounts", "/containerPath", &mut mounts),
        ] {
            let entries = device.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
            into.extend(entries.map(|entry| text(entry, path).to_owned()));
        }
    }
    Ok((nodes, mounts))
}

fn number_of(device: &str) -> &str {
    device.split('-').nth(1).unwrap_or_default()
}

fn two_vendors_on_one_node(context: &mut Context) -> Result<()> {
    let node = Simulated::start(context, "two-vendors", both(2))?;
    let name = &node.handle.name;
    wait_published(context, name, "ascend", &["chip-0-0", "chip-0-1", "module-0"])?;
    wait_published(context, name, "nvidia", &["chip-0-0", "chip-1-0"])?;
    let slices = slices(context, name, "nvidia")?;
    let gpu = slices.iter().find_map(|s| s.pointer("/spec/devices/0")).context("no GPU")?;
    for (attribute, wanted) in [
        ("vendor/string", json!("nvidia")),
        ("type/string", json!("chip")),
        ("model/string", json!("H100")),
        ("module/int", json!(-1)),
        ("shareable/bool", json!(true)),
        ("computeCapability/version", json!("9.0.0")),
    ] {
        let found = gpu.pointer(&format!("/attributes/{attribute}"));
        ensure!(found == Some(&wanted), "{attribute} should be {wanted}: {gpu}");
    }
    ensure!(text(gpu, "/capacity/memory/value") == "80Gi", "memory of {gpu}");

    holds(context, &node, "gpu", &exactly("gpu.vnpu.dev", &part("8Gi", "20")))?;
    holds(context, &node, "npu", &exactly("npu.vnpu.dev", &part("4Gi", "10")))?;
    let (pool, device, _) = result(context, "gpu")?;
    ensure!(pool == format!("{name}/nvidia"), "the GPU's pool is {pool}");
    let (nodes, mounts) = brings(context, &node, "gpu")?;
    let own = format!("/dev/nvidia{}", number_of(&device));
    ensure!(
        nodes
            == [&own, "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"].map(str::to_owned).into(),
        "{device} brings {nodes:?}"
    );
    let has = |mounts: &BTreeSet<String>, end: &str| mounts.iter().any(|path| path.ends_with(end));
    for end in ["/libcuda.so.1", "/libnvidia-ml.so.1", "/nvidia-smi", "/etc/ld.so.preload", "/quota"] {
        ensure!(has(&mounts, end), "no {end} in {mounts:?}");
    }
    ensure!(!mounts.iter().any(|path| path.contains("Ascend")), "the other vendor's files: {mounts:?}");
    let (nodes, mounts) = brings(context, &node, "npu")?;
    ensure!(nodes.iter().all(|path| !path.contains("nvidia")), "an NPU brings {nodes:?}");
    ensure!(!has(&mounts, "/libcuda.so.1") && has(&mounts, "/quota"), "an NPU brings {mounts:?}");
    let metrics = node.admin("/metrics")?;
    for line in ["vnpu_chips{vendor=\"ascend\"} 2", "vnpu_chips{vendor=\"nvidia\"} 2"] {
        ensure!(metrics.contains(line), "no {line} in the metrics");
    }
    simulated::clear(context, &node)
}

fn one_vendor_hangs(context: &mut Context) -> Result<()> {
    let node = Simulated::start(context, "one-hangs", both(1))?;
    let name = &node.handle.name;
    wait_published(context, name, "nvidia", &["chip-0-0"])?;
    let stays = |slices: Vec<Value>| -> Vec<Value> {
        slices.iter().filter_map(|slice| slice.pointer("/metadata/resourceVersion").cloned()).collect()
    };
    let before = stays(slices(context, name, "nvidia")?);
    let plugin = Altered::of(context, &node)?;
    let hang = Fault { function: "nvmlInit_v2".to_owned(), card: None, device: None, error: 0, hang: true };
    node.change(|machine| machine.faults = vec![hang])?;
    plugin.restart(|_| ())?;
    holds(context, &node, "npu", &exactly("npu.vnpu.dev", &part("4Gi", "10")))?;
    let pod = simulated::pod("gpu", name, &[("one", by_name("gpu"))]);
    simulated::apply(context, vec![claim("gpu", &exactly("gpu.vnpu.dev", &part("8Gi", "20"))), pod])?;
    context.cluster.wait_for("the plugin to name the vendor", PATIENCE, || {
        Ok(node
            .admin("/readyz")
            .is_ok_and(|page| page.contains("[-] discovery: nvidia: nvmlInit_v2 does not return")))
    })?;
    let now = stays(slices(context, name, "nvidia")?);
    ensure!(now == before, "the GPUs' slices were written: {before:?}, now {now:?}");
    let phase = simulated::get(context, "pod", "gpu")?;
    ensure!(text(&phase, "/status/phase") == "Pending", "a pod got a GPU that nobody could look at: {phase}");
    node.change(|machine| machine.faults.clear())?;
    let waited = context.wait_pod("gpu", "Running", PATIENCE);
    waited.with_context(|| context.cluster.describe_pod(&context.namespace, "gpu"))?;
    context.cluster.wait_for("readiness", PATIENCE, || {
        Ok(node.admin("/readyz").is_ok_and(|page| page.contains("[+] discovery ok")))
    })?;
    simulated::clear(context, &node)
}

fn first_available_over_vendors(context: &mut Context) -> Result<()> {
    let node = Simulated::start(context, "either-vendor", both(2))?;
    let name = &node.handle.name;
    wait_published(context, name, "nvidia", &["chip-0-0", "chip-1-0"])?;
    let either = json!({"devices": {"requests": [{"name": "one", "firstAvailable": [
        {"name": "gpu", "deviceClassName": "gpu.vnpu.dev"},
        {"name": "npu", "deviceClassName": "npu.vnpu.dev"},
    ]}]}});
    let mut given = Vec::new();
    for pod in ["first", "second", "third"] {
        holds(context, &node, pod, &either)?;
        let (pool, device, request) = result(context, pod)?;
        let (nodes, _) = brings(context, &node, pod)?;
        let own = if request == "one/gpu" { "/dev/nvidia" } else { "/dev/davinci" };
        ensure!(
            nodes.iter().all(|path| path.starts_with(own) || !path.ends_with(char::is_numeric)),
            "{nodes:?}"
        );
        given.push((request, pool, device));
    }
    println!("        {given:?}");
    let requests: Vec<&str> = given.iter().map(|(request, ..)| request.as_str()).collect();
    ensure!(requests == ["one/gpu", "one/gpu", "one/npu"], "{given:?}");

    // Whatever the vendor, by memory: no GPU is left, and a chip of a module has 64 GiB.
    let selectors = json!([{"cel": {"expression":
        r#"device.capacity["vnpu.dev"].memory.compareTo(quantity("60Gi")) >= 0"#}}]);
    let any = exactly("accelerator.vnpu.dev", &part("2Gi", "5"));
    let any = simulated::with(any, "/devices/requests/0/exactly", "selectors", selectors);
    holds(context, &node, "any", &any)?;
    let (pool, ..) = result(context, "any")?;
    ensure!(pool == format!("{name}/ascend"), "the only free chip is the module's, given is one of {pool}");
    simulated::clear(context, &node)
}

/// A GPU with two of its seven slices as instances, and one whole.
fn partitioned() -> Machine {
    let mut machine = both(2);
    let instance = |number: u32| Instance {
        gpu_instance: number + 7,
        compute_instance: 0,
        uuid: format!("MIG-7a3c000{number}-0000-4b20-9f00-0123456789ab"),
        profile: "1g.10gb".to_owned(),
        memory_mib: 9856,
        slices: 1,
        processes: std::collections::BTreeMap::new(),
    };
    let instances = (0..2).map(|number| (number, instance(number))).collect();
    if let Some(gpu) = machine.nvidia.as_mut().and_then(|nvidia| nvidia.gpus.first_mut()) {
        gpu.mig = Some(Mig { enabled: true, slices: 7, instances });
    }
    machine
}

fn partitions(context: &mut Context) -> Result<()> {
    let node = Simulated::start(context, "partitions", partitioned())?;
    let name = &node.handle.name;
    wait_published(context, name, "nvidia", &["chip-1-0", "partition-0-7-0", "partition-0-8-0"])?;
    let mut capabilities = BTreeSet::new();
    for pod in ["first", "second"] {
        holds(context, &node, pod, &exactly("gpu-partition.vnpu.dev", &Value::Null))?;
        let (_, device, _) = result(context, pod)?;
        ensure!(device.starts_with("partition-0-"), "{pod} got {device}");
        let (nodes, mounts) = brings(context, &node, pod)?;
        ensure!(
            nodes.contains("/dev/nvidia0") && !nodes.contains("/dev/nvidia1"),
            "{device} brings {nodes:?}"
        );
        let own: BTreeSet<String> =
            nodes.into_iter().filter(|path| path.starts_with("/dev/nvidia-caps/")).collect();
        ensure!(own.len() == 2, "an instance has two capabilities, {device} brings {own:?}");
        ensure!(capabilities.is_disjoint(&own), "{own:?} of {device} are another instance's too");
        capabilities.extend(own);
        ensure!(!mounts.contains("/etc/ld.so.preload"), "a partition is its holder's alone: {mounts:?}");
    }
    // No third one, and the whole GPU is no partition.
    let pod = simulated::pod("third", name, &[("one", by_name("third"))]);
    let spec = exactly("gpu-partition.vnpu.dev", &Value::Null);
    simulated::apply(context, vec![claim("third", &spec), pod])?;
    simulated::wait_event(context, "third", "FailedScheduling", &["cannot allocate all claims"])?;
    context.kubectl(&["delete", "pod", "first", "--timeout=60s"])?;
    context.kubectl(&["delete", "resourceclaim", "first", "--timeout=60s"])?;
    context.wait_pod("third", "Running", PATIENCE)?;
    simulated::clear(context, &node)
}

/// Two devices of a vendor without a library, and the plugin that is told of them.
fn describe<'a>(context: &'a Context, node: &'a MachineNode) -> Result<(Altered<'a>, PathBuf)> {
    let (file, health) = (node.handle.root.join("acme.yaml"), node.handle.root.join("acme-health"));
    for number in 0..2 {
        let path = node.handle.dev_root.join(format!("acme{number}"));
        let made = Command::new("mknod").arg(&path).args(["c", "1", "3"]).status()?;
        ensure!(made.success(), "no device node {}", path.display());
    }
    fs::write(&health, "ok\n")?;
    let description = format!(
        "apiVersion: vnpu.dev/v1alpha1\nkind: GenericDevices\nvendor: acme\nmodel: A10\nmemory: 32Gi\ndevices:\n\
         - {{card: 0, uuid: ACME-0, nodes: [acme0], health: {{file: {}}}}}\n\
         - {{card: 1, uuid: ACME-1, nodes: [acme1]}}\n",
        health.display()
    );
    fs::write(&file, description)?;
    let plugin = Altered::of(context, node)?;
    plugin.restart(|spec| set_argument(spec, "--generic-devices", &format!("acme={}", file.display())))?;
    wait_published(context, &node.handle.name, "acme", &["chip-0-0", "chip-1-0"])?;
    Ok((plugin, health))
}

/// The class that the docs show, for as long as it lives.
struct Class<'a>(&'a Context);

impl<'a> Class<'a> {
    fn of_the_docs(context: &'a Context) -> Result<Self> {
        let page = fs::read_to_string(context.artefacts.repository.join("docs/adding-a-vendor.md"))?;
        let blocks = page.split("```yaml\n").filter_map(|rest| rest.split("```").next());
        let class = blocks
            .into_iter()
            .find(|block| block.contains("kind: DeviceClass"))
            .context("no class in the docs")?;
        context.cluster.apply(class)?;
        Ok(Self(context))
    }
}

impl Drop for Class<'_> {
    fn drop(&mut self) {
        drop(self.0.cluster.kubectl(&["delete", "deviceclass", "acme.example.com"]));
    }
}

fn described_by_a_file(context: &mut Context) -> Result<()> {
    let node = Simulated::start(context, "described", Machine::ascend_910c(1, 65536))?;
    let name = node.handle.name.clone();
    let (_plugin, health) = describe(context, &node)?;
    wait_published(context, &name, "ascend", &["chip-0-0", "chip-0-1", "module-0"])?;
    let _class = Class::of_the_docs(context)?;
    let one = exactly("acme.example.com", &Value::Null);
    holds(context, &node, "first", &one)?;
    let (pool, device, _) = result(context, "first")?;
    ensure!(pool == format!("{name}/acme"), "the device is of {pool}");
    let (nodes, mounts) = brings(context, &node, "first")?;
    ensure!(nodes == [format!("/dev/acme{}", number_of(&device))].into(), "{device} brings {nodes:?}");
    ensure!(
        mounts.iter().all(|path| !path.contains("ld.so.preload")),
        "nobody holds programs to shares: {mounts:?}"
    );

    // By any vendor: the one that is left, then the module's chips.
    let either = json!({"devices": {"requests": [{"name": "one", "firstAvailable": [
        {"name": "acme", "deviceClassName": "acme.example.com"},
        {"name": "npu", "deviceClassName": "npu.vnpu.dev"},
    ]}]}});
    for (pod, wanted) in [("second", "one/acme"), ("third", "one/npu")] {
        holds(context, &node, pod, &either)?;
        let (_, _, request) = result(context, pod)?;
        ensure!(request == wanted, "{pod} got {request}");
    }

    // The first word of the file is the code of what is wrong; `chip-0-0` is somebody's.
    fs::write(&health, "fan stopped\n")?;
    let holder = if device == "chip-0-0" { "first" } else { "second" };
    let told = simulated::wait_event(context, holder, "DeviceUnhealthy", &["chip-0-0", "fan stopped"])?;
    println!("        {told}");
    let devices = slices(context, &name, "acme")?;
    ensure!(devices.iter().any(|s| s.to_string().contains("vnpu.dev/unhealthy")), "no taint: {devices:?}");
    // A file that cannot be read any more changes nothing of what it said.
    fs::write(node.handle.root.join("acme.yaml"), "vendor: acme\ndevices: [")?;
    context.cluster.wait_for("the plugin to name the file", PATIENCE, || {
        let log = fs::read_to_string(context.cluster.log(&node.handle.plugin()))?;
        Ok(log.contains("what it said before stays in force"))
    })?;
    wait_published(context, &name, "acme", &["chip-0-0", "chip-1-0"])?;
    simulated::clear(context, &node)
}

/// Totals by name, of each vendor's model.
type Kinds = BTreeMap<String, BTreeMap<String, i64>>;

/// What `kubectl vnpu get pool` says, as a table and as numbers by kind.
fn pool(context: &Context) -> Result<(String, Kinds)> {
    let table = vnpu(context, &["get", "pool"])?;
    let said: Value = serde_json::from_str(&vnpu(context, &["get", "pool", "-o", "json"])?)?;
    let kinds = said.get("kinds").and_then(Value::as_array).context("kinds")?;
    let numbers = |kind: &Value| {
        let totals = kind.get("totals").and_then(Value::as_object).into_iter().flatten();
        totals.filter_map(|(name, number)| Some((name.clone(), number.as_i64()?))).collect()
    };
    let name = |kind: &Value| format!("{} {}", text(kind, "/vendor"), text(kind, "/model"));
    Ok((table, kinds.iter().map(|kind| (name(kind), numbers(kind))).collect()))
}

fn four_in_one_pool(context: &mut Context) -> Result<()> {
    // Nodes of other cases may have devices too, so what these bring is compared.
    let (_, before) = pool(context)?;
    let gpus = Machine { nvidia: Machine::nvidia_h100(2, 81_920).nvidia, ..Machine::ascend_910c(0, 65_536) };
    let large = Simulated::start(context, "four-910c", Machine::ascend_910c(2, 65_536))?;
    let small = Simulated::start(context, "four-910b", Machine::ascend_910b(8, 65_536))?;
    let others = Simulated::start(context, "four-others", gpus)?;
    let (_plugin, _) = describe(context, &others)?;
    let _class = Class::of_the_docs(context)?;
    wait_published(context, &others.handle.name, "nvidia", &["chip-0-0", "chip-1-0"])?;
    holds(context, &large, "module", &exactly("npu-module.vnpu.dev", &Value::Null))?;
    holds(context, &large, "half", &exactly("npu.vnpu.dev", &part("16Gi", "50")))?;
    holds(context, &small, "whole", &exactly("npu.vnpu.dev", &Value::Null))?;
    holds(context, &others, "gpu", &exactly("gpu.vnpu.dev", &part("8Gi", "20")))?;
    holds(context, &others, "acme", &exactly("acme.example.com", &Value::Null))?;

    let (table, now) = pool(context)?;
    for line in table.lines() {
        println!("        {line}");
    }
    // Of modules free, of chips free and all, of GiB free and all, of percent free and all.
    for (kind, wanted) in [
        ("ascend 910C", [0, 2, 1, 4, 112, 256, 150, 400]),
        ("ascend 910B3", [0, 0, 7, 8, 448, 512, 700, 800]),
        ("nvidia H100", [0, 0, 1, 2, 152, 160, 180, 200]),
        ("acme A10", [0, 0, 1, 2, 32, 64, 100, 200]),
    ] {
        let more = |name: &str| {
            let number =
                |all: &Kinds| all.get(kind).and_then(|totals| totals.get(name)).copied().unwrap_or_default();
            number(&now) - number(&before)
        };
        let gib = |name: &str| more(name) >> 30;
        let found = [
            more("freeModules"),
            more("modules"),
            more("freeChips"),
            more("chips"),
            gib("freeMemory"),
            gib("memory"),
            more("freeCores"),
            more("cores"),
        ];
        ensure!(
            found == wanted,
            "{kind} should have {wanted:?} more than before, it has {found:?}:\n{table}"
        );
        ensure!(table.lines().any(|line| line.starts_with(kind)), "no {kind} in\n{table}");
    }
    for node in [&large, &small, &others] {
        simulated::clear(context, node)?;
    }
    Ok(())
}

/// GPUs of the real node, for as long as it lives.
struct Gpus<'a> {
    context: &'a Context,
    node: std::sync::Arc<MachineNode>,
}

impl<'a> Gpus<'a> {
    fn install(context: &'a Context, gpus: u32) -> Result<Self> {
        let node = context.machine()?;
        let gpus = Machine::nvidia_h100(gpus, 81_920).nvidia;
        node.change(|machine| machine.nvidia = gpus)?;
        let installed = Self { context, node };
        context.lay_out(&installed.node)?;
        Ok(installed)
    }
}

impl Drop for Gpus<'_> {
    fn drop(&mut self) {
        // A driver that is removed. The plugin believes it after a minute, and at once when it starts.
        drop(self.node.change(|machine| machine.nvidia = None));
        drop(fs::remove_dir_all(self.node.handle.driver_root.join("usr/lib")));
        drop(self.context.lay_out(&self.node));
        drop(self.context.cluster.restart_plugin(&self.node.handle));
        drop(self.context.wait_published(&self.node));
    }
}

const QUOTA: u64 = 8 * GIB;

/// How programs reach the driver, and how they allocate.
const WAYS: &[(&str, &str)] = &[
    ("link", "alloc"),
    ("dlsym", "alloc"),
    ("dlsym", "pitch"),
    ("dlsym", "managed"),
    ("dlsym", "async"),
    ("dlsym", "vmm"),
    ("dlsym-ptsz", "async"),
    ("proc", "alloc"),
    ("proc-ptsz", "async"),
    ("proc-old", "alloc"),
];

/// Where the driver's libraries are mounted: not every image's loader looks there.
const LIBRARIES: &str = "export LD_LIBRARY_PATH=/usr/lib/$(uname -m)-linux-gnu;";

fn gpu_share_is_exact(context: &mut Context) -> Result<()> {
    images::tools(context)?;
    let gpus = Gpus::install(context, 1)?;
    let name = gpus.node.handle.name.clone();
    wait_published(context, &name, "nvidia", &["chip-0-0"])?;
    let share = claim("gpu", &exactly("gpu.vnpu.dev", &part("8Gi", "30")));
    let pods = ["main", "other"].map(|name| Sleeper {
        name,
        image: images::TOOLS,
        claims: &["gpu"],
        ..Sleeper::default()
    });
    Sleeper::start(context, &[share], &pods)?;
    let script: String = WAYS
        .iter()
        .map(|(via, kind)| format!("echo '## {via} {kind}'; cuda-demo fill --via {via} --kind {kind};"))
        .collect();
    let said = sh(context, "main", &format!("{LIBRARIES} {script}"))?;
    ensure!(said.err.is_empty(), "something was said on standard error: {}", said.err);
    let parts: Vec<&str> = said.out.split("## ").skip(1).collect();
    ensure!(parts.len() == WAYS.len(), "{} of {} ways were tried:\n{}", parts.len(), WAYS.len(), said.out);
    for ((via, kind), part) in WAYS.iter().zip(parts) {
        for round in ["first", "again"] {
            let fill = format!("fill round={round}");
            // CUDA_ERROR_OUT_OF_MEMORY.
            for (key, wanted) in [("granted", QUOTA), ("code", 2), ("total", QUOTA), ("free", 0)] {
                let seen = number(part, &fill, key).with_context(|| format!("{via} {kind}: {part}"))?;
                ensure!(seen == wanted, "{via} {kind}: {key} should be {wanted}:\n{part}");
            }
            let freed = number(part, &format!("freed round={round}"), "free")?;
            ensure!(freed == QUOTA, "{via} {kind}: not all is free again:\n{part}");
        }
    }
    shared_and_seen(context, &gpus.node)
}

/// Another pod of the claim has what is left, and the node agent sees the processes as NVML does.
fn shared_and_seen(context: &Context, node: &MachineNode) -> Result<()> {
    let hold = format!(
        "{LIBRARIES} cuda-demo hold --bytes 6Gi > /tmp/a 2>&1 < /dev/null & i=0; \
         until grep -q -e holding -e failed /tmp/a; do sleep 0.1; i=$((i+1)); [ $i -lt 600 ]; done; cat /tmp/a"
    );
    let held = sh(context, "main", &hold)?;
    ensure!(held.out.contains("holding"), "{held:?}");
    let other: Said = run(context, "other", "main", &["sh", "-c", &format!("{LIBRARIES} cuda-demo fill")])?;
    ensure!(other.number("fill", "granted")? == 2 * GIB, "{other:?}");
    super::unchanged::wait_attached(context, "gpu", "True")?;
    let wanted = format!(" {}", 6 * GIB);
    let mut lines = String::new();
    let waited = context.cluster.wait_for("NVML's number of the claim", WITHIN, || {
        let page = node.admin("/metrics")?;
        let ours = page.lines().filter(|l| l.starts_with("vnpu_claim_memory_") && l.contains("GPU-"));
        lines = ours.collect::<Vec<_>>().join("\n");
        let both = ["vnpu_claim_memory_vendor_bytes", "vnpu_claim_memory_used_bytes"];
        Ok(both.iter().all(|name| lines.lines().any(|l| l.starts_with(name) && l.ends_with(&wanted))))
    });
    waited.with_context(|| format!("6 GiB are held, the metrics say:\n{lines}"))
}
