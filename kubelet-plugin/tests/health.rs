//! Proves what becomes of chips that are not well: taints at once and for as long as it takes, one write a second at
//! most, words in claims and on pods, and a memory that outlives the plugin.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use support::{Bench, name, uid};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vnpu_driver::hardware::{Chip, Health, Vendor};
use vnpu_driver::health::{Action, HealthPolicy, HealthRule};
use vnpu_driver::id::DeviceUuid;
use vnpu_kubelet_plugin::discover::{self, Discover, Progress};
use vnpu_kubelet_plugin::health::{self, HealthJudge};
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::prepare::prepare;
use vnpu_kubelet_plugin::publisher;
use vnpu_telemetry::Readiness;

/// How often the tests' plugin looks at its hardware.
const PERIOD: Duration = Duration::from_millis(100);

fn policy() -> HealthPolicy {
    let rule =
        HealthRule { vendor: Some(Vendor::Ascend), codes: vec!["fatal".to_owned()], action: Action::Evict };
    HealthPolicy { rules: vec![rule], ..HealthPolicy::default() }
}

/// The loops of a plugin that have to do with health.
struct Plugin {
    node: Arc<Node>,
    stop: CancellationToken,
}

impl Plugin {
    /// A plugin's start. One that started before has been stopped.
    async fn start(bench: &mut Bench) -> Self {
        Self::start_looking(bench, PERIOD).await
    }

    /// One that looks so often.
    async fn start_looking(bench: &mut Bench, period: Duration) -> Self {
        Self::start_judging(bench, period, policy()).await
    }

    /// One that looks so often, and judges so.
    async fn start_judging(bench: &mut Bench, period: Duration, policy: HealthPolicy) -> Self {
        bench.health = Arc::new(HealthJudge::new(policy));
        let (seen, seen_by_all) = watch::channel(bench.unseen());
        let node = bench.start_seeing(seen_by_all).await.0;
        let stop = CancellationToken::new();
        let readiness = Readiness::of(["discovery", "slices"]);
        let progress = Progress::new(readiness.clone(), &bench.vendors());
        for source in bench.vendors().iter() {
            let discover = Discover {
                source: source.clone(),
                seen: seen.clone(),
                health: Arc::clone(&bench.health),
                metrics: node.metrics.clone(),
                progress: progress.clone(),
            };
            tokio::spawn(discover::run(discover, period, stop.clone()));
        }
        tokio::spawn(health::run(Arc::clone(&bench.health), seen, stop.clone()));
        tokio::spawn(health::tell(Arc::clone(&node), stop.clone()));
        tokio::spawn(publisher::run(Arc::clone(&node), readiness, stop.clone()));
        Self { node, stop }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn set(bench: &Bench, chip: usize, health: &Health) {
    bench.hardware.inventory.lock().unwrap().chips[chip].health = health.clone();
}

fn sick() -> Health {
    Health::fault("alarm-3", "HBM error")
}

/// Devices that are published with a taint, as `name value effect`.
fn taints(bench: &Bench) -> BTreeSet<String> {
    let slices = bench.api.slices.lock().unwrap();
    let devices = slices.values().flat_map(|s| s["spec"]["devices"].as_array().into_iter().flatten());
    let tainted = devices.flat_map(|device| {
        let taints = device["taints"].as_array().into_iter().flatten();
        taints
            .map(move |t| [&device["name"], &t["value"], &t["effect"]].map(|w| w.as_str().unwrap()).join(" "))
    });
    tainted.collect()
}

fn set_of(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Waits until these are the taints; how long it took.
async fn tainted(bench: &Bench, wanted: &[&str]) -> Duration {
    let begun = Instant::now();
    while taints(bench) != set_of(wanted) {
        assert!(
            begun.elapsed() < Duration::from_secs(200),
            "wanted {wanted:?}, published is {:?}",
            taints(bench)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}

async fn published(bench: &Bench) {
    while bench.api.slices.lock().unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Events of one kind, as `object reason: message`.
fn told(bench: &Bench) -> Vec<String> {
    let events = bench.api.events.lock().unwrap();
    let word = |event: &Value, pointer: &str| {
        event.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned()
    };
    let line = |event: &Value| {
        format!(
            "{} {} {}: {}",
            word(event, "/involvedObject/kind"),
            word(event, "/type"),
            word(event, "/reason"),
            word(event, "/message")
        )
    };
    events.iter().map(line).collect()
}

/// What the claim says of its device being ready.
fn ready(bench: &Bench, claim: u32) -> String {
    let claims = bench.api.claims.lock().unwrap();
    let wanted = uid(claim);
    let claim = claims.values().find(|found| found["metadata"]["uid"] == wanted).unwrap();
    let conditions = claim["status"]["devices"][0]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().find(|c| c["type"] == "Ready");
    ready.map_or_else(String::new, |c| {
        format!("{} {}", c["status"].as_str().unwrap(), c["message"].as_str().unwrap())
    })
}

#[tokio::test(start_paused = true)]
async fn what_the_vendor_tells_is_looked_at_at_once_and_a_flood_of_it_four_times_a_second() {
    let hour = Duration::from_secs(3600);
    let mut bench = Bench::new(2);
    let plugin = Plugin::start_looking(&mut bench, hour).await;
    published(&bench).await;
    for (chip, wanted) in
        [(1, vec!["chip-0-1", "module-0"]), (3, vec!["chip-0-1", "chip-1-1", "module-0", "module-1"])]
    {
        // Slices are written a second apart.
        tokio::time::sleep(Duration::from_secs(2)).await;
        set(&bench, chip, &sick());
        bench.hardware.tell();
        let wanted: Vec<String> =
            wanted.iter().map(|device| format!("{device} unhealthy NoSchedule")).collect();
        let took = tainted(&bench, &wanted.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert!(took <= Duration::from_millis(500), "{took:?}");
    }
    let looks = || bench.hardware.looks.load(Ordering::SeqCst);
    let before = looks();
    for _ in 0..10_000 {
        bench.hardware.tell();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!((38..=42).contains(&(looks() - before)), "{} looks in 10 s", looks() - before);
    let vendor = vnpu_kubelet_plugin::metrics::Pool { vendor: "ascend".to_owned() };
    assert!(plugin.node.metrics.heard.get_or_create(&vendor).get() > 38);
    // And the last word counts.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = looks();
    tokio::time::sleep(hour / 2).await;
    assert_eq!(looks(), before, "nothing was told, and it is not time yet");
}

#[tokio::test(start_paused = true)]
async fn a_sick_die_taints_its_module_within_a_second_and_is_trusted_again_after_a_minute() {
    let mut bench = Bench::new(2);
    let _plugin = Plugin::start(&mut bench).await;
    published(&bench).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    set(&bench, 2, &sick());
    let both = ["chip-1-0 unhealthy NoSchedule", "module-1 unhealthy NoSchedule"];
    let took = tainted(&bench, &both).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(taints(&bench), set_of(&both));
    set(&bench, 2, &Health::Healthy);
    let took = tainted(&bench, &[]).await;
    assert!(took > Duration::from_secs(59) && took < Duration::from_secs(62), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_chip_that_flaps_costs_few_writes_and_the_last_state_is_published() {
    let mut bench = Bench::new(1);
    let _plugin = Plugin::start(&mut bench).await;
    published(&bench).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = bench.api.slice_writes.lock().unwrap().len();
    // 100 changes a minute for 10 minutes.
    for change in 0..1000 {
        set(&bench, 0, &if change % 2 == 0 { sick() } else { Health::Healthy });
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    let writes = bench.api.slice_writes.lock().unwrap().len() - before;
    assert_eq!(writes, 1, "it is tainted, once");
    assert_eq!(taints(&bench).len(), 2);
    tainted(&bench, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn hardware_that_comes_and_goes_costs_a_write_a_second_at_most() {
    let mut bench = Bench::new(2);
    let _plugin = Plugin::start(&mut bench).await;
    published(&bench).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let all = bench.hardware.inventory.lock().unwrap().chips.clone();
    let before = bench.api.slice_writes.lock().unwrap().len();
    let begun = Instant::now();
    for change in 0..600_usize {
        bench.hardware.inventory.lock().unwrap().chips = all[..4 - change % 2 * 2].to_vec();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let writes = u64::try_from(bench.api.slice_writes.lock().unwrap().len() - before).unwrap();
    let seconds = begun.elapsed().as_secs();
    assert!((10..=seconds + 1).contains(&writes), "{writes} writes in {seconds} s");
    bench.hardware.inventory.lock().unwrap().chips = all[..2].to_vec();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let last = bench.api.slices.lock().unwrap();
    let devices = last.values().flat_map(|s| s["spec"]["devices"].as_array().into_iter().flatten());
    assert_eq!(devices.count(), 3, "the last state is published: {last:?}");
}

#[tokio::test(start_paused = true)]
async fn pods_are_evicted_when_the_table_says_so_and_it_lasts() {
    let mut bench = Bench::new(1);
    let _plugin = Plugin::start(&mut bench).await;
    published(&bench).await;
    set(&bench, 1, &Health::fault("fatal", "gone for good"));
    tainted(&bench, &["chip-0-1 unhealthy NoSchedule", "module-0 unhealthy NoSchedule"]).await;
    let took = tainted(&bench, &["chip-0-1 unhealthy NoExecute", "module-0 unhealthy NoExecute"]).await;
    assert!(took > Duration::from_secs(28) && took < Duration::from_secs(32), "{took:?}");
    set(&bench, 1, &Health::Healthy);
    tainted(&bench, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn pods_are_evicted_from_a_chip_that_is_gone_when_the_table_says_so_and_it_lasts() {
    for (action, later) in [(Action::Evict, "NoExecute"), (Action::NoSchedule, "NoSchedule")] {
        let mut bench = Bench::new(2);
        bench.api.share(1, "chip-0-1", "4Gi", "10");
        let rule = HealthRule { vendor: None, codes: vec!["absent".to_owned()], action };
        let policy = HealthPolicy { rules: vec![rule], ..HealthPolicy::default() };
        let plugin = Plugin::start_judging(&mut bench, Duration::from_secs(3600), policy.clone()).await;
        published(&bench).await;
        prepare(&plugin.node, &name(1)).await.unwrap();
        let gone = bench.hardware.inventory.lock().unwrap().chips.remove(1);
        // The next look is an hour away: what time alone changes must not wait for it.
        bench.hardware.tell();
        let wait = async |effect: &str| tainted(&bench, &[&format!("chip-0-1 absent {effect}")]).await;
        wait("NoSchedule").await;
        // Away for a moment: nobody is ended for it.
        tokio::time::sleep(Duration::from_secs(20)).await;
        bench.hardware.inventory.lock().unwrap().chips.insert(1, gone.clone());
        bench.hardware.tell();
        tainted(&bench, &[]).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(taints(&bench), set_of(&[]));

        bench.hardware.inventory.lock().unwrap().chips.remove(1);
        bench.hardware.tell();
        wait("NoSchedule").await;
        let took = wait(later).await;
        let lasted = Duration::from_secs(28)..=Duration::from_secs(32);
        assert!(action != Action::Evict || lasted.contains(&took), "{took:?}");
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(taints(&bench), set_of(&[&format!("chip-0-1 absent {later}")]));

        // A plugin that starts anew goes on with it.
        plugin.stop.cancel();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _plugin = Plugin::start_judging(&mut bench, Duration::from_secs(3600), policy.clone()).await;
        let writes = bench.api.slice_writes.lock().unwrap().len();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(taints(&bench), set_of(&[&format!("chip-0-1 absent {later}")]));
        assert_eq!(bench.api.slice_writes.lock().unwrap().len(), writes, "nothing was lifted for a moment");

        // Another card in its place has done nothing.
        let uuid = DeviceUuid::new("another-card").unwrap();
        bench.hardware.inventory.lock().unwrap().chips.insert(1, Chip { uuid, ..gone });
        bench.hardware.tell();
        tainted(&bench, &[]).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(taints(&bench), set_of(&[]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_chip_of_unknown_health_is_left_alone_for_a_minute() {
    let mut bench = Bench::new(1);
    let _plugin = Plugin::start(&mut bench).await;
    published(&bench).await;
    set(&bench, 0, &Health::Unknown("dcmi_get_device_health does not return".to_owned()));
    let took = tainted(&bench, &["chip-0-0 unhealthy NoSchedule", "module-0 unhealthy NoSchedule"]).await;
    assert!(took > Duration::from_secs(59) && took < Duration::from_secs(62), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_starts_anew_goes_on_with_the_taints_that_are_published() {
    let mut bench = Bench::new(1);
    let plugin = Plugin::start(&mut bench).await;
    published(&bench).await;
    set(&bench, 0, &sick());
    let both = ["chip-0-0 unhealthy NoSchedule", "module-0 unhealthy NoSchedule"];
    tainted(&bench, &both).await;
    drop(plugin);
    set(&bench, 0, &Health::Healthy);
    let writes = bench.api.slice_writes.lock().unwrap().len();
    let _plugin = Plugin::start(&mut bench).await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(taints(&bench), set_of(&both));
    assert_eq!(bench.api.slice_writes.lock().unwrap().len(), writes, "nothing was written");
    let took = tainted(&bench, &[]).await;
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[tokio::test]
async fn claims_and_pods_are_told_once_also_by_a_plugin_that_starts_anew() {
    let mut bench = Bench::new(2);
    bench.api.share(1, "chip-1-0", "4Gi", "10");
    bench.api.share(2, "chip-0-0", "4Gi", "10");
    let plugin = Plugin::start(&mut bench).await;
    published(&bench).await;
    for claim in [1, 2] {
        prepare(&plugin.node, &name(claim)).await.unwrap();
        while ready(&bench, claim).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    set(&bench, 2, &sick());
    while told(&bench).is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sick_words = "chip VDIE-1-0 is unhealthy: HBM error";
    assert_eq!(ready(&bench, 1), format!("False {sick_words}"));
    assert!(ready(&bench, 2).starts_with("True "), "{}", ready(&bench, 2));
    let first = [format!("Pod Warning DeviceUnhealthy: chip-1-0 of node-1/ascend: {sick_words}")];
    assert_eq!(told(&bench), first);
    drop(plugin);

    let plugin = Plugin::start(&mut bench).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(told(&bench), first);
    drop(plugin);
    // Well while nobody looked: the next plugin says so, in its time.
    set(&bench, 2, &Health::Healthy);
    tokio::time::pause();
    let _plugin = Plugin::start(&mut bench).await;
    tainted(&bench, &[]).await;
    tokio::time::resume();
    while told(&bench).len() < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(told(&bench)[1], "Pod Normal DeviceHealthy: chip-1-0 of node-1/ascend is well again");
    assert!(ready(&bench, 1).starts_with("True "), "{}", ready(&bench, 1));
}
