//! Proves that what is prepared follows its chips when the driver numbers them anew, and stays when one is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use serde_json::Value;
use support::{Bench, name, uid};
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::prepare::prepare;
use vnpu_kubelet_plugin::reconcile::{reconcile, recover_all};

/// The chip's node in a container of claim 1.
fn node_in_file(bench: &Bench) -> String {
    let text = std::fs::read(bench.path(&format!("cdi/vnpu.dev-claim_{}.json", uid(1)))).unwrap();
    let spec: Value = serde_json::from_slice(&text).unwrap();
    spec["devices"][0]["containerEdits"]["deviceNodes"][0]["path"].as_str().unwrap().to_owned()
}

fn number_in_region(node: &Node) -> u32 {
    let usage = node.materials.agent().unwrap().usage(&uid(1).parse().unwrap()).unwrap();
    usage.chips[0].phys_id
}

async fn prepared(bench: &Bench) {
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    assert_eq!((node_in_file(bench).as_str(), number_in_region(&node)), ("/dev/davinci0", 0));
}

fn renumber(bench: &Bench) {
    for chip in &mut bench.hardware.inventory.lock().unwrap().chips {
        chip.phys_id = 7 - chip.phys_id;
    }
}

#[tokio::test]
async fn the_next_pod_of_a_prepared_claim_finds_its_chip_under_the_new_number() {
    let bench = Bench::new(1);
    prepared(&bench).await;
    renumber(&bench);
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    assert_eq!((node_in_file(&bench).as_str(), number_in_region(&node)), ("/dev/davinci7", 7));
}

#[tokio::test]
async fn recovery_and_reconciliation_follow_the_new_numbers_too() {
    let bench = Bench::new(1);
    prepared(&bench).await;
    renumber(&bench);
    let node = bench.start().await;
    recover_all(&node).await.unwrap();
    assert_eq!((node_in_file(&bench).as_str(), number_in_region(&node)), ("/dev/davinci7", 7));
    renumber(&bench);
    let node = bench.start().await;
    reconcile(&node).await.unwrap();
    assert_eq!((node_in_file(&bench).as_str(), number_in_region(&node)), ("/dev/davinci0", 0));
}

#[tokio::test]
async fn a_prepared_claim_whose_chip_is_gone_is_answered_and_left_as_it_was() {
    let bench = Bench::new(1);
    prepared(&bench).await;
    bench.hardware.inventory.lock().unwrap().chips.retain(|chip| chip.die != 0);
    let node = bench.start().await;
    recover_all(&node).await.unwrap();
    prepare(&node, &name(1)).await.unwrap();
    assert_eq!((node_in_file(&bench).as_str(), number_in_region(&node)), ("/dev/davinci0", 0));
}
