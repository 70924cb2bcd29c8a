use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::fixtures::{owner, plan, plan_with};
use crate::slice::resource_slices;

fn devices(plan: &vnpu_driver::slices::PoolPlan) -> api::ResourceSlice {
    resource_slices(plan, &owner(), 1).pop().unwrap()
}

#[test]
fn what_the_server_adds_and_respells_is_no_difference() {
    let ours = devices(&plan_with(1, &["chip-0-0"], &[]));
    let mut theirs = ours.clone();
    theirs.metadata.name = Some("40000-vnpu.dev-node-1-abcde".to_owned());
    theirs.metadata.resource_version = Some("42".to_owned());
    theirs.spec.pool.generation = 9;
    theirs.spec.all_nodes = Some(false);
    for device in theirs.spec.devices.iter_mut().flatten() {
        device.binding_conditions = Some(Vec::new());
        if device.allow_multiple_allocations.is_none() {
            device.allow_multiple_allocations = Some(false);
        }
        for capacity in device.capacity.as_mut().unwrap().values_mut() {
            if capacity.value.0 == "64Gi" {
                capacity.value.0 = "65536Mi".to_owned();
            }
        }
        for taint in device.taints.iter_mut().flatten() {
            taint.time_added = Some(Time(Timestamp::UNIX_EPOCH));
        }
    }
    assert_ne!(ours, theirs);
    assert!(same_content(&ours, &theirs));
    assert!(dropped_fields(&ours, &theirs).is_empty());
}

#[test]
fn every_change_of_content_is_a_difference() {
    let ours = devices(&plan(2));
    let change = |change: fn(&mut api::Device)| {
        let mut theirs = ours.clone();
        change(&mut theirs.spec.devices.as_mut().unwrap()[1]);
        !same_content(&ours, &theirs)
    };
    assert!(change(|d| d.name = "chip-7-7".to_owned()));
    assert!(change(|d| d.allow_multiple_allocations = None));
    assert!(change(|d| d.consumes_counters = None));
    assert!(
        change(|d| d.attributes.as_mut().unwrap().get_mut("leaf").unwrap().string = Some("x".to_owned()))
    );
    assert!(change(|d| d.capacity.as_mut().unwrap().get_mut("cores").unwrap().value.0 = "99".to_owned()));
    assert!(change(|d| d.capacity.as_mut().unwrap().get_mut("cores").unwrap().request_policy = None));
    let mut turned = ours.clone();
    turned.spec.devices.as_mut().unwrap().rotate_left(3);
    assert!(!same_content(&ours, &turned), "order is priority");
    assert!(!same_content(&ours, &devices(&plan_with(2, &["chip-1-0"], &[]))));
}

#[test]
fn what_a_server_without_a_feature_drops_is_named() {
    let dropped = |change: fn(&mut api::Device)| {
        let sent = devices(&plan_with(1, &["chip-0-0"], &[]));
        let mut back = sent.clone();
        back.spec.devices.iter_mut().flatten().for_each(change);
        dropped_fields(&sent, &back).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(dropped(|d| d.consumes_counters = None), [Lacking::Counters]);
    assert_eq!(dropped(|d| d.allow_multiple_allocations = None), [Lacking::Sharing]);
    assert_eq!(
        dropped(|d| d.capacity.iter_mut().flatten().for_each(|(_, c)| c.request_policy = None)),
        [Lacking::Sharing]
    );
    assert_eq!(dropped(|d| d.taints = None), [Lacking::Taints]);
    let sent = resource_slices(&plan(1), &owner(), 1).remove(0);
    let mut back = sent.clone();
    back.spec.shared_counters = None;
    assert_eq!(dropped_fields(&sent, &back), BTreeSet::from([Lacking::Counters]));
}
