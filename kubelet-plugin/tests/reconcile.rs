//! Proves what reconciliation takes as a reason to give a claim back or to take one over, and what it does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use support::{Bench, name, uid};
use vnpu_driver::record::ClaimState;
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::prepare::prepare;
use vnpu_kubelet_plugin::reconcile::reconcile;
use vnpu_kubelet_plugin::unprepare::unprepare;

fn state(node: &Node, n: u32) -> Option<ClaimState> {
    node.store.state(&uid(n).parse().unwrap())
}

/// Prepares shares 1.. of `device` and loses the checkpoint.
async fn without_records(devices: &[&str]) -> Bench {
    let bench = Bench::new(1);
    let node = bench.start().await;
    for (n, device) in (1..).zip(devices) {
        bench.api.share(n, device, "4Gi", "10");
        prepare(&node, &name(n)).await.unwrap();
    }
    drop(node);
    std::fs::remove_dir_all(bench.path("state")).unwrap();
    std::fs::create_dir(bench.path("state")).unwrap();
    bench
}

#[tokio::test]
async fn an_api_server_that_does_not_know_claims_at_all_takes_none_away() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    bench.api.claims_unknown.store(true, Ordering::Relaxed);
    let _ = reconcile(&node).await;
    assert!(matches!(state(&node, 1), Some(ClaimState::PrepareCompleted(_))));
    assert_eq!((bench.cdi_devices().len(), bench.regions().len()), (1, 1));
    bench.api.claims_unknown.store(false, Ordering::Relaxed);
    bench.api.delete(1);
    reconcile(&node).await.unwrap();
    assert!(bench.cdi_devices().is_empty() && bench.regions().is_empty());
}

#[tokio::test]
async fn a_claim_that_was_allocated_anew_is_given_back_with_what_it_had() {
    let bench = Bench::new(1);
    let node = bench.start().await;
    let elsewhere: [fn(&mut serde_json::Value); 3] = [
        |result| result["device"] = "chip-0-1".into(),
        |result| result["pool"] = "node-2/ascend".into(),
        |result| result["shareID"] = uid(77).into(),
    ];
    for (n, change) in (1..).zip(elsewhere) {
        bench.api.share(n, "chip-0-0", "4Gi", "10");
        prepare(&node, &name(n)).await.unwrap();
        reconcile(&node).await.unwrap();
        assert!(matches!(state(&node, n), Some(ClaimState::PrepareCompleted(_))), "what is the same stays");
        bench.api.edit(n, |claim| change(&mut claim["status"]["allocation"]["devices"]["results"][0]));
        reconcile(&node).await.unwrap();
        assert!(matches!(state(&node, n), Some(ClaimState::Unprepared(_))), "{n}");
        assert!(bench.cdi_devices().is_empty() && bench.regions().is_empty());
    }
}

#[tokio::test]
async fn a_claim_without_a_record_keeps_what_it_has_while_its_chip_is_away() {
    let bench = without_records(&["chip-0-0", "chip-0-1", "chip-0-1"]).await;
    bench.api.delete(3);
    let chips = bench.hardware.inventory.lock().unwrap().chips.clone();
    bench.hardware.inventory.lock().unwrap().chips.retain(|chip| chip.die == 1);
    let node = bench.start().await;
    reconcile(&node).await.unwrap();
    assert_eq!(state(&node, 1), None, "it cannot be taken over yet");
    assert!(matches!(state(&node, 2), Some(ClaimState::PrepareCompleted(_))), "it is nobody else's matter");
    assert_eq!(bench.regions(), BTreeSet::from([uid(1), uid(2)]), "what is gone is removed");
    assert_eq!(bench.cdi_devices().len(), 2);
    drop(node);
    bench.hardware.inventory.lock().unwrap().chips = chips;
    let node = bench.start().await;
    reconcile(&node).await.unwrap();
    assert!(matches!(state(&node, 1), Some(ClaimState::PrepareCompleted(_))));
}

#[tokio::test]
async fn what_lies_under_a_tombstone_is_removed_and_not_taken_over() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    let file = bench.path(&format!("cdi/vnpu.dev-claim_{}.json", uid(1)));
    let content = std::fs::read(&file).unwrap();
    unprepare(&node, &name(1)).await.unwrap();
    std::fs::write(&file, content).unwrap();
    reconcile(&node).await.unwrap();
    assert!(matches!(state(&node, 1), Some(ClaimState::Unprepared(_))));
    assert!(bench.cdi_devices().is_empty() && bench.regions().is_empty());
}

#[tokio::test]
async fn regions_of_a_prepared_claim_that_cannot_be_read_are_made_again() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    std::fs::write(bench.path(&format!("run/claims/{}/quota", uid(1))), "rubbish").unwrap();
    prepare(&node, &name(1)).await.unwrap();
    assert_eq!(node.materials.agent().unwrap().usage(&uid(1).parse().unwrap()).unwrap().chips.len(), 1);
}
