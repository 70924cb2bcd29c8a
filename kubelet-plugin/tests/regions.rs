//! Proves that rounds over the regions go on whatever the API server does, and show no claim that is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::{Bench, name, settle, uid};
use tokio_util::sync::CancellationToken;
use vnpu_kubelet_plugin::metrics::{ClaimChip, WholeClaim};
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

/// Locks every slot of a usage file, in a process of its own until that is killed: to others each slot that has
/// an owner is then a living process's.
fn lock_all_slots(usage: &File) -> i32 {
    let mut ends = [0; 2];
    // SAFETY: the child only calls async-signal-safe functions, and lives no longer than this thread.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        let pid = libc::fork();
        if pid == 0 {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let mut lock: libc::flock = std::mem::zeroed();
            lock.l_type = libc::F_WRLCK as _;
            if libc::fcntl(usage.as_raw_fd(), libc::F_SETLK, &raw const lock) == 0 {
                libc::write(ends[1], b"l".as_ptr().cast(), 1);
                libc::pause();
            }
            libc::_exit(1);
        }
        libc::close(ends[1]);
        let mut word = [0_u8; 1];
        assert_eq!(libc::read(ends[0], word.as_mut_ptr().cast(), 1), 1, "the slots are not locked");
        libc::close(ends[0]);
        pid
    }
}

#[tokio::test]
async fn processes_without_a_slot_stand_in_the_claims_status_and_in_the_metrics() {
    let bench = Bench::new(1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    let node = bench.start().await;
    prepare(&node, &name(1)).await.unwrap();
    settle(&node).await;
    let usage = bench.path("run/claims").join(uid(1)).join("usage");
    let usage = File::options().read(true).write(true).open(usage).unwrap();
    let pid = lock_all_slots(&usage);
    // One chip: its counters from 128, the slots of 256 bytes from 256.
    usage.write_all_at(&42_u64.to_ne_bytes(), 256).unwrap();
    let stop = CancellationToken::new();
    let rounds = tokio::spawn(regions::run(Arc::clone(&node), Duration::from_millis(20), stop.clone()));
    let attached = async |reason: &str| {
        for _ in 0..500 {
            let patch = bench.api.status_patches.lock().unwrap().last().cloned().unwrap();
            let condition = patch["status"]["devices"][0]["conditions"][1].clone();
            if condition["reason"] == reason {
                return condition;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the status never says {reason}: {:?}", bench.api.status_patches.lock().unwrap().last());
    };
    attached("UnderQuota").await;
    // The last slot was taken once, and then two processes found none and were refused three allocations.
    usage.write_all_at(&512_u16.to_ne_bytes(), 16).unwrap();
    usage.write_all_at(&2_u64.to_ne_bytes(), 128 + 72).unwrap();
    usage.write_all_at(&3_u64.to_ne_bytes(), 128 + 80).unwrap();
    let condition = attached("NoFreeSlot").await;
    assert_eq!((&condition["type"], &condition["status"]), (&"Attached".into(), &"True".into()));
    assert!(condition["message"].as_str().unwrap().contains("onFailure: closed"), "{condition}");
    let writes = bench.api.status_patches.lock().unwrap().len();
    let whole = WholeClaim { namespace: "default".into(), claim: "claim-1".into(), claim_uid: uid(1) };
    let chip = ClaimChip {
        namespace: "default".into(),
        claim: "claim-1".into(),
        claim_uid: uid(1),
        uuid: "VDIE-0-0".into(),
    };
    assert_eq!(node.metrics.without_slot.get(&whole).unwrap().get(), 2);
    assert_eq!(node.metrics.denied_without_slot.get(&chip).unwrap().get(), 3);
    // More of the same is in the metrics, and no reason to write the status again.
    usage.write_all_at(&1000_u64.to_ne_bytes(), 128 + 72).unwrap();
    for _ in 0..500 {
        if node.metrics.without_slot.get(&whole).unwrap().get() == 1000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(node.metrics.without_slot.get(&whole).unwrap().get(), 1000);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(bench.api.status_patches.lock().unwrap().len(), writes);
    stop.cancel();
    rounds.await.unwrap();
    // SAFETY: signals and reaps a child of this test.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}
