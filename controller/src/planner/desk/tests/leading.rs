//! Who leads acts, with what the leader before has left.

use serde_json::json;

use super::bench::Bench;

#[test]
fn who_follows_acts_only_when_it_leads() {
    let mut bench = Bench::new(1, 2);
    bench.desk.lead(false);
    bench.pod("alone", "");
    assert!(bench.settle().is_empty());
    bench.desk.lead(true);
    assert_eq!(bench.settle().len(), 1);
}

#[test]
fn a_new_leader_completes_what_it_finds() {
    // Two of four were released by the one before, on node-1; the others go there too.
    let mut bench = Bench::new(2, 4);
    bench.desk.lead(false);
    bench.job("train", 4);
    for (at, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        bench.pod(name, "train");
        if at < 2 {
            let mut pod = bench.pods[name].clone();
            pod["spec"]["schedulingGates"] = json!([]);
            pod["status"]["nominatedNodeName"] = json!("node-1");
            bench.put(name, pod);
        }
    }
    bench.settle();
    bench.desk.lead(true);
    let placed = bench.settle();
    assert_eq!(placed, ["c", "d"].into_iter().map(|n| (n.to_owned(), "node-1".to_owned())).collect());
}

#[test]
fn stale_nominations_are_taken_away() {
    let mut bench = Bench::new(1, 1);
    bench.job("train", 2);
    bench.pod("a", "train");
    let mut pod = bench.pods["a"].clone();
    pod["status"]["nominatedNodeName"] = json!("node-0");
    bench.put("a", pod);
    bench.settle();
    assert!(bench.pods["a"]["status"]["nominatedNodeName"].is_null());
    assert_eq!(bench.desk.counts().cleared, 1);
}
