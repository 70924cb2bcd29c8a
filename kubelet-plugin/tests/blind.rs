//! Proves that a node whose hardware cannot be seen yet holds nobody up: not the kubelet that gives claims back, not
//! the other instance of a rolling update.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::time::Duration;

use support::{Bench, name, settle, uid};
use tokio::sync::watch;
use tokio::time::timeout;
use vnpu_kubelet_plugin::prepare::prepare;
use vnpu_kubelet_plugin::reconcile::recover_all;
use vnpu_kubelet_plugin::unprepare::unprepare;

/// Far more than anything here takes, and less than any deadline of the plugin.
const SOON: Duration = Duration::from_secs(5);

/// A node with claim 1 prepared, then rebooted: its CDI files and regions are gone.
async fn rebooted() -> Bench {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    settle(&node).await;
    for entry in std::fs::read_dir(bench.path("cdi")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    std::fs::remove_dir_all(bench.path("run/claims")).unwrap();
    bench
}

#[tokio::test]
async fn a_claim_is_given_back_while_no_hardware_is_seen() {
    let bench = rebooted().await;
    let (_sender, seen) = watch::channel(bench.unseen());
    let (node, _) = bench.start_seeing(seen).await;
    timeout(SOON, recover_all(&node)).await.expect("recovery does not wait for hardware").unwrap();
    timeout(SOON, unprepare(&node, &name(1))).await.expect("nor does giving back").unwrap();
}

#[tokio::test]
async fn a_prepare_that_waits_for_hardware_keeps_no_other_instance_out() {
    let bench = rebooted().await;
    let (sender, seen) = watch::channel(bench.unseen());
    let (node, _) = bench.start_seeing(seen).await;
    let waiting = tokio::spawn(async move { prepare(&node, &name(1)).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    let other = bench.start().await;
    drop(timeout(SOON, other.session()).await.expect("the other instance can work").unwrap());
    sender.send(bench.inventories()).unwrap();
    timeout(SOON, waiting).await.expect("the hardware is seen now").unwrap().unwrap();
    assert_eq!(bench.cdi_devices().len(), 1);
    assert!(bench.regions().contains(&uid(1)));
}
