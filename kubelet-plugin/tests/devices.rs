//! Proves what the metrics say of devices and pools: by hardware, by claims and by the vendor's word.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use support::{Bench, Mood, name};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vnpu_driver::hardware::{Health, Usage};
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_kubelet_plugin::devices;
use vnpu_kubelet_plugin::metrics::Metrics;
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::prepare::prepare;
use vnpu_kubelet_plugin::unprepare::unprepare;

/// Lines about devices and pools, of which the labels are the device's or vendor's name alone.
fn lines(registry: &Registry) -> Vec<String> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let wanted = |line: &&str| line.starts_with("vnpu_device_") || line.starts_with("vnpu_pool_");
    let label = |labels: &str| {
        let find = |name: &str| labels.split(',').find_map(|l| l.strip_prefix(name)).map(str::to_owned);
        find("device=").or_else(|| find("vendor=")).unwrap().trim_matches('"').to_owned()
    };
    let short = |line: &str| {
        let (name, rest) = line.split_once('{').unwrap();
        let (labels, value) = rest.rsplit_once('}').unwrap();
        format!("{name} {}{value}", label(labels))
    };
    let mut lines: Vec<String> = text.lines().filter(wanted).map(short).collect();
    lines.sort();
    lines
}

struct Shown {
    node: Arc<Node>,
    registry: Registry,
    seen: watch::Sender<Arc<vnpu_kubelet_plugin::hardware::Inventories>>,
    stop: CancellationToken,
}

impl Shown {
    async fn start(bench: &Bench, period: Duration) -> Self {
        let (seen, by_all) = watch::channel(bench.inventories());
        let mut node = bench.start_seeing(by_all).await.0;
        let mut registry = Registry::default();
        Arc::get_mut(&mut node).unwrap().metrics = Metrics::register(&mut registry);
        let stop = CancellationToken::new();
        tokio::spawn(devices::run(Arc::clone(&node), bench.vendors(), period, stop.clone()));
        Self { node, registry, seen, stop }
    }

    /// Waits until a line is there, as fast as what happened is told.
    async fn soon(&self, line: &str) {
        let begun = tokio::time::Instant::now();
        self.is(line).await;
        assert!(begun.elapsed() <= Duration::from_secs(2), "{line} after {:?}", begun.elapsed());
    }

    /// Waits until a line is there, or is not.
    async fn until(&self, line: &str, there: bool) {
        let begun = tokio::time::Instant::now();
        while lines(&self.registry).iter().any(|l| l == line) != there {
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "{line} {there}: {:#?}",
                lines(&self.registry)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn is(&self, line: &str) {
        self.until(line, true).await;
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_is_shown_with_what_it_has_what_claims_have_and_what_its_library_says() {
    let bench = Bench::with_gpus(2, 1);
    let uuid = |n: usize| bench.hardware.inventory.lock().unwrap().chips[n].uuid.clone();
    let says = |usage| bench.hardware.usage.lock().unwrap().insert(uuid(0), usage);
    says(Usage { memory: Some(Bytes::gib(3)), busy: Some(Percent(45)), temperature: Some(-2) });
    let shown = Shown::start(&bench, devices::PERIOD).await;
    for line in [
        "vnpu_device_memory_bytes chip-0-0 68719476736",
        "vnpu_device_memory_used_bytes chip-0-0 3221225472",
        "vnpu_device_utilization_ratio chip-0-0 0.45",
        "vnpu_device_temperature_celsius chip-0-0 -2",
        "vnpu_device_healthy chip-0-0 1",
        "vnpu_device_tainted chip-0-0 0",
        "vnpu_device_memory_allocated_bytes chip-0-0 0",
        "vnpu_device_compute_allocated_ratio chip-0-0 0.0",
        "vnpu_pool_half_used_modules ascend 0",
        "vnpu_pool_memory_bytes ascend 274877906944",
        "vnpu_pool_memory_bytes nvidia 85899345920",
        "vnpu_pool_allocated_ratio nvidia 0.0",
    ] {
        shown.is(line).await;
    }
    let used = |lines: &[String]| lines.iter().filter(|l| l.starts_with("vnpu_device_memory_used")).count();
    assert_eq!(used(&lines(&shown.registry)), 1, "nothing is said of what a library does not tell");

    bench.api.share(1, "chip-0-0", "16Gi", "25");
    prepare(&shown.node, &name(1)).await.unwrap();
    for line in [
        "vnpu_device_memory_allocated_bytes chip-0-0 17179869184",
        "vnpu_device_compute_allocated_ratio chip-0-0 0.25",
        "vnpu_pool_half_used_modules ascend 1",
        "vnpu_pool_memory_allocated_bytes ascend 17179869184",
        "vnpu_pool_allocated_ratio ascend 0.0625",
    ] {
        shown.soon(line).await;
    }
    // Administrative access takes nothing.
    bench.api.share(2, "chip-1-0", "16Gi", "25");
    bench.api.edit(2, |claim| {
        claim["status"]["allocation"]["devices"]["results"][0]["adminAccess"] = true.into();
    });
    prepare(&shown.node, &name(2)).await.unwrap();
    unprepare(&shown.node, &name(1)).await.unwrap();
    shown.soon("vnpu_pool_half_used_modules ascend 0").await;
    shown.soon("vnpu_device_memory_allocated_bytes chip-1-0 0").await;

    // What is not told any more is not shown any more.
    says(Usage::default());
    shown.until("vnpu_device_temperature_celsius chip-0-0 -2", false).await;
    assert_eq!(used(&lines(&shown.registry)), 0);

    bench.hardware.inventory.lock().unwrap().chips[3].health = Health::fault("alarm-3", "HBM");
    shown.seen.send_replace(bench.inventories());
    shown.soon("vnpu_device_healthy chip-1-1 0").await;
    shown.soon("vnpu_device_tainted chip-1-1 1").await;
    // A device that is gone is not shown.
    bench.hardware.inventory.lock().unwrap().chips.truncate(2);
    shown.seen.send_replace(bench.inventories());
    shown.until("vnpu_device_healthy chip-1-1 0", false).await;
    assert!(!lines(&shown.registry).iter().any(|line| line.contains("chip-1-")));
}

#[tokio::test]
async fn a_library_that_hangs_is_asked_once_and_holds_up_no_other() {
    let bench = Bench::with_gpus(1, 1);
    let gpu = bench.gpus.clone().unwrap();
    let uuid = gpu.inventory.lock().unwrap().chips[0].uuid.clone();
    let shown = Shown::start(&bench, Duration::from_millis(300)).await;
    shown.is("vnpu_device_memory_bytes chip-0-0 68719476736").await;
    bench.hardware.is(Mood::Hangs);
    gpu.usage.lock().unwrap().insert(uuid, Usage { temperature: Some(61), ..Usage::default() });
    shown.is("vnpu_device_temperature_celsius chip-0-0 61").await;
    bench.hardware.is(Mood::Answers);
}
