//! The whole of it against an API server that knows field managers.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use vnpu_driver::admission::pod::LEAF;
use vnpu_telemetry::Readiness;

use super::server::Server;
use super::*;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::planner::patch::SUPERPOD;
use crate::webhook::lookup::Board;

const NVIDIA: &str = "network.topology.nvidia.com/leaf";
const OTHER: &str = "kubectl-label";

struct Running {
    server: Arc<Server>,
    metrics: TopologyMetrics,
    config: watch::Sender<Arc<ControllerConfig>>,
    leadership: watch::Sender<Leadership>,
    stop: CancellationToken,
    _task: JoinHandle<()>,
}

fn leading(leader: bool) -> Leadership {
    let now = Instant::now();
    let until = now + Duration::from_secs(3600);
    Leadership { leader, since: now, until, somebody_until: Some(until) }
}

fn config(sources: TopologySources) -> Arc<ControllerConfig> {
    Arc::new(ControllerConfig { topology: sources, ..ControllerConfig::default() })
}

fn run_with(server: &Arc<Server>, sources: TopologySources, leader: bool) -> Running {
    let (config_sender, config) = watch::channel(config(sources));
    let (leadership_sender, leadership) = watch::channel(leading(leader));
    let stop = CancellationToken::new();
    let shared = Shared {
        client: server.client(),
        config,
        leadership,
        board: Board::default(),
        readiness: Readiness::default(),
        metrics: Metrics::default(),
        stop: stop.clone(),
        acting: TaskTracker::new(),
        record: None,
    };
    let metrics = TopologyMetrics::default();
    let task = tokio::spawn(run(shared, "me".to_owned(), metrics.clone()));
    let (config, leadership) = (config_sender, leadership_sender);
    Running { server: Arc::clone(server), metrics, config, leadership, stop, _task: task }
}

impl Running {
    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} did not happen; applied: {:?}", self.server.applied.lock().unwrap());
    }

    async fn until_leaf(&self, node: &str, leaf: Option<&str>) {
        let wanted = leaf.map_or(Value::Null, |leaf| json!(leaf));
        self.until(&format!("{node} on {leaf:?}"), |r| r.server.labels_of(node)[LEAF] == wanted).await;
    }

    /// Long enough for whatever would be done to be done.
    async fn rest(&self) {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    fn applied(&self) -> usize {
        self.server.applied.lock().unwrap().len()
    }

    fn events(&self) -> Vec<String> {
        let events = self.server.events.lock().unwrap();
        events.iter().map(|event| event["message"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn labels_of_other_systems_become_ours_and_go_with_them() {
    let server = Server::new();
    server.label(
        "a",
        "mindcluster",
        &[("huawei.com/topotree.groupid", Some("2")), ("huawei.com/topotree.superpodid", Some("7"))],
    );
    server.label("b", "topograph", &[(NVIDIA, Some("S2"))]);
    server.label("c", "kubelet", &[("zone", Some("z"))]);
    let running = run_with(&server, TopologySources::default(), true);
    running.until_leaf("a", Some("7-2")).await;
    running.until_leaf("b", Some("S2")).await;
    assert_eq!(server.labels_of("a")[SUPERPOD], json!("7"));
    // Labels that have nothing to do with it change all the time.
    server.label("b", "kubelet", &[("zone", Some("y"))]);
    running.rest().await;
    assert_eq!(running.applied(), 2, "each node is written once, and one without sources never");
    server.label("a", "mindcluster", &[("huawei.com/topotree.groupid", None)]);
    tokio::time::pause();
    running.until_leaf("a", None).await;
    assert_eq!(server.labels_of("a")[SUPERPOD], json!("7"));
    assert_eq!(running.events(), [""; 0]);
    running.stop.cancel();
}

#[tokio::test]
async fn what_somebody_else_has_written_stays_and_is_told_once() {
    let server = Server::new();
    server.label("a", OTHER, &[(NVIDIA, Some("S2")), (LEAF, Some("mine"))]);
    server.label("b", OTHER, &[(NVIDIA, Some("S2")), (LEAF, Some("S2"))]);
    let running = run_with(&server, TopologySources::default(), true);
    running.until("the event", |r| !r.events().is_empty()).await;
    server.label("a", "kubelet", &[("zone", Some("y"))]);
    running.rest().await;
    assert_eq!((running.applied(), running.metrics.disagreements.get()), (0, 1));
    assert_eq!(
        running.events(),
        ["vnpu.dev/leaf of a is mine, as kubectl-label has written it and as it stays; label \
             network.topology.nvidia.com/leaf says S2"]
    );
    let event = server.events.lock().unwrap()[0].clone();
    assert_eq!(
        event["involvedObject"],
        json!({"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "uid-a"})
    );
    assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("TopologyDisagreement")));
    // They take theirs away: then it is ours to write, and later theirs to change again.
    server.label("a", OTHER, &[(LEAF, None)]);
    running.until_leaf("a", Some("S2")).await;
    running.until("peace", |r| r.metrics.disagreements.get() == 0).await;
    server.label("a", OTHER, &[(LEAF, Some("mine"))]);
    running.until("the second event", |r| r.events().len() == 2).await;
    running.rest().await;
    assert_eq!((server.labels_of("a")[LEAF].clone(), running.applied()), (json!("mine"), 1));
    running.stop.cancel();
}

#[tokio::test]
async fn the_table_is_followed_and_a_wrong_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("topology.csv");
    std::fs::write(&path, "node;leaf\n").unwrap();
    let server = Server::new();
    server.label("a", "kubelet", &[]);
    server.label("b", "topograph", &[(NVIDIA, Some("S2"))]);
    let sources =
        TopologySources { csv: Some(path.to_str().unwrap().to_owned()), ..TopologySources::default() };
    let running = run_with(&server, sources, true);
    let readings = |r: &Running, reason| {
        r.metrics.table.readings.get_or_create(&crate::metrics::Reason { reason }).get()
    };
    running.until("a refusal", |r| readings(r, "table_columns") == 1).await;
    running.rest().await;
    assert_eq!((running.applied(), running.metrics.table.valid.get()), (0, 0), "a source is not known");
    std::fs::write(&path, "node,leaf,superpod\na,leaf-1,sp-1\n").unwrap();
    running.until_leaf("a", Some("leaf-1")).await;
    running.until_leaf("b", Some("S2")).await;
    assert_eq!(running.metrics.table.valid.get(), 1);
    std::fs::write(&path, "node,leaf\na,leaf-2\na,leaf-3\n").unwrap();
    running.until("a refusal", |r| readings(r, "table_twice") == 1).await;
    running.rest().await;
    assert_eq!((server.labels_of("a")[LEAF].clone(), running.applied()), (json!("leaf-1"), 2));
    // Without the table, in a new configuration, what came of it goes.
    running.config.send(config(TopologySources::default())).unwrap();
    running.until_leaf("a", None).await;
    assert_eq!(server.labels_of("b")[LEAF], json!("S2"));
    assert_eq!(running.applied(), 3);
    running.stop.cancel();
}

#[tokio::test]
async fn kueues_topology_counts_where_there_is_one() {
    let server = Server::new();
    server.label("a", "cloud", &[("block", Some("b1")), ("rack", Some("r1")), ("row", Some("w1"))]);
    server.label("b", "topograph", &[(NVIDIA, Some("S2"))]);
    let named = TopologySources { kueue_topology: Some("racks".to_owned()), ..TopologySources::default() };
    let running = run_with(&server, named.clone(), true);
    running.until_leaf("b", Some("S2")).await;
    running.rest().await;
    let asked = server.asked.lock().unwrap().iter().filter(|asked| asked.contains("/apis")).count();
    assert_eq!(asked, 1, "a cluster without Kueue is not asked again and again");
    server.install_kueue("racks", &["block", "rack", "kubernetes.io/hostname"]);
    // As after some minutes.
    running.config.send(config(TopologySources::default())).unwrap();
    running.rest().await;
    running.config.send(config(named)).unwrap();
    running.until_leaf("a", Some("r1")).await;
    assert_eq!(server.labels_of("a")[SUPERPOD], json!("b1"));
    server.install_kueue("racks", &["row"]);
    tokio::time::pause();
    running.until_leaf("a", Some("w1")).await;
    assert_eq!(server.labels_of("a").get(SUPERPOD), None);
    running.stop.cancel();
}

#[tokio::test]
async fn only_the_leader_watches_and_writes() {
    let server = Server::new();
    server.label("a", "topograph", &[(NVIDIA, Some("S2"))]);
    let running = run_with(&server, TopologySources::default(), false);
    running.rest().await;
    assert!(server.asked.lock().unwrap().is_empty());
    running.leadership.send(leading(true)).unwrap();
    running.until_leaf("a", Some("S2")).await;
    running.leadership.send(leading(false)).unwrap();
    running.rest().await;
    server.label("a", "topograph", &[(NVIDIA, Some("S3"))]);
    running.rest().await;
    assert_eq!(server.labels_of("a")[LEAF], json!("S2"));
    running.leadership.send(leading(true)).unwrap();
    running.until_leaf("a", Some("S3")).await;
    // A leader whose lease ran out without his noticing writes nothing either.
    running.leadership.send_modify(|leadership| leadership.until = Instant::now());
    server.label("b", "topograph", &[(NVIDIA, Some("S3"))]);
    running.rest().await;
    assert_eq!(server.labels_of("b")[LEAF], Value::Null);
    running.stop.cancel();
}

#[tokio::test]
async fn thousands_of_nodes_are_written_some_at_a_time_and_once() {
    let server = Server::new();
    for number in 0..5000 {
        let leaf = format!("S{}", number / 16);
        server.label(&format!("node-{number}"), "topograph", &[(NVIDIA, Some(&leaf))]);
    }
    let running = run_with(&server, TopologySources::default(), true);
    let begun = std::time::Instant::now();
    running.until("all of it", |r| r.applied() == 5000).await;
    println!("5000 nodes in {:?}", begun.elapsed());
    running.rest().await;
    assert_eq!(running.applied(), 5000);
    assert_eq!(server.labels_of("node-4999")[LEAF], json!("S312"));
    assert_eq!(server.most_at_once.load(Ordering::SeqCst), AT_ONCE);
    running.stop.cancel();
}
