//! Proves that rounds over the regions go on whatever the API server does, and show no claim that is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::{Bench, name, settle, uid};
use tokio_util::sync::CancellationToken;
use vnpu_kubelet_plugin::metrics::ClaimChip;
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::prepare::prepare;
use vnpu_kubelet_plugin::regions;
use vnpu_kubelet_plugin::unprepare::unprepare;

fn shown(node: &Node, n: u32) -> bool {
    let label = ClaimChip {
        namespace: "default".into(),
        claim: format!("claim-{n}"),
        claim_uid: uid(n),
        uuid: "VDIE-0-0".into(),
    };
    node.metrics.quota_bytes.get(&label).is_some()
}

#[tokio::test]
async fn usage_of_a_claim_that_another_instance_gave_back_is_not_shown() {
    let bench = Bench::new(1);
    for n in [1, 2] {
        bench.api.share(n, "chip-0-0", "4Gi", "10");
    }
    let (old, new) = (bench.start().await, bench.start().await);
    for n in [1, 2] {
        prepare(&old, &name(n)).await.unwrap();
    }
    regions::round(&old).await.unwrap();
    assert_eq!((shown(&old, 1), shown(&old, 2)), (true, true));
    unprepare(&new, &name(1)).await.unwrap();
    regions::round(&old).await.unwrap();
    assert_eq!((shown(&old, 1), shown(&old, 2)), (false, true));
}

#[tokio::test(start_paused = true)]
async fn rounds_go_on_while_the_api_server_does_not_answer() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    settle(&node).await;
    bench.api.hangs.store(true, Ordering::Relaxed);
    let stop = CancellationToken::new();
    let rounds = tokio::spawn(regions::run(Arc::clone(&node), Duration::from_secs(1), stop.clone()));
    for _ in 0..3 {
        node.metrics.forget_claim(&uid(1).parse().unwrap());
        for _ in 0..1000 {
            if shown(&node, 1) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(shown(&node, 1), "there is another round");
    }
    stop.cancel();
    rounds.await.unwrap();
}
