//! Proves that SIGKILL at every step of Prepare and Unprepare leaves nothing that the next start does not put
//! right. Run with `--features failpoints`; without it there is nothing to kill at.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may
#![cfg(feature = "failpoints")]

mod support;

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use support::{Bench, name, uid};
use vnpu_driver::record::ClaimState;
use vnpu_kubelet_plugin::failpoints::PLACES;
use vnpu_kubelet_plugin::node::Node;
use vnpu_kubelet_plugin::prepare::prepare;
use vnpu_kubelet_plugin::reconcile::{reconcile, recover_all};
use vnpu_kubelet_plugin::unprepare::unprepare;

const DIRECTORY: &str = "VNPU_CRASH_TEST_DIRECTORY";

fn bench(dir: &Path) -> Bench {
    let bench = Bench::at(dir, 1);
    bench.api.share(1, "chip-0-0", "4Gi", "10");
    bench.api.share(2, "chip-0-0", "4Gi", "10");
    bench
}

/// What is killed: two claims are prepared, one is given back, and the log is compacted.
#[tokio::test]
async fn the_work_that_is_cut_off() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let bench = bench(Path::new(&dir));
    let node = bench.start().await;
    recover_all(&node).await.unwrap();
    prepare(&node, &name(1)).await.unwrap();
    prepare(&node, &name(2)).await.unwrap();
    unprepare(&node, &name(1)).await.unwrap();
}

/// Every claim is whole or not there at all, and files say what the records say.
fn judge(bench: &Bench, node: &Node, place: &str) {
    for n in [1, 2] {
        let prepared =
            matches!(node.store.state(&uid(n).parse().unwrap()), Some(ClaimState::PrepareCompleted(_)));
        let device = format!("{}-npu-0", uid(n));
        assert_eq!(bench.cdi_devices().contains(&device), prepared, "CDI of claim {n}, killed at {place}");
        assert_eq!(bench.regions().contains(&uid(n)), prepared, "regions of claim {n}, killed at {place}");
    }
    assert!(node.store.look(|state| {
        state.states().all(|(_, s)| matches!(s, ClaimState::PrepareCompleted(_) | ClaimState::Unprepared(_)))
    }));
    let temporaries = |dir: &str| {
        std::fs::read_dir(bench.path(dir))
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().ends_with(".tmp"))
            .count()
    };
    assert_eq!(temporaries("cdi"), 0, "killed at {place}");
}

#[tokio::test]
async fn a_kill_at_every_place_leaves_nothing_wrong() {
    if std::env::var_os(DIRECTORY).is_some() {
        return;
    }
    let mut killed = 0;
    for place in PLACES {
        for time in 1..=8 {
            let dir = tempfile::tempdir().unwrap();
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "the_work_that_is_cut_off"])
                .env(DIRECTORY, dir.path())
                .env("VNPU_CRASH_AT", format!("{place}:{time}"))
                .output()
                .unwrap()
                .status;
            if status.success() {
                break;
            }
            assert_eq!(status.signal(), Some(9), "{place}:{time}");
            killed += 1;
            let bench = bench(dir.path());
            let node = bench.start().await;
            recover_all(&node).await.unwrap();
            reconcile(&node).await.unwrap();
            judge(&bench, &node, place);
            // The kubelet asks again for what it was not answered.
            prepare(&node, &name(2)).await.unwrap();
            unprepare(&node, &name(1)).await.unwrap();
            judge(&bench, &node, place);
            unprepare(&node, &name(2)).await.unwrap();
            assert!(bench.cdi_devices().is_empty() && bench.regions().is_empty(), "{place}:{time}");
        }
    }
    assert!(killed >= 30, "only {killed} kills");
}
