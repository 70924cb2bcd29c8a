use super::*;
use crate::fixtures::dual;
use crate::prepare::tests::{claim, plan_on, uid};

fn plan(results: &[&str]) -> PreparePlan {
    plan_on(&dual(1), &claim(&uid(1), results), &[]).unwrap()
}

fn attached_of(attachment: Attachment) -> (&'static str, &'static str) {
    let statuses = device_statuses(&plan(&["a chip-0-0 4Gi 10"]), |_| attachment, |_| Health::Healthy);
    (statuses[0].conditions[1].status.as_str(), statuses[0].conditions[1].reason)
}

#[test]
fn attached_has_three_values() {
    assert_eq!(attached_of(Attachment::Unknown), ("Unknown", "NoProcessSeen"));
    assert_eq!(attached_of(Attachment::Attached), ("True", "UnderQuota"));
    assert_eq!(attached_of(Attachment::Unattached), ("False", "OutsideQuota"));
}

#[test]
fn processes_without_a_slot_beside_attached_ones_are_told_with_what_became_of_them() {
    let mut plan = plan(&["a chip-0-0 4Gi 10"]);
    let attached = |plan: &PreparePlan| {
        let mut statuses = device_statuses(plan, |_| Attachment::Crowded, |_| Health::Healthy);
        let Condition { status, reason, message, .. } = statuses.remove(0).conditions.remove(1);
        (status, reason, message)
    };
    let (status, reason, message) = attached(&plan);
    assert_eq!((status, reason), (Truth::True, "NoFreeSlot"));
    assert!(message.contains("were refused device memory (onFailure: closed)"), "{message}");
    plan.shares.chips[0].on_failure = OnFailure::Open;
    let (status, reason, message) = attached(&plan);
    assert_eq!((status, reason), (Truth::True, "NoFreeSlot"));
    assert!(message.contains("were not limited (onFailure: open)"), "{message}");
}

#[test]
fn a_process_outside_the_quota_says_more_than_one_without_a_slot() {
    let of = |uuid: &DeviceUuid| match uuid.as_str() {
        "VDIE-0000-0" => Attachment::Unattached,
        _ => Attachment::Crowded,
    };
    let mut plan = plan(&["a chip-0-0 4Gi 10", "a chip-0-1 4Gi 10"]);
    let chips = plan.results[1].chips.clone();
    plan.results[0].chips.extend(chips);
    let statuses = device_statuses(&plan, of, |_| Health::Healthy);
    assert_eq!(statuses[0].conditions[1].reason, "OutsideQuota");
    assert_eq!(statuses[1].conditions[1].reason, "NoFreeSlot");
}

#[test]
fn devices_given_whole_have_no_attached_condition() {
    let statuses = device_statuses(&plan(&["a module-0"]), |_| Attachment::Unknown, |_| Health::Healthy);
    let kinds: Vec<&str> = statuses[0].conditions.iter().map(|c| c.kind).collect();
    assert_eq!(kinds, ["Ready"]);
}

#[test]
fn a_sick_chip_is_not_ready() {
    let sick = |_: &DeviceUuid| Health::fault("hbm", "HBM".repeat(1000));
    let statuses = device_statuses(&plan(&["a chip-0-0 4Gi 10"]), |_| Attachment::Unknown, sick);
    let ready = &statuses[0].conditions[0];
    assert_eq!((ready.status, ready.reason), (Truth::False, "Unhealthy"));
    assert!(ready.message.len() <= 1024);
}

#[test]
fn the_data_says_quota_and_chip() {
    let statuses =
        device_statuses(&plan(&["a chip-0-1 4Gi 10"]), |_| Attachment::Unknown, |_| Health::Healthy);
    insta::assert_snapshot!(statuses[0].data, @r#"{"chips":[{"card":0,"die":1,"physId":1,"quota":{"cores":10,"memory":"4Gi","mode":"hard","priority":5},"uuid":"VDIE-0000-1"}],"interposed":true}"#);
    let whole = device_statuses(&plan(&["a module-0"]), |_| Attachment::Unknown, |_| Health::Healthy);
    insta::assert_snapshot!(whole[0].data, @r#"{"chips":[{"card":0,"die":0,"physId":0,"uuid":"VDIE-0000-0"},{"card":0,"die":1,"physId":1,"uuid":"VDIE-0000-1"}],"interposed":false}"#);
    assert!(whole[0].data.to_string().len() < 10 * 1024);
}

#[test]
fn what_is_prepared_without_quota_says_whether_it_is_whole() {
    let message = |vendor: &str, device: &str| {
        let inventory =
            crate::hardware::Inventory { vendor: vendor.parse().unwrap(), ..crate::fixtures::single(1) };
        let plan = plan_on(&inventory, &claim(&uid(1), &[device]), &[]).unwrap();
        let mut statuses = device_statuses(&plan, |_| Attachment::Unknown, |_| Health::Healthy);
        statuses.remove(0).conditions.remove(0).message
    };
    assert!(message("acme", "a chip-0-0").ends_with("used whole"));
    assert!(
        message("acme", "a chip-0-0 4Gi 10")
            .ends_with("the share is counted, and programs are not held to it")
    );
    assert!(message("nvidia", "a chip-0-0 4Gi 10").contains("the quota is in force"));
}
