//! What is planned together, and when.

use super::bench::{Bench, nodes_of};

#[test]
fn a_job_is_planned_when_all_its_pods_are_there() {
    let mut bench = Bench::new(4, 4);
    bench.job("train", 3);
    bench.pod("a", "train");
    bench.pod("b", "train");
    assert!(bench.settle().is_empty());
    bench.pod("c", "train");
    let placed = bench.settle();
    assert_eq!((placed.len(), nodes_of(&placed).len()), (3, 1), "{placed:?}");
    assert!(bench.told("Planned"));
}

#[test]
fn a_batch_that_does_not_fit_waits_whole() {
    let mut bench = Bench::new(1, 4);
    bench.job("big", 5);
    for name in ["a", "b", "c", "d", "e"] {
        bench.pod(name, "big");
    }
    assert!(bench.settle().is_empty());
    assert!(bench.told("NeverFits"), "{:?}", bench.told);
    bench.add_node(1, 4);
    assert_eq!(bench.settle().len(), 5);
}

#[test]
fn a_lone_pod_is_planned_at_once() {
    let mut bench = Bench::new(2, 2);
    bench.pod("alone", "");
    assert_eq!(bench.settle().len(), 1);
}
