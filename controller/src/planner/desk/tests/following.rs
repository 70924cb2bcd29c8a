//! From the plan to the node: what comes of a pod that was given a place.

use super::super::*;
use super::bench::{Bench, object};
use crate::observe::pod;

#[test]
fn a_released_pod_takes_its_place_until_it_is_bound() {
    let mut bench = Bench::new(1, 1);
    bench.pod("first", "");
    assert_eq!(bench.settle().len(), 1);
    bench.pod("second", "");
    assert!(bench.settle().is_empty(), "the only module is promised");
    bench.tell(Change::PodGone("first".to_owned()));
    assert_eq!(bench.settle().len(), 1);
}

#[test]
fn answers_that_are_older_than_what_was_seen_are_passed_over() {
    let mut bench = Bench::new(1, 2);
    bench.pod("a", "");
    let gated = pod::read(&object(bench.pods["a"].clone())).unwrap();
    assert_eq!(bench.settle().len(), 1);
    bench.tell(Change::Echo(Arc::new(gated.clone())));
    assert!(bench.settle().is_empty());
    bench.tell(Change::PodGone("a".to_owned()));
    bench.tell(Change::Echo(Arc::new(gated)));
    assert!(bench.settle().is_empty());
}

#[test]
fn patches_that_are_refused_are_not_tried_in_a_loop_and_at_last_without_affinity() {
    let mut bench = Bench::new(1, 1);
    bench.refuses = true;
    bench.pod("a", "");
    let mut plans = 0;
    while plans < 10 && bench.settle().is_empty() {
        plans += 1;
        bench.later(1);
    }
    // After pauses of 2 s and 4 s and 8 s, each in steps of one second.
    assert!((6..=15).contains(&plans) || plans == 10, "{plans}");
    bench.later(20);
    assert!(plans < 10 || bench.settle().len() == 1);
    assert_eq!(bench.desk.counts().planned, 4);
}
