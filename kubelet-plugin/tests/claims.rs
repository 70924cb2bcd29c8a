//! Proves how claims are prepared and given back, over the real socket and the real checkpoint, with an API
//! server in this process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;
use support::{Bench, name, settle, uid};
use tokio::net::UnixStream;
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use vnpu_driver::record::ClaimState;
use vnpu_kubelet_plugin::health_stream::HealthService;
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::prepare::{ClaimName, prepare};
use vnpu_kubelet_plugin::reconcile::{reconcile, recover_all};
use vnpu_kubelet_plugin::server::serve_dra;
use vnpu_kubelet_plugin::service::DraService;
use vnpu_kubelet_plugin::sockets::BoundSocket;
use vnpu_kubelet_plugin::unprepare::unprepare;
use vnpu_proto::dra::{v1, v1beta1};

/// Serves a node on a socket and connects to it.
async fn dial(bench: &Bench, node: &Arc<Node>) -> (Channel, CancellationToken) {
    let path = bench.path("dra.sock");
    let place: Arc<SetOnce<Arc<Node>>> = Arc::default();
    let _ = place.set(Arc::clone(node));
    let stop = CancellationToken::new();
    let (dra, health) = (DraService::new(Arc::clone(&place)), HealthService::new(place, stop.clone()));
    tokio::spawn(serve_dra(BoundSocket::bind(&path).unwrap(), dra, health, stop.clone()));
    (support::dial(path).await, stop)
}

fn wire(n: u32) -> v1::Claim {
    v1::Claim { namespace: "default".into(), uid: uid(n), name: format!("claim-{n}") }
}

#[tokio::test]
async fn a_share_is_prepared_once_and_given_back_without_the_api_server() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    let (channel, stop) = dial(&bench, &node).await;
    let mut dra = v1::dra_plugin_client::DraPluginClient::new(channel);
    let request = v1::NodePrepareResourcesRequest { claims: vec![wire(1)] };
    let first = dra.node_prepare_resources(request.clone()).await.unwrap().into_inner();
    let answer = &first.claims[&uid(1)];
    assert_eq!(answer.error, "");
    assert_eq!(answer.devices[0].request_names, ["npu"]);
    assert_eq!(answer.devices[0].pool_name, support::POOL);
    assert_eq!(answer.devices[0].device_name, "chip-0-0");
    assert_eq!(answer.devices[0].share_id.as_deref(), Some(uid(1_000_001).as_str()));
    assert_eq!(answer.devices[0].cdi_device_ids, [format!("vnpu.dev/claim={}-npu-0", uid(1))]);
    assert_eq!(bench.cdi_devices(), BTreeSet::from([format!("{}-npu-0", uid(1))]));
    assert_eq!(bench.regions(), BTreeSet::from([uid(1)]));

    // Asked again, also when the API server is away, it answers the same.
    settle(&node).await;
    bench.api.away.store(true, Ordering::Relaxed);
    assert_eq!(dra.node_prepare_resources(request).await.unwrap().into_inner(), first);
    let request = v1::NodeUnprepareResourcesRequest { claims: vec![wire(1), wire(77)] };
    for _ in 0..2 {
        let answer = dra.node_unprepare_resources(request.clone()).await.unwrap().into_inner();
        assert_eq!(answer.claims.len(), 2, "an unknown claim is a success");
        assert!(answer.claims.values().all(|c| c.error.is_empty()), "{answer:?}");
    }
    assert!(bench.cdi_devices().is_empty() && bench.regions().is_empty());
    stop.cancel();
}

#[tokio::test]
async fn giving_back_does_not_wait_behind_preparing() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    bench.api.share(2, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    node.limit.forget_permits(31);
    let (channel, stop) = dial(&bench, &node).await;
    let mut dra = v1::dra_plugin_client::DraPluginClient::new(channel);
    let one = v1::NodePrepareResourcesRequest { claims: vec![wire(1)] };
    assert_eq!(dra.node_prepare_resources(one).await.unwrap().into_inner().claims[&uid(1)].error, "");
    settle(&node).await;
    bench.api.away.store(true, Ordering::Relaxed);
    let mut preparing = dra.clone();
    let waiting = tokio::spawn(async move {
        let request = v1::NodePrepareResourcesRequest { claims: vec![wire(2)] };
        preparing.node_prepare_resources(request).await
    });
    while node.limit.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let request = v1::NodeUnprepareResourcesRequest { claims: vec![wire(1)] };
    let answer = dra.node_unprepare_resources(request).await.unwrap().into_inner();
    assert_eq!(answer.claims[&uid(1)].error, "");
    assert!(!waiting.is_finished(), "the one place is still taken");
    waiting.abort();
    stop.cancel();
}

#[tokio::test]
async fn a_service_socket_that_was_removed_is_bound_again_and_who_was_connected_stays_so() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    let (channel, stop) = dial(&bench, &node).await;
    let path = bench.path("dra.sock");
    std::fs::remove_file(&path).unwrap();
    tokio::time::pause();
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    tokio::time::resume();
    UnixStream::connect(&path).await.unwrap();
    let mut dra = v1::dra_plugin_client::DraPluginClient::new(channel);
    let request = v1::NodePrepareResourcesRequest { claims: vec![wire(1)] };
    let answer = dra.node_prepare_resources(request).await.unwrap().into_inner();
    assert_eq!(answer.claims[&uid(1)].error, "");
    stop.cancel();
}

#[tokio::test]
async fn the_cdi_file_of_a_share_and_of_a_whole_module() {
    let bench = Bench::new(2);
    bench.api.share(1, "chip-0-1", "4Gi", "10");
    bench.api.allocate(2, &[("modules", "module-1", "", "")]);
    let node = bench.start().await;
    for n in [1, 2] {
        prepare(&node, &name(n)).await.unwrap();
        let text =
            std::fs::read_to_string(bench.path(&format!("cdi/vnpu.dev-claim_{}.json", uid(n)))).unwrap();
        let text = text.replace(bench.path("").to_str().unwrap(), "/DIR/");
        insta::assert_snapshot!(format!("cdi-{n}"), text);
    }
    let preload = std::fs::read_to_string(bench.path("run/ld.so.preload")).unwrap();
    assert_eq!(preload, "/run/vnpu/lib/libvnpu.so\n");
}

#[tokio::test]
async fn one_bad_claim_is_its_own_error_and_every_uid_has_an_entry() {
    let bench = Bench::new(2);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    bench.api.share(2, "chip-9-0", "4Gi", "10");
    bench.api.share(3, "chip-0-1", "4Gi", "10");
    bench.api.edit(3, |claim| {
        claim["status"]["allocation"]["devices"]["config"] = json!([{
            "source": "FromClaim",
            "opaque": {"driver": "vnpu.dev", "parameters": {"apiVersion": "vnpu.dev/v9", "kind": "SharePolicy"}},
        }]);
    });
    let node = bench.start().await;
    let (channel, stop) = dial(&bench, &node).await;
    let mut dra = v1beta1::dra_plugin_client::DraPluginClient::new(channel);
    let hostile = ["../../etc/passwd", "", "a", "00000001-1111-4222-8333-44445555666/", "%2e%2e"];
    let mut claims: Vec<v1beta1::Claim> = [1, 2, 3, 4]
        .map(|n| v1beta1::Claim { namespace: "default".into(), uid: uid(n), name: format!("claim-{n}") })
        .to_vec();
    claims.extend(hostile.map(|uid| v1beta1::Claim {
        namespace: "default".into(),
        uid: uid.into(),
        name: "claim-1".into(),
    }));
    let answer = dra
        .node_prepare_resources(v1beta1::NodePrepareResourcesRequest { claims: claims.clone() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.claims.len(), claims.len());
    assert_eq!(answer.claims[&uid(1)].error, "");
    for (uid, reason) in [(uid(2), "device_absent"), (uid(3), "policy_version"), (uid(4), "claim_gone")] {
        assert!(answer.claims[&uid].error.contains(reason), "{}", answer.claims[&uid].error);
    }
    for uid in hostile {
        assert!(answer.claims[uid].error.contains("claim_uid"), "{uid}: {:?}", answer.claims[uid]);
    }
    let answer = dra
        .node_unprepare_resources(v1beta1::NodeUnprepareResourcesRequest { claims: claims.clone() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.claims.len(), claims.len());
    assert!(answer.claims.values().all(|c| c.error.is_empty()));
    stop.cancel();
}

#[tokio::test]
async fn a_refused_pod_gets_an_event_and_the_node_keeps_nothing() {
    let bench = Bench::new(2);
    bench.api.allocate(1, &[("a", "chip-0-0", "64Gi", "100"), ("b", "chip-1-0", "64Gi", "100")]);
    let node = bench.start().await;
    for _ in 0..3 {
        assert_eq!(prepare(&node, &name(1)).await.unwrap_err().reason(), "straddles");
    }
    settle(&node).await;
    let events = bench.api.events.lock().unwrap().clone();
    assert_eq!(events.len(), 1, "said once a minute");
    assert_eq!(events[0]["involvedObject"]["name"], "pod");
    assert_eq!(events[0]["type"], "Warning");
    assert!(
        events[0]["message"].as_str().unwrap().contains("npu-module.vnpu.dev"),
        "what to do: {}",
        events[0]
    );
    assert!(bench.cdi_devices().is_empty() && bench.regions().is_empty());
    assert_eq!(node.store.look(|s| s.plans().count()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn shares_over_a_chips_capacity_are_refused_also_when_they_come_together() {
    let bench = Bench::new(1);
    for n in 0..8 {
        bench.api.share(n, "chip-0-0", "16Gi", "20");
    }
    let node = bench.start().await;
    let tries = (0..8).map(|n| {
        let node = Arc::clone(&node);
        tokio::spawn(async move { prepare(&node, &name(n)).await })
    });
    let results = futures::future::join_all(tries).await;
    let refused: Vec<_> = results.into_iter().filter_map(|r| r.unwrap().err()).collect();
    assert_eq!(refused.len(), 4, "64Gi hold four of 16Gi: {refused:?}");
    assert!(refused.iter().all(|e| e.reason() == "over_capacity" && e.retryable()));
    assert_eq!(bench.regions().len(), 4);
}

#[tokio::test]
async fn all_128_smallest_shares_of_a_module_are_prepared() {
    let bench = Bench::new(1);
    for n in 0..128 {
        bench.api.share(n, &format!("chip-0-{}", n / 64), "1Gi", "1");
    }
    let node = bench.start().await;
    for n in 0..128 {
        prepare(&node, &name(n)).await.unwrap();
    }
    bench.api.share(128, "chip-0-0", "1Gi", "1");
    assert_eq!(prepare(&node, &name(128)).await.unwrap_err().reason(), "over_capacity");
    assert_eq!(bench.regions().len(), 128);
}

#[tokio::test]
async fn a_late_retry_is_refused_and_a_shared_claims_next_pod_is_served() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    unprepare(&node, &name(1)).await.unwrap();
    bench.api.edit(1, |claim| claim["status"]["reservedFor"] = json!([]));
    assert_eq!(prepare(&node, &name(1)).await.unwrap_err().reason(), "released");
    bench.api.edit(1, |claim| {
        claim["status"]["reservedFor"] = json!([{"resource": "pods", "name": "next", "uid": "u"}]);
    });
    prepare(&node, &name(1)).await.unwrap();
    assert_eq!(bench.regions(), BTreeSet::from([uid(1)]));
}

#[tokio::test]
async fn a_claim_made_again_under_its_name_and_one_being_deleted_are_refused() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    let other = ClaimName { uid: uid(9), ..name(1) };
    assert_eq!(prepare(&node, &other).await.unwrap_err().reason(), "uid_mismatch");
    bench.api.edit(1, |claim| claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    assert_eq!(prepare(&node, &name(1)).await.unwrap_err().reason(), "being_deleted");
}

#[tokio::test]
async fn status_says_ready_and_not_yet_attached() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    settle(&node).await;
    let patches = bench.api.status_patches.lock().unwrap().clone();
    let device = &patches[0]["status"]["devices"][0];
    assert_eq!(device["conditions"][0]["type"], "Ready");
    assert_eq!(device["conditions"][0]["status"], "True");
    assert_eq!(device["conditions"][1]["type"], "Attached");
    assert_eq!(device["conditions"][1]["status"], "Unknown");
    assert_eq!(device["data"]["chips"][0]["quota"]["memory"], "4Gi");
    reconcile(&node).await.unwrap();
    assert_eq!(bench.api.status_patches.lock().unwrap().len(), 1, "what stands there is not written again");
}

#[tokio::test]
async fn a_restart_keeps_claims_and_makes_again_what_a_reboot_took() {
    let bench = Bench::new(1);
    for n in [1, 2] {
        bench.api.share(n, "chip-0-0", "4Gi", "10");
        let node = bench.start().await;
        prepare(&node, &name(n)).await.unwrap();
    }
    // /run is empty after a reboot, and claim 2 was deleted meanwhile.
    std::fs::remove_dir_all(bench.path("run")).unwrap();
    std::fs::remove_dir_all(bench.path("cdi")).unwrap();
    bench.api.delete(2);
    let node = bench.start().await;
    recover_all(&node).await.unwrap();
    reconcile(&node).await.unwrap();
    assert_eq!(bench.regions(), BTreeSet::from([uid(1)]));
    assert_eq!(bench.cdi_devices(), BTreeSet::from([format!("{}-npu-0", uid(1))]));
    assert!(matches!(node.store.state(&name(2).uid.parse().unwrap()), Some(ClaimState::Unprepared(_))));
}

#[tokio::test]
async fn a_missing_cdi_file_of_a_prepared_claim_is_made_again_by_the_next_prepare() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    for entry in std::fs::read_dir(bench.path("cdi")).unwrap() {
        std::fs::write(entry.unwrap().path(), "{").unwrap();
    }
    prepare(&node, &name(1)).await.unwrap();
    assert_eq!(bench.cdi_devices().len(), 1);
}

#[tokio::test]
async fn a_lost_checkpoint_is_rebuilt_from_cdi_files_and_the_api_server() {
    let bench = Bench::new(1);
    for n in [1, 2] {
        bench.api.share(n, "chip-0-0", "4Gi", "10");
        prepare(&bench.start().await, &name(n)).await.unwrap();
    }
    bench.api.delete(2);
    std::fs::write(bench.path("state/checkpoint.log"), "nothing of it is left").unwrap();
    let (node, repairs) = bench.start_reporting().await;
    assert!(repairs.quarantined.is_some());
    reconcile(&node).await.unwrap();
    assert!(matches!(node.store.state(&name(1).uid.parse().unwrap()), Some(ClaimState::PrepareCompleted(_))));
    assert_eq!(bench.regions(), BTreeSet::from([uid(1)]));
    assert_eq!(bench.cdi_devices().len(), 1);
}

#[tokio::test]
async fn nothing_is_taken_as_gone_while_the_api_server_is_away() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    bench.api.away.store(true, Ordering::Relaxed);
    let _ = reconcile(&node).await;
    assert_eq!(bench.regions().len(), 1);
}

#[tokio::test]
async fn a_prepared_claim_is_not_refused_when_its_chip_is_gone() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    prepare(&bench.start().await, &name(1)).await.unwrap();
    bench.hardware.inventory.lock().unwrap().chips.clear();
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    unprepare(&node, &name(1)).await.unwrap();
    assert!(bench.cdi_devices().is_empty());
}

#[tokio::test]
async fn a_cdi_directory_that_cannot_be_used_is_a_clear_error_and_leaves_nothing() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    std::fs::remove_dir(bench.path("cdi")).unwrap();
    std::fs::write(bench.path("cdi"), "a file").unwrap();
    let error = prepare(&node, &name(1)).await.unwrap_err();
    assert!(error.retryable() && error.to_string().contains("cdi"), "{error}");
    std::fs::remove_file(bench.path("cdi")).unwrap();
    prepare(&node, &name(1)).await.unwrap();
    assert_eq!(bench.cdi_devices().len(), 1);
}

#[tokio::test]
async fn two_instances_serve_the_same_claims() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    bench.api.share(2, "chip-0-0", "4Gi", "10");
    let (old, new) = (bench.start().await, bench.start().await);
    prepare(&old, &name(1)).await.unwrap();
    prepare(&new, &name(1)).await.unwrap();
    prepare(&new, &name(2)).await.unwrap();
    unprepare(&old, &name(2)).await.unwrap();
    unprepare(&new, &name(1)).await.unwrap();
    assert!(bench.cdi_devices().is_empty() && bench.regions().is_empty());
    assert!(std::fs::read_dir(bench.path("run/devices")).unwrap().next().is_none());
}
