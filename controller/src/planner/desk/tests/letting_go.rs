//! Pods that go without a place from the desk.

use serde_json::json;
use vnpu_driver::controller_config::{ControllerConfig, OnNoFit};

use super::super::*;
use super::bench::{Bench, object};
use crate::observe::claim;

#[test]
fn pods_that_are_not_ours_go_their_way() {
    let mut bench = Bench::new(1, 1);
    let spec = json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "other"}}]}});
    let spec = Arc::new(claim::spec(&object(spec)));
    bench.tell(Change::Template(("bank".to_owned(), "module".to_owned()), spec));
    bench.pod("foreign", "");
    assert_eq!(bench.settle(), BTreeMap::from([("foreign".to_owned(), "not_ours".to_owned())]));
}

#[test]
fn pods_whose_claims_stay_unknown_go_after_half_a_minute() {
    let mut bench = Bench::new(1, 1);
    bench.tell(Change::TemplateGone(("bank".to_owned(), "module".to_owned())));
    bench.pod("lost", "");
    assert!(bench.settle().is_empty());
    bench.later(29);
    assert!(bench.settle().is_empty());
    bench.later(2);
    assert_eq!(bench.settle(), BTreeMap::from([("lost".to_owned(), "unknown_claims".to_owned())]));
}

#[test]
fn mode_none_is_let_go() {
    let mut bench = Bench::new(1, 1);
    bench.pod_with("free", "", json!({"vnpu.dev/placement": "none"}));
    assert_eq!(bench.settle(), BTreeMap::from([("free".to_owned(), "not_wanted".to_owned())]));
}

#[test]
fn what_fits_nowhere_is_let_go_after_its_patience_where_that_is_wanted() {
    let mut bench = Bench::new(1, 1);
    let mut config = ControllerConfig::default();
    config.placement.on_no_fit = OnNoFit::Release;
    bench.desk.set_settings(Settings::of(&config), Config::default());
    bench.job("big", 2);
    for name in ["a", "b"] {
        bench.pod_with(name, "big", json!({"vnpu.dev/patience": "60s"}));
    }
    assert!(bench.settle().is_empty());
    bench.later(59);
    assert!(bench.settle().is_empty());
    bench.later(2);
    let gone = bench.settle();
    assert_eq!(gone.values().collect::<BTreeSet<_>>(), BTreeSet::from([&"no_fit".to_owned()]));
    assert_eq!(gone.len(), 2);
}
