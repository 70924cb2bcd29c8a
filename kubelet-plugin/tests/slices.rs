//! Proves how slices are kept: published at once, made again after a wipe, rewritten when hardware changes, and
//! degraded once where the server drops fields.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use support::api::FakeApi;
use support::{Bench, FakeHardware, name, settle};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vnpu_driver::hardware::Health;
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::prepare::prepare;
use vnpu_kubelet_plugin::publisher;
use vnpu_kubelet_plugin::unprepare::unprepare;
use vnpu_telemetry::Readiness;

/// Waits, in the paused clock of the test, until `wanted` holds.
async fn eventually(what: &str, wanted: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if wanted() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never came to this: {what}");
}

struct Publishing {
    bench: Bench,
    node: Arc<Node>,
    readiness: Readiness,
    stop: CancellationToken,
}

impl Publishing {
    async fn start(bench: Bench) -> Self {
        let node = bench.start().await;
        Self::of(bench, node)
    }

    fn of(bench: Bench, node: Arc<Node>) -> Self {
        let (readiness, stop) = (Readiness::of(["slices"]), CancellationToken::new());
        tokio::spawn(publisher::run(Arc::clone(&node), readiness.clone(), stop.clone()));
        Self { bench, node, readiness, stop }
    }

    fn api(&self) -> &Arc<FakeApi> {
        &self.bench.api
    }
}

fn slices(api: &FakeApi) -> Vec<Value> {
    api.slices.lock().unwrap().values().cloned().collect()
}

fn devices(api: &FakeApi) -> Vec<String> {
    let slices = slices(api);
    let devices = slices.iter().flat_map(|s| s["spec"]["devices"].as_array().cloned().unwrap_or_default());
    devices.map(|d| d["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_publication_waits_for_nothing_and_is_whole() {
    let publishing = Publishing::start(Bench::new(2)).await;
    let api = publishing.api();
    eventually("both slices", || slices(api).len() == 2).await;
    for slice in slices(api) {
        assert_eq!(slice["spec"]["nodeName"], support::NODE);
        assert_eq!(slice["spec"]["pool"]["name"], support::POOL);
        assert_eq!(slice["spec"]["pool"]["resourceSliceCount"], 2);
        assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "node-uid");
        assert_ne!(slice["spec"]["devices"].is_null(), slice["spec"]["sharedCounters"].is_null());
    }
    assert_eq!(devices(api), ["module-0", "chip-0-0", "chip-0-1", "module-1", "chip-1-0", "chip-1-1"]);
    eventually("readiness", || publishing.readiness.is_ready()).await;
    let writes = api.slice_writes.lock().unwrap().len();
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert_eq!(api.slice_writes.lock().unwrap().len(), writes, "what is right is not written again");
    publishing.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn wiped_slices_come_back_with_a_higher_generation() {
    let publishing = Publishing::start(Bench::new(1)).await;
    let api = publishing.api();
    eventually("both slices", || slices(api).len() == 2).await;
    let before = slices(api)[0]["spec"]["pool"]["generation"].as_i64().unwrap();
    // Let the watch begin.
    tokio::time::sleep(Duration::from_secs(5)).await;
    api.wipe();
    eventually("both slices again", || slices(api).len() == 2).await;
    assert!(slices(api).iter().all(|s| s["spec"]["pool"]["generation"].as_i64().unwrap() > before));
    publishing.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_server_without_sharing_gets_exclusive_chips_and_is_asked_once() {
    let bench = Bench::new(1);
    bench.api.drops.lock().unwrap().push("allowMultipleAllocations");
    let publishing = Publishing::start(bench).await;
    let api = publishing.api();
    eventually("readiness", || publishing.readiness.is_ready()).await;
    for device in
        slices(api).iter().flat_map(|s| s["spec"]["devices"].as_array().cloned().unwrap_or_default())
    {
        assert!(device["capacity"]["memory"]["requestPolicy"].is_null(), "{device}");
    }
    let writes = api.slice_writes.lock().unwrap().len();
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert_eq!(api.slice_writes.lock().unwrap().len(), writes, "no loop");
    publishing.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_at_the_start_is_waited_for() {
    let bench = Bench::new(1);
    bench.api.away.store(true, Ordering::Relaxed);
    let publishing = Publishing::start(bench).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!publishing.readiness.is_ready());
    publishing.api().away.store(false, Ordering::Relaxed);
    eventually("readiness", || publishing.readiness.is_ready()).await;
    assert_eq!(slices(publishing.api()).len(), 2);
    publishing.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_node_without_chips_publishes_an_empty_pool() {
    let mut bench = Bench::new(1);
    bench.hardware = FakeHardware::modules(0);
    let publishing = Publishing::start(bench).await;
    let api = publishing.api();
    eventually("readiness", || publishing.readiness.is_ready()).await;
    assert_eq!((slices(api).len(), devices(api).len()), (1, 0));
    publishing.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn every_device_says_where_the_nodes_labels_place_it() {
    let publishing = Publishing::start(Bench::new(1)).await;
    let api = publishing.api();
    eventually("both slices", || slices(api).len() == 2).await;
    let places = || -> BTreeSet<String> {
        let slices = slices(api);
        let devices = slices.iter().flat_map(|s| s["spec"]["devices"].as_array().into_iter().flatten());
        let attributes = devices.map(|device| &device["attributes"]);
        attributes.map(|a| format!("{} {}", a["leaf"]["string"], a["superpod"]["string"])).collect()
    };
    assert_eq!(places(), BTreeSet::from([r#""leaf-7" "superpod-3""#.to_owned()]));
    // Labels are read with the rest, every few minutes; one that is not there is published as empty.
    api.node.lock().unwrap()["metadata"]["labels"] = json!({"vnpu.dev/leaf": "leaf-8"});
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(places(), BTreeSet::from([r#""leaf-8" """#.to_owned()]));
    // Those that are watched come at once.
    api.label_node(json!({"vnpu.dev/leaf": "leaf-9", "vnpu.dev/superpod": "superpod-1"}));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(places(), BTreeSet::from([r#""leaf-9" "superpod-1""#.to_owned()]));
    publishing.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_change_of_hardware_is_written_at_once_and_what_follows_once_a_second() {
    let bench = Bench::new(2);
    let (sender, seen) = watch::channel(bench.inventories());
    let node = bench.start_seeing(seen).await.0;
    let publishing = Publishing::of(bench, node);
    let api = publishing.api();
    eventually("readiness", || publishing.readiness.is_ready()).await;
    // Let the watch begin, and long enough be still.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let before = api.slice_writes.lock().unwrap().len();
    // One chip after the other falls sick.
    for chip in 0..4 {
        let problem = Health::fault("trouble", format!("problem {chip}"));
        publishing.bench.hardware.inventory.lock().unwrap().chips[chip].health = problem;
        sender.send(publishing.bench.inventories()).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let tainted =
        || slices(api).iter().map(|s| s.to_string().matches("vnpu.dev/unhealthy").count()).sum::<usize>();
    assert_eq!(tainted(), 2, "the first chip and its module: {:?}", slices(api));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(tainted(), 6, "chips and modules: {:?}", slices(api));
    let written = api.slice_writes.lock().unwrap().split_off(before);
    assert_eq!(written.len(), 2, "one at once, one for the rest: {written:?}");
    publishing.stop.cancel();
}

fn owners(api: &FakeApi) -> Vec<String> {
    let uid = |slice: &Value| slice["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap().to_owned();
    slices(api).iter().map(uid).collect()
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_vanished_while_the_watch_was_away_is_made_again() {
    let publishing = Publishing::start(Bench::new(1)).await;
    let api = publishing.api();
    eventually("both slices", || slices(api).len() == 2).await;
    // Let the watch begin.
    tokio::time::sleep(Duration::from_secs(5)).await;
    // Of the two, that with the higher version: nothing in the list is newer.
    let newest = slices(api)
        .iter()
        .map(|slice| slice["metadata"].clone())
        .max_by_key(|meta| meta["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap())
        .unwrap();
    api.lose(newest["name"].as_str().unwrap());
    eventually("both slices again", || slices(api).len() == 2).await;
    publishing.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_went_with_its_node_comes_back_as_the_new_nodes() {
    let mut bench = Bench::new(1);
    // A single slice: no write fails meanwhile, after which everything is read anew anyway.
    bench.hardware = FakeHardware::modules(0);
    let publishing = Publishing::start(bench).await;
    let api = publishing.api();
    eventually("the slice", || slices(api).len() == 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    api.node.lock().unwrap()["metadata"]["uid"] = json!("another-uid");
    api.wipe();
    eventually("the slice again", || slices(api).len() == 1).await;
    assert_eq!(owners(api), ["another-uid"]);
    publishing.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_busy_node_is_looked_at_again_too() {
    let publishing = Publishing::start(Bench::new(1)).await;
    let api = publishing.api();
    eventually("both slices", || slices(api).len() == 2).await;
    api.node.lock().unwrap()["metadata"]["uid"] = json!("another-uid");
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        publishing.node.note_change();
    }
    assert_eq!(owners(api), ["another-uid", "another-uid"]);
    publishing.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_the_order_that_is_published() {
    let mut publishing = Publishing::start(Bench::new(2)).await;
    publishing.api().share(1, "chip-1-0", "4Gi", "10");
    eventually("slices", || devices(publishing.api()).len() == 6).await;
    prepare(&publishing.node, &name(1)).await.unwrap();
    let first = || devices(publishing.api())[0].clone();
    eventually("the module in use first", || first() == "module-1").await;
    settle(&publishing.node).await;
    unprepare(&publishing.node, &name(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let writes = publishing.api().slice_writes.lock().unwrap().len();
    publishing.stop.cancel();
    publishing = Publishing::start(publishing.bench).await;
    eventually("readiness", || publishing.readiness.is_ready()).await;
    assert_eq!(devices(publishing.api())[0], "module-1");
    assert_eq!(publishing.api().slice_writes.lock().unwrap().len(), writes);
    publishing.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_learns_sharing_is_offered_it_again() {
    let bench = Bench::new(1);
    bench.api.drops.lock().unwrap().push("allowMultipleAllocations");
    let publishing = Publishing::start(bench).await;
    let api = publishing.api();
    eventually("readiness", || publishing.readiness.is_ready()).await;
    let sharing = || slices(api).iter().any(|slice| slice.to_string().contains("allowMultipleAllocations"));
    assert!(!sharing());
    api.drops.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    assert!(sharing());
    publishing.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn slices_of_this_node_in_pools_that_nobody_publishes_are_deleted() {
    let bench = Bench::new(1);
    for (slice, node, driver) in [
        ("old", support::NODE, "vnpu.dev"),
        ("other", "node-2", "vnpu.dev"),
        ("foreign", support::NODE, "x.dev"),
    ] {
        let pool = json!({"name": "node-1/gone", "generation": 1, "resourceSliceCount": 1});
        let object = json!({
            "metadata": {"name": slice, "uid": slice, "resourceVersion": "1"},
            "spec": {"driver": driver, "nodeName": node, "pool": pool, "devices": []},
        });
        bench.api.slices.lock().unwrap().insert(slice.into(), object);
    }
    let publishing = Publishing::start(bench).await;
    let api = publishing.api();
    eventually("readiness", || publishing.readiness.is_ready()).await;
    let names: Vec<String> =
        api.slices.lock().unwrap().keys().filter(|n| !n.contains('x')).cloned().collect();
    assert_eq!(names, ["foreign", "other"]);
    publishing.stop.cancel();
}
