//! Proves that every call is answered before the kubelet gives up, whatever does not answer us, and that work whose
//! turn comes after that is not begun.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::{Bench, settle, uid};
use tokio::sync::{SetOnce, watch};
use tokio::time::{Instant, timeout};
use tonic::Request;
use vnpu_driver::record::ClaimState;
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::service::DraService;
use vnpu_proto::dra::v1::{self, dra_plugin_server::DraPlugin as _};

/// How long the kubelet waits for a call.
const KUBELET: Duration = Duration::from_secs(45);

/// A service over `node`; without one, as while the plugin starts.
fn service(node: Option<&Arc<Node>>) -> DraService {
    let place: Arc<SetOnce<Arc<Node>>> = Arc::default();
    if let Some(node) = node {
        let _ = place.set(Arc::clone(node));
    }
    DraService::new(place)
}

fn wire(n: u32) -> v1::Claim {
    v1::Claim { namespace: "default".into(), uid: uid(n), name: format!("claim-{n}") }
}

/// The answer to a Prepare of claim 1, and how long it took.
async fn prepare(service: &DraService) -> (String, Duration) {
    let begun = Instant::now();
    let request = Request::new(v1::NodePrepareResourcesRequest { claims: vec![wire(1)] });
    let answer = timeout(Duration::from_secs(3600), service.node_prepare_resources(request)).await;
    let claims = answer.expect("it is never answered").unwrap().into_inner().claims;
    (claims[&uid(1)].error.clone(), begun.elapsed())
}

async fn unprepare(service: &DraService) -> String {
    let request = Request::new(v1::NodeUnprepareResourcesRequest { claims: vec![wire(1)] });
    service.node_unprepare_resources(request).await.unwrap().into_inner().claims[&uid(1)].error.clone()
}

#[track_caller]
fn assert_in_time(answer: (String, Duration), reason: &str) {
    let (error, took) = answer;
    assert!(error.ends_with(&format!("[{reason}, retryable: true]")), "{error}");
    assert!(took < KUBELET, "the kubelet has given up: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_answered_before_the_kubelet_gives_up_whatever_hangs() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    // Neither the API server nor the hardware answers.
    bench.api.hangs.store(true, Ordering::Relaxed);
    let node = bench.start().await;
    assert_in_time(prepare(&service(Some(&node))).await, "not_ready");
    bench.api.hangs.store(false, Ordering::Relaxed);
    let (_sender, seen) = watch::channel(bench.unseen());
    let blind = bench.start_seeing(seen).await.0;
    assert_in_time(prepare(&service(Some(&blind))).await, "not_ready");
    // The plugin itself is still starting.
    assert_in_time(prepare(&service(None)).await, "deadline");
    assert_eq!(prepare(&service(Some(&node))).await.0, "", "nothing of it is left in the way");
}

#[tokio::test(start_paused = true)]
async fn a_prepare_whose_turn_comes_after_the_deadline_is_not_begun() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    let dra = service(Some(&node));
    let all = node.limit.forget_permits(usize::MAX);
    assert_in_time(prepare(&dra).await, "deadline");
    node.limit.add_permits(all);
    settle(&node).await;
    assert!(node.store.state(&uid(1).parse().unwrap()).is_none(), "nobody waits for it any more");
    assert!(!bench.api.was_asked("/claim-1") && bench.cdi_devices().is_empty());
    assert_eq!(prepare(&dra).await.0, "", "the next call is a new one");
}

#[tokio::test(start_paused = true)]
async fn nor_is_an_unprepare() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    let dra = service(Some(&node));
    assert_eq!(prepare(&dra).await.0, "");
    settle(&node).await;
    let all = node.unprepare_limit.forget_permits(usize::MAX);
    assert!(unprepare(&dra).await.ends_with("[deadline, retryable: true]"));
    node.unprepare_limit.add_permits(all);
    settle(&node).await;
    let state = node.store.state(&uid(1).parse().unwrap());
    assert!(matches!(state, Some(ClaimState::PrepareCompleted(_))), "a pod may hold it again: {state:?}");
    assert_eq!(unprepare(&dra).await, "");
    assert!(bench.cdi_devices().is_empty());
}
