//! The judge of examples, on small made-up clusters.

use serde_json::json;

use super::*;

fn seen() -> Seen {
    let result = |device: &str, request: &str| {
        json!({"driver": "vnpu.dev", "pool": "n/ascend", "device": device, "request": request,
               "consumedCapacity": {"memory": "4096Mi", "cores": "10"}})
    };
    let claim = |name: &str, results: Vec<serde_json::Value>| {
        json!({"metadata": {"name": name}, "status": {"allocation": {"devices": {"results": results}},
               "reservedFor": [{"name": "two"}, {"name": "one"}]}})
    };
    let device = |name: &str, module: i64| json!({"name": name, "attributes": {"module": {"int": module}, "model": {"string": "910C"}}});
    Seen {
        pods: vec![json!({"metadata": {"name": "one"}, "status": {"phase": "Running",
            "resourceClaimStatuses": [{"name": "npu", "resourceClaimName": "one-npu-x"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "extended"}}})],
        claims: vec![
            claim("pair", vec![result("chip-0-0", "a"), result("chip-0-1", "b")]),
            claim("one-npu-x", vec![result("chip-0-0", "npu")]),
            claim("extended", vec![result("module-3", "r")]),
            claim("vanished", vec![result("chip-9-0", "r")]),
        ],
        slices: vec![json!({"spec": {"driver": "vnpu.dev", "pool": {"name": "n/ascend"},
            "devices": [device("chip-0-0", 0), device("chip-0-1", 0), device("module-3", 3)]}})],
    }
}

fn unmet(claims: &str) -> Vec<String> {
    let expectation: Expectation =
        serde_saphyr::from_str(&format!("{{pods: [], {claims}}}")).expect("an expectation");
    expectation.unmet(&seen())
}

#[test]
fn what_is_there_is_met() {
    let met = [
        r"claims: [{name: pair, devices: ['chip-\d-0', 'chip-.*'], modules: 1}]",
        "claims: [{name: pair, devices: ['chip-.*', 'chip-0-0'], requests: [b, a]}]",
        "claims: [{name: pair, devices: ['.*', '.*'], consumed: {memory: 4Gi, cores: '10'}}], sameDevice: false",
        "claims: [{pod: one, podClaim: npu, devices: [chip-0-0], reservedFor: [one, two]}], sameDevice: true",
        "claims: [{pod: one, extendedResource: true, devices: [module-3], attributes: {model: 910C}}]",
    ];
    for claims in met {
        assert_eq!(unmet(claims), Vec::<String>::new(), "{claims}");
    }
}

#[test]
fn every_difference_is_said() {
    let different = [
        ("claims: [{name: gone, devices: []}]", "there is no claim"),
        ("claims: [{name: pair, devices: ['chip-.*']}]", "expected devices"),
        ("claims: [{name: pair, devices: [chip-0-0, chip-0-0]}]", "expected devices"),
        ("claims: [{name: pair, devices: [chip, '.*']}]", "expected devices"),
        ("claims: [{name: pair, devices: ['.*', '.*'], modules: 2}]", "expected 2 modules"),
        ("claims: [{name: vanished, devices: ['.*'], modules: 1}]", "expected 1 modules"),
        ("claims: [{name: pair, devices: ['.*', '.*'], requests: [a, a]}]", "expected requests"),
        ("claims: [{name: pair, devices: ['.*', '.*'], reservedFor: [one]}]", "to be held by"),
        ("claims: [{name: pair, devices: ['.*', '.*'], consumed: {memory: 8Gi}}]", "expected memory 8Gi"),
        ("claims: [{name: pair, devices: ['.*', '.*'], consumed: {disk: 8Gi}}]", "expected disk 8Gi"),
        ("claims: [{name: pair, devices: ['.*', '.*'], attributes: {model: 910B}}]", "with model 910B"),
        ("claims: [{name: pair, devices: ['.*', '.*']}], sameDevice: true", "one device was expected"),
        (
            "claims: [{name: pair, devices: ['.*', '.*']}, {name: one-npu-x, devices: ['.*']}], sameDevice: false",
            "different devices were expected",
        ),
    ];
    for (claims, said) in different {
        let unmet = unmet(claims);
        assert!(unmet.iter().any(|sentence| sentence.contains(said)), "{claims}: {unmet:?}");
    }
}

#[test]
fn a_pod_that_ended_otherwise_is_lost_and_one_under_way_is_waited_for() {
    let pod =
        |phase| PodExpectation { name: "one".into(), phase, container: None, logs: vec!["^total 4$".into()] };
    assert_eq!(pod(Phase::Running).progress(&seen()), PodProgress::Reached);
    assert!(matches!(pod(Phase::Succeeded).progress(&seen()), PodProgress::Waiting(_)));
    let mut ended = seen();
    ended.pods = vec![json!({"metadata": {"name": "one"}, "status": {"phase": "Failed"}})];
    assert!(matches!(pod(Phase::Running).progress(&ended), PodProgress::Lost(_)));
    assert_eq!(pod(Phase::Running).missing_in("total 4").len(), 0);
    assert_eq!(pod(Phase::Running).missing_in("total 5").len(), 1);
}

#[test]
fn an_unknown_field_is_an_error() {
    assert!(serde_saphyr::from_str::<Expectation>("{pods: [], claims: [], sameDevices: true}").is_err());
}
