//! Quotas that follow the annotations of their claims: at Prepare, by a watch where the claim asks for one, and when the
//! node reconciles.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Bench, name, settle, uid};
use tokio_util::sync::CancellationToken;
use vnpu_driver::id::ClaimUid;
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_driver::share::ComputeMode;
use vnpu_kubelet_plugin::live;
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::prepare::prepare;
use vnpu_kubelet_plugin::reconcile::reconcile;
use vnpu_kubelet_plugin::unprepare::unprepare;

/// A claim of 8 GiB and 40 percent, with these annotations from the beginning.
fn claim(bench: &Bench, annotations: &Value) {
    bench.api.share(1, "chip-0-0", "8Gi", "40");
    annotate(bench, annotations);
}

fn annotate(bench: &Bench, annotations: &Value) {
    bench.api.edit(1, |claim| claim["metadata"]["annotations"] = annotations.clone());
}

/// Memory in GiB, percent and mode in force.
fn in_force(node: &Node) -> Option<(u64, Percent, ComputeMode)> {
    let claim: ClaimUid = uid(1).parse().unwrap();
    let shares = node.materials.agent().unwrap().shares(&claim).unwrap()?;
    let chip = &shares.chips[0];
    assert_eq!(chip.memory.0 % Bytes::GIB.0, 0);
    Some((chip.memory.0 >> 30, chip.cores, chip.mode))
}

/// Waits for what must come by itself.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} never came");
}

/// Reasons and texts of the events so far.
fn events(bench: &Bench) -> Vec<(String, String)> {
    let events = bench.api.events.lock().unwrap();
    let word = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
    events.iter().map(|event| (word(event, "reason"), word(event, "message"))).collect()
}

fn quota_told(bench: &Bench) -> Value {
    let patches = bench.api.status_patches.lock().unwrap();
    patches.last().map_or(Value::Null, |p| p["status"]["devices"][0]["data"]["chips"][0]["quota"].clone())
}

#[tokio::test]
async fn a_claim_starts_with_what_it_is_annotated_with() {
    let bench = Bench::new(1);
    claim(&bench, &json!({"vnpu.dev/memory": "3Gi", "vnpu.dev/cores": "5"}));
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    // Before any container can start, and without a watch.
    assert_eq!(in_force(&node), Some((3, Percent(5), ComputeMode::Hard)));
    settle(&node).await;
    assert_eq!(quota_told(&bench)["memory"], "3Gi");
    assert_eq!(bench.api.claim_watches.load(Ordering::Relaxed), 0);
    assert_eq!(events(&bench), [], "nothing was changed");
}

#[tokio::test]
async fn a_live_claim_follows_at_once_and_says_so() {
    let bench = Bench::new(1);
    claim(&bench, &json!({"vnpu.dev/live": "true"}));
    let node = bench.start().await;
    let stop = CancellationToken::new();
    let follower = tokio::spawn(live::run(Arc::clone(&node), stop.clone()));
    prepare(&node, &name(1)).await.unwrap();
    settle(&node).await;
    assert_eq!(in_force(&node), Some((8, Percent(40), ComputeMode::Hard)));
    until("the watch", || bench.api.claim_watches.load(Ordering::Relaxed) == 1).await;

    annotate(&bench, &json!({"vnpu.dev/live": "true", "vnpu.dev/memory": "2Gi", "vnpu.dev/cores": "60"}));
    until("the change", || in_force(&node) == Some((2, Percent(40), ComputeMode::Elastic))).await;
    until("its status", || quota_told(&bench)["memory"] == "2Gi" && quota_told(&bench)["mode"] == "elastic")
        .await;
    until("its event", || {
        events(&bench).iter().any(|(reason, text)| {
            reason == "QuotaChanged" && text.contains("2Gi of memory and 40 % of compute (elastic)")
        })
    })
    .await;

    // What cannot be given changes nothing, and is told once.
    annotate(&bench, &json!({"vnpu.dev/live": "true", "vnpu.dev/memory": "9Gi", "vnpu.dev/cores": "60"}));
    let refused = || events(&bench).iter().filter(|(reason, _)| reason == "QuotaNotChanged").count();
    until("the refusal", || refused() == 1).await;
    annotate(
        &bench,
        &json!({"vnpu.dev/live": "true", "vnpu.dev/memory": "9Gi", "vnpu.dev/cores": "60", "x/y": ""}),
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((refused(), in_force(&node)), (1, Some((2, Percent(40), ComputeMode::Elastic))));
    let told = events(&bench);
    let (_, text) = told.iter().find(|(reason, _)| reason == "QuotaNotChanged").unwrap();
    assert!(text.contains("more than the 8Gi") && text.ends_with("(quota_too_large)"), "{text}");

    // Without the annotations the prepared quota returns, and with it the end of the watch.
    annotate(&bench, &json!({}));
    until("the return", || in_force(&node) == Some((8, Percent(40), ComputeMode::Hard))).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    annotate(&bench, &json!({"vnpu.dev/memory": "1Gi"}));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(in_force(&node).unwrap().0, 8, "nobody follows it at once any more");
    reconcile(&node).await.unwrap();
    assert_eq!(in_force(&node).unwrap().0, 1, "it is read when the node reconciles");
    stop.cancel();
    follower.await.unwrap();
}

#[tokio::test]
async fn a_changed_quota_outlives_a_restart_and_repairs() {
    let bench = Bench::new(1);
    claim(&bench, &json!({}));
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    settle(&node).await;
    annotate(&bench, &json!({"vnpu.dev/memory": "2Gi"}));
    reconcile(&node).await.unwrap();
    assert_eq!(in_force(&node).unwrap().0, 2);
    drop(node);
    // The CDI file is gone, so everything of the claim is made again, by one who has not read the claim.
    std::fs::remove_dir_all(bench.path("cdi")).unwrap();
    let node = bench.start().await;
    vnpu_kubelet_plugin::reconcile::recover_all(&node).await.unwrap();
    assert_eq!(bench.cdi_devices().len(), 1);
    assert_eq!(in_force(&node).unwrap().0, 2);
    // A claim that was given back takes nothing with it.
    unprepare(&node, &name(1)).await.unwrap();
    annotate(&bench, &json!({}));
    prepare(&node, &name(1)).await.unwrap();
    assert_eq!(in_force(&node).unwrap().0, 8);
}

#[tokio::test]
async fn a_claim_that_is_given_back_is_not_followed_into_life() {
    let bench = Bench::new(1);
    claim(&bench, &json!({"vnpu.dev/live": "true"}));
    let node = bench.start().await;
    let stop = CancellationToken::new();
    let follower = tokio::spawn(live::run(Arc::clone(&node), stop.clone()));
    prepare(&node, &name(1)).await.unwrap();
    settle(&node).await;
    until("the watch", || bench.api.claim_watches.load(Ordering::Relaxed) == 1).await;
    unprepare(&node, &name(1)).await.unwrap();
    annotate(&bench, &json!({"vnpu.dev/live": "true", "vnpu.dev/memory": "2Gi"}));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(in_force(&node), None);
    assert_eq!(bench.regions().len(), 0);
    // Prepared again, it is followed again.
    prepare(&node, &name(1)).await.unwrap();
    settle(&node).await;
    until("the second watch", || bench.api.claim_watches.load(Ordering::Relaxed) == 2).await;
    stop.cancel();
    follower.await.unwrap();
}
