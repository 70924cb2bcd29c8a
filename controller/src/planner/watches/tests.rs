//! Kinds that a server may not have.

use serde_json::json;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::timeout;

use super::*;
use crate::testing::FakeApi;

const RULES: &str = "/apis/resource.k8s.io/v1/devicetaintrules";

async fn next(receiver: &mut Receiver<Told<Observed>>) -> Told<Observed> {
    timeout(Duration::from_secs(600), receiver.recv()).await.expect("something is told").expect("it goes on")
}

#[tokio::test(start_paused = true)]
async fn rules_that_are_not_served_hold_up_nothing_and_are_seen_once_they_are() {
    let api = FakeApi::new();
    let (sender, mut receiver) = mpsc::channel(16);
    let watching = tokio::spawn(taint_rules(api.client(), sender));
    assert!(matches!(next(&mut receiver).await, Told::Synced(TAINT_RULES)));
    let quiet = timeout(Duration::from_secs(299), receiver.recv()).await;
    assert!(quiet.is_err(), "it is told once: {quiet:?}");
    assert_eq!(api.count("GET"), 5, "asked once a minute");
    // The list, which the watch and the question for the kind both get.
    let rule = json!({"metadata": {"name": "r"}, "spec": {
        "deviceSelector": {"pool": "node-1/ascend"}, "taint": {"key": "k", "effect": "NoSchedule"}}});
    let dry = json!({"metadata": {"name": "dry"}, "spec": {
        "deviceSelector": {}, "taint": {"key": "k", "effect": "None"}}});
    api.put(
        RULES,
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceTaintRuleList", "metadata": {},
        "items": [rule, dry]}),
    );
    let Told::Change(Observed::Rule(seen)) = next(&mut receiver).await else { panic!() };
    assert_eq!((seen.name.as_str(), seen.pool.as_deref()), ("r", Some("node-1/ascend")));
    assert!(matches!(next(&mut receiver).await, Told::Synced(TAINT_RULES)), "and not the dry run");
    watching.abort();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_is_waited_for() {
    let api = FakeApi::new();
    api.break_paths(Some("devicetaintrules"));
    let (sender, mut receiver) = mpsc::channel(16);
    let watching = tokio::spawn(taint_rules(api.client(), sender));
    let quiet = timeout(Duration::from_secs(30), receiver.recv()).await;
    assert!(quiet.is_err(), "nothing is known of the rules: {quiet:?}");
    api.break_paths(None);
    assert!(matches!(next(&mut receiver).await, Told::Synced(TAINT_RULES)));
    watching.abort();
}
