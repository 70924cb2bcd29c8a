use std::time::Duration;

use crate::batch::{Batch, Reach};
use crate::fixtures::*;
use crate::view::Change;
use crate::{Decision, Planner};

fn decide(planner: &mut Planner, batch: Batch) -> Decision {
    planner.submit(batch, at(0));
    planner.decide(at(0)).pop().unwrap()
}

/// Two leaves of two nodes of four modules, partly used.
fn cluster() -> Planner {
    let mut planner = planner(changes(4, 2, 2, 4));
    let used: [(u64, &str, &[&str]); 6] = [
        (1, "node-0", &["module-0", "module-1", "module-2"]),
        (2, "node-1", &["module-0", "module-1"]),
        (3, "node-1", &["chip-2-0"]),
        (4, "node-2", &["module-0", "module-1", "module-2"]),
        (5, "node-3", &["module-0", "module-1"]),
        (6, "node-3", &["chip-3-1"]),
    ];
    for (number, node, devices) in used {
        planner.update(Change::Claim(allocated(number, node, devices)));
    }
    planner
}

#[test]
fn a_placement_is_told() {
    let decision = decide(&mut cluster(), batch("train", 2, whole(1)));
    insta::assert_snapshot!(decision.record.short(), @"2 pods placed on leaf leaf-0 (2 nodes)");
    insta::assert_snapshot!(decision.record.to_string(), @r"
    Job bank/train (batch train): 2 pods placed on leaf leaf-0 (2 nodes)
      mode pack, topology preferred
      needs 2 pods, each 1 x npu-module.vnpu.dev
      refused: node node-0: 1 whole module, room for 1 of 2 pods
      refused: node node-1: 1 whole module and 1 half one, room for 1 of 2 pods
      refused: node node-2: 1 whole module, room for 1 of 2 pods
      chosen: leaf leaf-0: 2 whole modules and 1 half one, room for 2 of 2 pods
      passed: leaf leaf-1: 2 whole modules and 1 half one, room for 2 of 2 pods
      tie: leaf-1 is as good as leaf-0; the hash of owner-train decided
      plan: 1 on node-0
      plan: 1 on node-1
      version 22 of the view, at 0 s
    ");
}

#[test]
fn a_wait_is_told_in_the_words_of_the_user() {
    let batch = Batch { reach: Reach::RequiredLeaf, ..batch("train", 4, whole(1)) };
    let decision = decide(&mut cluster(), batch);
    insta::assert_snapshot!(decision.record.short(), @"waits: needs room for 4 pods on one leaf, each 1 module; leaf leaf-1 has 2 whole modules and 1 half one, room for 2 of 4 pods; others pass it for 24h at most");
    insta::assert_snapshot!(decision.record.to_string(), @r"
    Job bank/train (batch train): waits: needs room for 4 pods on one leaf, each 1 module; leaf leaf-1 has 2 whole modules and 1 half one, room for 2 of 4 pods; others pass it for 24h at most
      mode pack, topology required-leaf
      needs 4 pods, each 1 x npu-module.vnpu.dev
      refused: node node-0: 1 whole module, room for 1 of 4 pods
      refused: node node-1: 1 whole module and 1 half one, room for 1 of 4 pods
      refused: node node-2: 1 whole module, room for 1 of 4 pods
      refused: leaf leaf-0: 2 whole modules and 1 half one, room for 2 of 4 pods
      refused: leaf leaf-1: 2 whole modules and 1 half one, room for 2 of 4 pods
      version 22 of the view, at 0 s
    ");
}

#[test]
fn patience_and_what_never_fits_are_told() {
    let patient = Batch { patience: Duration::from_secs(90), ..batch("train", 2, whole(1)) };
    insta::assert_snapshot!(decide(&mut cluster(), patient).record.short(), @"waits: needs room for 2 pods, each 1 module; it would fit now, but further apart than it has to be; it waits 1m30s at most");
    let large = batch("large", 3, even_chips(10));
    insta::assert_snapshot!(decide(&mut cluster(), large).record.short(), @"never fits: needs room for 3 pods, each 5 x npu-module.vnpu.dev, else 10 x npu.vnpu.dev, and no such room is there even when nothing else runs");
}

#[test]
fn what_is_not_modelled_is_told() {
    let mut claim = share(8 * GI, 10);
    claim.requests[0].alternatives[0].selectors = vec!["device.attributes[\"vnpu.dev\"].absent == 1".into()];
    let mut batch = batch("odd", 1, claim);
    batch.unmodelled = vec!["pod affinity".into()];
    let record = decide(&mut cluster(), batch).record;
    assert_eq!(
        record.unmodelled,
        ["pod affinity", "the selector device.attributes[\"vnpu.dev\"].absent == 1"]
    );
    assert!(record.short().contains("not modelled: pod affinity"), "{}", record.short());
    assert_eq!(record.demand, ["1 pod: 1 x npu.vnpu.dev with cores 10, memory 8Gi"]);
}

#[test]
fn a_record_stays_small() {
    let record = decide(&mut planner(changes(300, 2, 2, 1)), batch("wide", 200, whole(1))).record;
    assert_eq!(record.plan.len(), 64);
    assert!(record.domains.len() <= 9);
    assert!(record.short().len() < 1024);
}
