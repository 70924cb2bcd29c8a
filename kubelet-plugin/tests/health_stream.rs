//! Proves what the kubelet hears of the devices' health: all of it, at once when it changes, again when it does not, and
//! the truth also where nothing can be known.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use support::{Bench, Mood, connect, dial, name, settle, uid};
use tokio::sync::{SetOnce, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Request, Streaming};
use vnpu_driver::hardware::{Health, Inventory};
use vnpu_driver::health::HealthPolicy;
use vnpu_driver::id::PoolName;
use vnpu_kubelet_plugin::discover::{self, Discover, Progress};
use vnpu_kubelet_plugin::hardware::{Inventories, Look};
use vnpu_kubelet_plugin::health::HealthJudge;
use vnpu_kubelet_plugin::health_stream::{AGAIN, FIRST, HealthService};
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::prepare::prepare;
use vnpu_kubelet_plugin::server::{ServeError, serve_dra};
use vnpu_kubelet_plugin::service::DraService;
use vnpu_kubelet_plugin::sockets::BoundSocket;
use vnpu_kubelet_plugin::unprepare::unprepare;
use vnpu_proto::dra;
use vnpu_proto::dra_health::v1::dra_resource_health_client::DraResourceHealthClient as V1Client;
use vnpu_proto::dra_health::v1::dra_resource_health_server::DraResourceHealth;
use vnpu_proto::dra_health::v1::{self, NodeWatchResourcesResponse};
use vnpu_proto::dra_health::v1alpha1;
use vnpu_proto::dra_health::v1alpha1::dra_resource_health_client::DraResourceHealthClient as AlphaClient;
use vnpu_telemetry::Readiness;

/// How long anything may take before the test fails; never reached on a machine that works.
const PATIENCE: Duration = Duration::from_secs(30);
/// How soon a change must be heard.
const SOON: Duration = Duration::from_secs(1);

/// Whose chips are well as soon as their library says so: how long that must last is not looked at here.
fn trusting(mut bench: Bench) -> Bench {
    let policy = HealthPolicy { recovery: Duration::ZERO, unknown: None, ..HealthPolicy::default() };
    bench.health = Arc::new(HealthJudge::new(policy));
    bench
}

/// A node whose hardware the test changes, behind a socket.
struct Plugin {
    bench: Bench,
    seen: watch::Sender<Arc<Inventories>>,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Plugin {
    async fn start(bench: Bench) -> Self {
        let (seen, all) = watch::channel(bench.inventories());
        let node = bench.start_seeing(all).await.0;
        let (place, stop) = (placed(&node), CancellationToken::new());
        let (dra, health) = (DraService::new(Arc::clone(&place)), HealthService::new(place, stop.clone()));
        let socket = BoundSocket::bind(&bench.path("dra.sock")).unwrap();
        let serving = tokio::spawn(serve_dra(socket, dra, health, stop.clone()));
        Self { bench, seen, stop, serving }
    }

    /// Discovery sees this of the Ascend hardware now.
    fn change(&self, edit: impl FnOnce(&mut Inventory)) {
        edit(&mut self.bench.hardware.inventory.lock().unwrap());
        self.seen.send_replace(self.bench.inventories());
    }

    /// A chip has this health now.
    fn health(&self, chip: usize, health: Health) {
        self.change(|inventory| inventory.chips[chip].health = health);
    }

    async fn watch(&self) -> Streaming<NodeWatchResourcesResponse> {
        let mut client = V1Client::new(dial(self.bench.path("dra.sock")).await);
        client.node_watch_resources(v1::NodeWatchResourcesRequest {}).await.unwrap().into_inner()
    }

    /// As [`Self::watch`], by a reader that has room for less than one message until it reads.
    async fn narrow_watch(&self) -> Streaming<NodeWatchResourcesResponse> {
        let narrow = Endpoint::from_static("http://localhost").initial_stream_window_size(1024);
        let mut client = V1Client::new(connect(narrow, self.bench.path("dra.sock")).await);
        client.node_watch_resources(v1::NodeWatchResourcesRequest {}).await.unwrap().into_inner()
    }
}

fn placed(node: &Arc<Node>) -> Arc<SetOnce<Arc<Node>>> {
    let place: Arc<SetOnce<Arc<Node>>> = Arc::default();
    let _ = place.set(Arc::clone(node));
    place
}

fn broken(what: &str) -> Health {
    Health::fault("what", what)
}

/// As text: `node-1/ascend chip-0-0 Healthy`, `... Unhealthy: chip-0-0: ...`.
fn lines(message: &NodeWatchResourcesResponse) -> Vec<String> {
    let line = |d: &v1::DeviceHealth| {
        let of = d.device.as_ref().unwrap();
        let text = format!("{} {} {:?}", of.pool_name, of.device_name, d.health());
        if d.message.is_empty() { text } else { format!("{text}: {}", d.message) }
    };
    message.devices.iter().map(line).collect()
}

async fn next(stream: &mut Streaming<NodeWatchResourcesResponse>) -> NodeWatchResourcesResponse {
    timeout(PATIENCE, stream.message()).await.expect("nothing is heard").unwrap().expect("the stream ended")
}

const TWO_HEALTHY: [&str; 3] =
    ["node-1/ascend module-0 Healthy", "node-1/ascend chip-0-0 Healthy", "node-1/ascend chip-0-1 Healthy"];
const ONE_SICK: [&str; 3] = [
    "node-1/ascend module-0 Unhealthy: chip-0-1: alarm",
    "node-1/ascend chip-0-0 Healthy",
    "node-1/ascend chip-0-1 Unhealthy: chip-0-1: alarm",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_devices_of_all_vendors_are_told_at_once_and_every_change_within_a_second() {
    let plugin = Plugin::start(trusting(Bench::with_gpus(1, 1))).await;
    let mut stream = plugin.watch().await;
    let begun = Instant::now();
    let first = next(&mut stream).await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let gpu = ["node-1/nvidia chip-0-0 Healthy"];
    assert_eq!(lines(&first), [TWO_HEALTHY.as_slice(), &gpu].concat());
    let now = Node::now().since_epoch().as_secs().cast_signed();
    for device in &first.devices {
        assert!((now - 60..=now).contains(&device.last_updated_time), "{device:?}");
        assert_eq!(device.health_check_timeout_seconds, 30);
    }
    for (health, expected) in [(broken("alarm"), ONE_SICK), (Health::Healthy, TWO_HEALTHY)] {
        let begun = Instant::now();
        plugin.health(1, health);
        assert_eq!(lines(&next(&mut stream).await), [expected.as_slice(), &gpu].concat());
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_say_the_same_side_by_side() {
    let plugin = Plugin::start(trusting(Bench::new(1))).await;
    let mut stream = plugin.watch().await;
    let mut client = AlphaClient::new(dial(plugin.bench.path("dra.sock")).await);
    let mut alpha =
        client.node_watch_resources(v1alpha1::NodeWatchResourcesRequest {}).await.unwrap().into_inner();
    plugin.health(0, Health::Unknown("no answer".to_owned()));
    plugin.health(1, broken("alarm"));
    let all = [
        "node-1/ascend module-0 Unhealthy: chip-0-0: no answer; chip-0-1: alarm",
        "node-1/ascend chip-0-0 Unknown: chip-0-0: no answer",
        "node-1/ascend chip-0-1 Unhealthy: chip-0-1: alarm",
    ];
    while lines(&next(&mut stream).await) != all {}
    let same = |old: v1alpha1::DeviceHealth| {
        let of = old.device.unwrap();
        v1::DeviceHealth {
            device: Some(v1::DeviceIdentifier { pool_name: of.pool_name, device_name: of.device_name }),
            health: old.health,
            last_updated_time: old.last_updated_time,
            health_check_timeout_seconds: old.health_check_timeout_seconds,
            message: old.message,
        }
    };
    loop {
        let message = timeout(PATIENCE, alpha.message()).await.unwrap().unwrap().unwrap();
        let devices: Vec<v1::DeviceHealth> = message.devices.into_iter().map(same).collect();
        assert!(devices.iter().all(|device| device.health_check_timeout_seconds == 30));
        if lines(&NodeWatchResourcesResponse { devices }) == all {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_the_newest_and_not_what_was_between() {
    const CHANGES: usize = 100;
    let plugin = Plugin::start(trusting(Bench::new(64))).await;
    let mut stream = plugin.narrow_watch().await;
    sleep(Duration::from_millis(200)).await;
    for number in 1..=CHANGES {
        plugin.health(0, broken(&format!("alarm {number}.")));
        sleep(Duration::from_millis(10)).await;
    }
    let newest = format!("alarm {CHANGES}.");
    let mut messages = 1;
    while !next(&mut stream).await.devices[0].message.contains(&newest) {
        messages += 1;
    }
    // What HTTP/2 has under way is some tens of KiB, whatever the reader's room.
    assert!(messages <= 10, "{messages} messages of {CHANGES} had been kept for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_plugin_ends_the_streams_and_waits_for_no_reader() {
    let plugin = Plugin::start(trusting(Bench::new(64))).await;
    let mut read = plugin.watch().await;
    next(&mut read).await;
    plugin.stop.cancel();
    let last = timeout(SOON, read.message()).await.expect("the stream goes on");
    assert!(last.unwrap().is_none());
    timeout(SOON, plugin.serving).await.expect("the server goes on").unwrap().unwrap();

    let plugin = Plugin::start(trusting(Bench::new(64))).await;
    let _unread = plugin.narrow_watch().await;
    sleep(Duration::from_millis(200)).await;
    plugin.stop.cancel();
    timeout(4 * SOON, plugin.serving).await.expect("the server waits for the reader").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_answered_at_the_end_however_long_it_takes_and_whoever_does_not_read() {
    let bench = trusting(Bench::new(64));
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let plugin = Plugin::start(bench).await;
    let _unread = plugin.narrow_watch().await;
    let api = Arc::clone(&plugin.bench.api);
    api.hangs.store(true, Ordering::Relaxed);
    let mut client =
        dra::v1::dra_plugin_client::DraPluginClient::new(dial(plugin.bench.path("dra.sock")).await);
    let claim = dra::v1::Claim { namespace: "default".into(), uid: uid(1), name: "claim-1".into() };
    let request = dra::v1::NodePrepareResourcesRequest { claims: vec![claim] };
    let preparing = tokio::spawn(async move { client.node_prepare_resources(request).await });
    let begun = Instant::now();
    while !api.was_asked("/resourceclaims/claim-1") {
        assert!(begun.elapsed() < PATIENCE, "the claim is not read");
        sleep(Duration::from_millis(20)).await;
    }
    plugin.stop.cancel();
    sleep(2 * SOON).await;
    assert!(!plugin.serving.is_finished(), "the plugin would have ended without an answer");
    api.hangs.store(false, Ordering::Relaxed);
    let answer = timeout(PATIENCE, preparing).await.unwrap().unwrap().unwrap().into_inner();
    assert_eq!(answer.claims[&uid(1)].error, "");
    timeout(4 * SOON, plugin.serving).await.expect("the server waits for the reader").unwrap().unwrap();
}

/// A stream without a socket, so that the test's clock is its own.
struct Direct {
    stream: <HealthService as DraResourceHealth>::NodeWatchResourcesStream,
    begun: Instant,
}

impl Direct {
    async fn of(node: &Arc<Node>) -> Self {
        let service = HealthService::new(placed(node), CancellationToken::new());
        let request = Request::new(v1::NodeWatchResourcesRequest {});
        let stream = DraResourceHealth::node_watch_resources(&service, request).await.unwrap().into_inner();
        Self { stream, begun: Instant::now() }
    }

    /// The next message, and when it came.
    async fn next(&mut self) -> (Vec<String>, Duration) {
        let next = timeout(10 * AGAIN, self.stream.next()).await.expect("nothing is told");
        (lines(&next.expect("the stream ended").unwrap()), self.begun.elapsed())
    }

    /// The first message that is `wanted`, and when it came.
    async fn until(&mut self, wanted: impl Fn(&[String]) -> bool) -> (Vec<String>, Duration) {
        loop {
            let (lines, at) = self.next().await;
            if wanted(&lines) {
                return (lines, at);
            }
            assert!(at < 20 * AGAIN, "it never came to this: {lines:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_change_is_told_again_in_a_third_of_the_time_that_it_is_believed() {
    let bench = trusting(Bench::new(1));
    let (seen, all) = watch::channel(bench.inventories());
    let node = bench.start_seeing(all).await.0;
    let mut stream = Direct::of(&node).await;
    let near = |at: Duration, expected: Duration| at.abs_diff(expected) < Duration::from_millis(10);
    for number in 0..4 {
        let (lines, at) = stream.next().await;
        assert_eq!(lines, TWO_HEALTHY);
        assert!(near(at, number * AGAIN), "message {number} after {at:?}");
    }
    // Another look that finds the same is no news, and a change starts the time anew.
    seen.send_replace(bench.inventories());
    sleep(Duration::from_secs(4)).await;
    bench.hardware.inventory.lock().unwrap().chips[1].health = broken("alarm");
    seen.send_replace(bench.inventories());
    let changed = 3 * AGAIN + Duration::from_secs(4);
    for after in [Duration::ZERO, AGAIN] {
        let (lines, at) = stream.next().await;
        assert_eq!(lines, ONE_SICK);
        assert!(near(at, changed + after), "after {at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_message_waits_for_the_hardware_but_not_long_and_names_what_claims_hold() {
    let bench = trusting(Bench::new(1));
    bench.api.share(1, "chip-0-1", "4Gi", "10");
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    settle(&node).await;
    drop(node);

    let (seen, all) = watch::channel(bench.unseen());
    let node = bench.start_seeing(all).await.0;
    let mut stream = Direct::of(&node).await;
    let (lines, at) = stream.next().await;
    assert!(at.abs_diff(FIRST) < Duration::from_millis(10), "after {at:?}");
    assert_eq!(
        lines,
        ["node-1/ascend chip-0-1 Unknown: chip-0-1: the first look at the hardware has not ended"]
    );
    seen.send_replace(bench.inventories());
    let (lines, at) = stream.next().await;
    assert_eq!(lines, TWO_HEALTHY);
    assert!(at < FIRST + SOON, "after {at:?}");

    // Somebody who says why is not waited for.
    let pool = PoolName::new(support::POOL).unwrap();
    seen.send_replace(Arc::new(bench.unseen().doubted(&pool, "it hangs")));
    let mut second = Direct::of(&node).await;
    let (lines, at) = second.next().await;
    assert_eq!(lines, ["node-1/ascend chip-0-1 Unknown: chip-0-1: it hangs"]);
    assert!(at < SOON, "after {at:?}");

    // A node of which nothing is known and nothing held has nothing to tell, and says so.
    unprepare(&node, &name(1)).await.unwrap();
    assert_eq!(second.next().await.0, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_a_claim_holds_of_vanished_hardware_is_unhealthy_until_it_is_given_back() {
    let bench = trusting(Bench::with_gpus(1, 1));
    bench.api.share(1, "chip-0-1", "4Gi", "10");
    let (seen, all) = watch::channel(bench.inventories());
    let node = bench.start_seeing(all).await.0;
    prepare(&node, &name(1)).await.unwrap();
    settle(&node).await;
    let mut stream = Direct::of(&node).await;
    let gpu = "node-1/nvidia chip-0-0 Healthy";
    assert_eq!(stream.next().await.0, [TWO_HEALTHY.as_slice(), &[gpu]].concat());

    bench.hardware.inventory.lock().unwrap().chips.remove(1);
    let before = stream.begun.elapsed();
    seen.send_replace(bench.inventories());
    let gone = "node-1/ascend chip-0-1 Unhealthy: chip-0-1: it is not there any more";
    let (lines, at) = stream.next().await;
    assert_eq!(lines, ["node-1/ascend chip-0-0 Healthy", gone, gpu]);
    assert!(at < before + SOON);

    // All of the vendor, with its library.
    let pool = PoolName::new(support::POOL).unwrap();
    seen.send_replace(Arc::new(bench.inventories().with(&pool, Look::Missing)));
    let (lines, _) = stream.next().await;
    assert_eq!(lines, [gpu, gone]);

    // While the stream waits: it has to hear of it.
    let begun = stream.begun;
    let given_back = async {
        sleep(3 * SOON).await;
        unprepare(&node, &name(1)).await.unwrap();
        begun.elapsed()
    };
    let ((lines, at), before) = tokio::join!(stream.next(), given_back);
    assert_eq!(lines, [gpu]);
    assert!(at < before + SOON, "it was told after {:?}", at - before);
}

#[tokio::test(start_paused = true)]
async fn a_library_that_does_not_answer_any_more_is_believed_for_half_a_minute() {
    let bench = trusting(Bench::new(1));
    let (seen, all) = watch::channel(bench.unseen());
    let node = bench.start_seeing(all).await.0;
    let (readiness, stop) = (Readiness::of(["discovery"]), CancellationToken::new());
    let source = bench.vendors().iter().next().unwrap().clone();
    let progress = Progress::new(readiness, &bench.vendors());
    let health = Arc::clone(&node.health);
    let discover = Discover { source, seen, health, metrics: node.metrics.clone(), progress };
    tokio::spawn(discover::run(discover, Duration::from_secs(5), stop.clone()));
    let mut stream = Direct::of(&node).await;
    let (first, at) = stream.next().await;
    assert_eq!(first, TWO_HEALTHY);
    assert!(at < FIRST, "after {at:?}");

    let failed = stream.begun.elapsed();
    bench.hardware.is(Mood::Fails);
    let (lines, at) = stream.until(|lines| lines != TWO_HEALTHY).await;
    let unknown =
        "node-1/ascend module-0 Unknown: chip-0-0 and chip-0-1: init does not return: the driver hangs";
    assert!(lines[0].starts_with(unknown), "{lines:?}");
    assert_eq!(lines.len(), 3);
    let took = at - failed;
    assert!((Duration::from_secs(25)..=Duration::from_secs(35)).contains(&took), "after {took:?}");

    let answered = stream.begun.elapsed();
    bench.hardware.is(Mood::Answers);
    let (_, at) = stream.until(|lines| lines == TWO_HEALTHY).await;
    assert!(at - answered <= Duration::from_secs(6), "after {:?}", at - answered);
    stop.cancel();
}
