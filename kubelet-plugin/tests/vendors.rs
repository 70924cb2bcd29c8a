//! Proves what a node does that has devices of several vendors: each is served by itself, whatever becomes of the
//! others, and nothing that is not known is published, emptied or deleted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Bench, FakeHardware, Mood, name, settle, uid};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vnpu_driver::hardware::{PciAddress, ProcessMemory};
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::Bytes;
use vnpu_driver::record::ClaimState;
use vnpu_kubelet_plugin::audit;
use vnpu_kubelet_plugin::discover::{self, Discover, Progress};
use vnpu_kubelet_plugin::metrics::{OneChip, Pool};
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::prepare::prepare;
use vnpu_kubelet_plugin::unprepare::unprepare;
use vnpu_kubelet_plugin::{publisher, reconcile};
use vnpu_quota_agent::Limits;
use vnpu_telemetry::Readiness;

/// How long anything may take before the test fails; never reached on a machine that works.
const PATIENCE: Duration = Duration::from_secs(30);

/// The loops of one plugin; dropped, they end, and no look hangs any more.
struct Plugin {
    hardware: Vec<Arc<FakeHardware>>,
    node: Arc<Node>,
    readiness: Readiness,
    stop: CancellationToken,
}

impl Plugin {
    async fn start(bench: &Bench) -> Self {
        let (seen, seen_by_all) = watch::channel(bench.unseen());
        let node = bench.start_seeing(seen_by_all).await.0;
        let (readiness, stop) = (Readiness::of(["discovery", "slices"]), CancellationToken::new());
        let progress = Progress::new(readiness.clone(), &bench.vendors());
        for source in bench.vendors().iter() {
            let (source, metrics, progress) = (source.clone(), node.metrics.clone(), progress.clone());
            let health = Arc::clone(&node.health);
            let discover = Discover { source, seen: seen.clone(), health, metrics, progress };
            tokio::spawn(discover::run(discover, Duration::from_millis(20), stop.clone()));
        }
        tokio::spawn(publisher::run(Arc::clone(&node), readiness.clone(), stop.clone()));
        let hardware = std::iter::once(&bench.hardware).chain(&bench.gpus).cloned().collect();
        Self { hardware, node, readiness, stop }
    }

    fn chips(&self, vendor: &str) -> i64 {
        self.node.metrics.chips.get_or_create(&Pool { vendor: vendor.into() }).get()
    }

    fn problems(&self, vendor: &str) -> i64 {
        self.node.metrics.problems.get_or_create(&Pool { vendor: vendor.into() }).get()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.stop.cancel();
        for hardware in &self.hardware {
            hardware.is(Mood::Answers);
        }
    }
}

async fn eventually(what: &str, wanted: impl Fn() -> bool) {
    let begun = Instant::now();
    while !wanted() {
        assert!(begun.elapsed() < PATIENCE, "it never came to this: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Devices of a vendor's pool, each with the values of its taints; `None` where it has no slices at all.
fn devices(bench: &Bench, vendor: &str) -> Option<Vec<String>> {
    let slices = bench.api.slices.lock().unwrap();
    let pool = format!("{}/{vendor}", support::NODE);
    let ours: Vec<&Value> = slices.values().filter(|s| s["spec"]["pool"]["name"] == *pool).collect();
    let devices = ours.iter().flat_map(|s| s["spec"]["devices"].as_array().into_iter().flatten());
    let shown = devices.map(|device| {
        let taints = device["taints"].as_array().into_iter().flatten();
        taints.fold(device["name"].as_str().unwrap().to_owned(), |text, taint| {
            format!("{text} {}", taint["value"].as_str().unwrap())
        })
    });
    let shown = shown.collect();
    (!ours.is_empty()).then_some(shown)
}

/// Metadata of a vendor's slices: any write would change it.
fn versions(bench: &Bench, vendor: &str) -> Vec<Value> {
    let slices = bench.api.slices.lock().unwrap();
    let pool = format!("{}/{vendor}", support::NODE);
    let ours = slices.values().filter(|s| s["spec"]["pool"]["name"] == *pool);
    ours.map(|s| s["metadata"].clone()).collect()
}

fn some(devices: &[&str]) -> Option<Vec<String>> {
    Some(devices.iter().map(|device| (*device).to_owned()).collect())
}

/// What a CDI device has of nodes and mounts, by its name.
fn cdi(bench: &Bench, claim: u32, device: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let file = bench.path("cdi").join(format!("vnpu.dev-claim_{}.json", uid(claim)));
    let spec: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let devices = spec["devices"].as_array().unwrap();
    let found = devices.iter().find(|d| d["name"] == format!("{}-{device}", uid(claim)));
    let edits = &found.unwrap_or_else(|| panic!("no {device} in {spec}"))["containerEdits"];
    let list = |field: &str, of: &str| {
        let entries = edits[field].as_array().into_iter().flatten();
        entries.map(|entry| entry[of].as_str().unwrap().to_owned()).collect()
    };
    (list("deviceNodes", "path"), list("mounts", "containerPath"))
}

const MODULE: [&str; 3] = ["module-0", "chip-0-0", "chip-0-1"];

#[tokio::test]
async fn each_vendor_has_its_pool_and_containers_get_what_its_library_says() {
    let bench = Bench::with_gpus(1, 2);
    let plugin = Plugin::start(&bench).await;
    eventually("readiness", || plugin.readiness.is_ready()).await;
    eventually("modules", || devices(&bench, "ascend") == some(&MODULE)).await;
    eventually("GPUs", || devices(&bench, "nvidia") == some(&["chip-0-0", "chip-1-0"])).await;
    assert_eq!((plugin.chips("ascend"), plugin.chips("nvidia")), (2, 2));
    bench.api.allocate(1, &[("gpu", "nvidia/chip-1-0", "8Gi", "20"), ("npu", "chip-0-1", "4Gi", "10")]);
    bench.api.allocate(2, &[("whole", "nvidia/chip-0-0", "80Gi", "100")]);
    for claim in [1, 2] {
        prepare(&plugin.node, &name(claim)).await.unwrap();
    }
    let (nodes, mounts) = cdi(&bench, 1, "gpu-0");
    assert_eq!(nodes, ["/dev/nvidia1", "/dev/nvidiactl"].map(String::from).into());
    for path in ["/usr/lib64/libcuda.so.1", "/etc/ld.so.preload", "/run/vnpu/lib", "/run/vnpu/devices/GPU-1"]
    {
        assert!(mounts.contains(path), "{path}: {mounts:?}");
    }
    assert!(!mounts.contains("/usr/local/dcmi"), "{mounts:?}");
    let (nodes, mounts) = cdi(&bench, 1, "npu-1");
    assert_eq!(nodes, ["/dev/davinci1", "/dev/davinci_manager"].map(String::from).into());
    assert!(mounts.contains("/usr/local/dcmi") && !mounts.contains("/usr/lib64/libcuda.so.1"), "{mounts:?}");
    let (nodes, mounts) = cdi(&bench, 2, "whole-0");
    assert_eq!(nodes, ["/dev/nvidia0", "/dev/nvidiactl"].map(String::from).into());
    assert!(!mounts.contains("/etc/ld.so.preload"), "nothing is to be held there: {mounts:?}");
    settle(&plugin.node).await;
}

#[tokio::test]
async fn a_vendor_that_hangs_holds_up_neither_the_others_slices_nor_their_claims() {
    let bench = Bench::with_gpus(1, 1);
    let gpus = bench.gpus.clone().unwrap();
    gpus.is(Mood::Hangs);
    let plugin = Plugin::start(&bench).await;
    eventually("the other's slices", || devices(&bench, "ascend") == some(&MODULE)).await;
    assert_eq!(devices(&bench, "nvidia"), None, "nothing is known of it");
    let report = plugin.readiness.report();
    assert!(
        report.contains("[-] discovery: nvidia: the first look at the hardware has not ended"),
        "{report}"
    );
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    bench.api.share(2, "nvidia/chip-0-0", "4Gi", "10");
    prepare(&plugin.node, &name(1)).await.unwrap();
    let waiting = tokio::spawn({
        let node = Arc::clone(&plugin.node);
        async move { prepare(&node, &name(2)).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "its vendor has not been looked at");
    gpus.is(Mood::Answers);
    tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    eventually("its slices", || devices(&bench, "nvidia") == some(&["chip-0-0"])).await;
    eventually("readiness", || plugin.readiness.is_ready()).await;
    // After it was seen a look that hangs changes nothing.
    bench.hardware.is(Mood::Hangs);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(devices(&bench, "ascend"), some(&MODULE));
    bench.hardware.is(Mood::Answers);
    settle(&plugin.node).await;
}

#[tokio::test]
async fn a_vendor_that_fails_is_named_and_served_when_it_does_not_any_more() {
    let bench = Bench::with_gpus(1, 1);
    bench.hardware.is(Mood::Fails);
    let plugin = Plugin::start(&bench).await;
    eventually("the other's slices", || devices(&bench, "nvidia") == some(&["chip-0-0"])).await;
    assert_eq!(devices(&bench, "ascend"), None);
    let says = |text: &str| plugin.readiness.report().contains(text);
    assert!(says("[-] discovery: ascend: init does not return"), "{}", plugin.readiness.report());
    bench.hardware.is(Mood::Answers);
    eventually("its slices", || devices(&bench, "ascend") == some(&MODULE)).await;
    eventually("readiness", || plugin.readiness.is_ready()).await;
    bench.hardware.is(Mood::Fails);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(devices(&bench, "ascend"), some(&MODULE), "what was seen stays true");
}

#[tokio::test]
async fn a_restart_leaves_a_vendors_slices_alone_until_it_was_looked_at() {
    let bench = Bench::with_gpus(1, 2);
    let gpus = bench.gpus.clone().unwrap();
    bench.api.share(1, "nvidia/chip-0-0", "4Gi", "10");
    let plugin = Plugin::start(&bench).await;
    eventually("readiness", || plugin.readiness.is_ready()).await;
    prepare(&plugin.node, &name(1)).await.unwrap();
    settle(&plugin.node).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before = versions(&bench, "nvidia");
    drop(plugin);

    // The next instance looks at it, and the look does not end.
    gpus.is(Mood::Hangs);
    let plugin = Plugin::start(&bench).await;
    eventually("a publication", || plugin.readiness.report().contains("[+] slices ok")).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(versions(&bench, "nvidia"), before);

    // There is no library: what nobody holds goes, what is held stays until it is given back.
    gpus.is(Mood::Missing);
    eventually("what is held alone", || devices(&bench, "nvidia") == some(&["chip-0-0 absent"])).await;
    eventually("readiness", || plugin.readiness.is_ready()).await;
    unprepare(&plugin.node, &name(1)).await.unwrap();
    eventually("no slices of it", || devices(&bench, "nvidia").is_none()).await;
    assert_eq!(devices(&bench, "ascend"), some(&MODULE));
    // A driver is installed.
    gpus.is(Mood::Answers);
    eventually("its slices", || devices(&bench, "nvidia") == some(&["chip-0-0", "chip-1-0"])).await;
}

#[tokio::test]
async fn what_runs_without_a_record_is_taken_over_when_its_vendor_was_looked_at() {
    let bench = Bench::with_gpus(1, 1);
    let gpus = bench.gpus.clone().unwrap();
    bench.api.share(1, "nvidia/chip-0-0", "4Gi", "10");
    bench.api.share(2, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    for claim in [1, 2] {
        prepare(&node, &name(claim)).await.unwrap();
    }
    settle(&node).await;
    drop(node);
    let before = bench.cdi_devices();
    std::fs::remove_file(bench.path("state/checkpoint.log")).unwrap();
    gpus.is(Mood::Hangs);
    let plugin = Plugin::start(&bench).await;
    tokio::spawn(reconcile::run(Arc::clone(&plugin.node), Duration::from_secs(3600), plugin.stop.clone()));
    let taken = |claim: u32| {
        let state = plugin.node.store.state(&uid(claim).parse().unwrap());
        matches!(state, Some(ClaimState::PrepareCompleted(_)))
    };
    eventually("the other's claim", || taken(2)).await;
    assert!(!taken(1), "nothing is known of its chip");
    assert_eq!(bench.cdi_devices(), before);
    gpus.is(Mood::Answers);
    eventually("its claim", || taken(1)).await;
    assert_eq!(bench.cdi_devices(), before);
    settle(&plugin.node).await;
}

#[tokio::test]
async fn where_no_library_is_found_nothing_is_concluded() {
    let bench = Bench::with_gpus(1, 1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let plugin = Plugin::start(&bench).await;
    eventually("readiness", || plugin.readiness.is_ready()).await;
    prepare(&plugin.node, &name(1)).await.unwrap();
    settle(&plugin.node).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before = [versions(&bench, "ascend"), versions(&bench, "nvidia")];
    drop(plugin);
    bench.hardware.is(Mood::Missing);
    bench.gpus.as_ref().unwrap().is(Mood::Missing);
    let plugin = Plugin::start(&bench).await;
    let line =
        "[-] discovery: no vendor's library is on this node: ascend: no NVML library found (looked at /lib)";
    eventually("the line", || plugin.readiness.report().contains(line)).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!([versions(&bench, "ascend"), versions(&bench, "nvidia")], before);
    assert!(plugin.readiness.report().contains("; nvidia: no NVML"), "{}", plugin.readiness.report());
    // Claims are given back nevertheless.
    unprepare(&plugin.node, &name(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_library_that_is_away_for_moments_takes_nothing_with_it() {
    let bench = Bench::with_gpus(1, 1);
    let gpus = bench.gpus.clone().unwrap();
    let plugin = Plugin::start(&bench).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(plugin.readiness.is_ready(), "{}", plugin.readiness.report());
    gpus.is(Mood::Missing);
    tokio::time::sleep(Duration::from_secs(55)).await;
    assert_eq!(devices(&bench, "nvidia"), some(&["chip-0-0"]));
    gpus.is(Mood::Answers);
    tokio::time::sleep(Duration::from_secs(5)).await;
    gpus.is(Mood::Missing);
    tokio::time::sleep(Duration::from_secs(55)).await;
    assert_eq!(devices(&bench, "nvidia"), some(&["chip-0-0"]), "counted from when it went");
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(devices(&bench, "nvidia"), None);
    assert!(plugin.readiness.is_ready(), "{}", plugin.readiness.report());
}

#[tokio::test]
async fn what_two_vendors_claim_the_first_keeps_and_the_rest_is_served() {
    let bench = Bench::with_gpus(1, 2);
    let address = PciAddress { domain: 0, bus: 0x81, device: 0, function: 0 };
    let gpus = bench.gpus.clone().unwrap();
    gpus.inventory.lock().unwrap().chips[1].pci = Some(address);
    let plugin = Plugin::start(&bench).await;
    eventually("readiness", || plugin.readiness.is_ready()).await;
    eventually("GPUs", || devices(&bench, "nvidia") == some(&["chip-0-0", "chip-1-0"])).await;
    bench.hardware.inventory.lock().unwrap().chips[0].pci = Some(address);
    eventually("one GPU less", || devices(&bench, "nvidia") == some(&["chip-0-0"])).await;
    assert_eq!(devices(&bench, "ascend"), some(&MODULE));
    assert_eq!((plugin.problems("ascend"), plugin.problems("nvidia"), plugin.chips("nvidia")), (0, 1, 1));
}

#[tokio::test]
async fn processes_are_asked_of_the_vendor_whose_chip_it_is() {
    let bench = Bench::with_gpus(1, 1);
    bench.api.allocate(1, &[("gpu", "nvidia/chip-0-0", "8Gi", "20"), ("npu", "chip-0-0", "4Gi", "10")]);
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    settle(&node).await;
    let (npu, gpu) = (DeviceUuid::new("VDIE-0-0").unwrap(), DeviceUuid::new("GPU-0").unwrap());
    let gpus = bench.gpus.clone().unwrap();
    let mut process = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let stranger = ProcessMemory { pid: process.id(), bytes: Bytes(5 << 30) };
    gpus.processes.lock().unwrap().insert(gpu.clone(), vec![stranger]);
    // Nobody asks the one about the other's.
    let wrong = ProcessMemory { bytes: Bytes(7 << 30), ..stranger };
    bench.hardware.processes.lock().unwrap().insert(gpu.clone(), vec![wrong]);
    let limits = Limits { per_process: Bytes(1 << 30), rounds: 1 };
    let shown = |chip: &DeviceUuid| {
        let label = OneChip { uuid: chip.to_string() };
        let audit = &node.metrics.audit;
        (audit.strangers.get_or_create(&label).get(), audit.stranger_bytes.get_or_create(&label).get() >> 30)
    };
    audit::round(&node, limits, &mut BTreeSet::new()).await.unwrap();
    let found = (shown(&gpu), shown(&npu));
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(found, ((1, 5), (0, 0)));
}
