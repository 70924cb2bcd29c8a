use proptest::prelude::*;

use super::*;
use crate::fixtures::{Around, any_inventory, dual, gpus, inventory, partition, single};
use crate::hardware::{MultiDiePolicy, Vendor};

fn node() -> NodeName {
    NodeName::new("node-1").unwrap()
}

fn pool(inventory: &Inventory) -> PoolName {
    PoolName::of(&node(), inventory.vendor).unwrap()
}

/// What the stream tells of a pool, given what claims hold of it.
fn told(inventory: &Inventory, around: &Around, doubt: Option<&str>) -> Vec<DeviceHealth> {
    let (in_use, vanished) = (&around.in_use, around.vanished.as_slice());
    let input = PoolInput { node: &node(), inventory, in_use, vanished };
    let devices = published_devices(&input).unwrap();
    device_health(&pool(inventory), devices, &chip_health(inventory, vanished, doubt))
}

/// As text: `chip-0-0 Healthy`, `chip-0-1 Unhealthy: chip-0-1: ...`.
fn lines(told: &[DeviceHealth]) -> Vec<String> {
    let line = |d: &DeviceHealth| match d.message.as_str() {
        "" => format!("{} {:?}", d.device, d.state),
        message => format!("{} {:?}: {message}", d.device, d.state),
    };
    told.iter().map(line).collect()
}

fn with(mut inventory: Inventory, chip: usize, health: Health) -> Inventory {
    inventory.chips[chip].health = health;
    inventory
}

fn broken() -> Health {
    Health::fault("alarm-3", "alarm level 3")
}

fn silent() -> Health {
    Health::Unknown("no answer".to_owned())
}

#[test]
fn every_published_device_of_healthy_chips_is_healthy_and_in_its_vendors_pool() {
    let all = told(&dual(2), &Around::default(), None);
    assert_eq!(
        lines(&all),
        [
            "module-0 Healthy",
            "chip-0-0 Healthy",
            "chip-0-1 Healthy",
            "module-1 Healthy",
            "chip-1-0 Healthy",
            "chip-1-1 Healthy"
        ]
    );
    assert!(all.iter().all(|d| d.pool.as_str() == "node-1/ascend"));
    let gpus = told(&gpus(vec![partition(0, 1), partition(0, 2)]), &Around::default(), None);
    assert_eq!(lines(&gpus), ["partition-0-1-0 Healthy", "partition-0-2-0 Healthy"]);
    assert!(gpus.iter().all(|d| d.pool.as_str() == "node-1/nvidia"));
    assert!(told(&inventory(Vec::new()), &Around::default(), None).is_empty());
}

#[test]
fn a_module_is_as_its_worse_die_which_is_named_and_the_mate_alone_is_healthy() {
    let sick = with(dual(1), 1, broken());
    assert_eq!(
        lines(&told(&sick, &Around::default(), None)),
        [
            "module-0 Unhealthy: chip-0-1: alarm level 3",
            "chip-0-0 Healthy",
            "chip-0-1 Unhealthy: chip-0-1: alarm level 3"
        ]
    );
    let both = with(sick.clone(), 0, silent());
    assert_eq!(
        lines(&told(&both, &Around::default(), None)),
        [
            "module-0 Unhealthy: chip-0-0: no answer; chip-0-1: alarm level 3",
            "chip-0-0 Unknown: chip-0-0: no answer",
            "chip-0-1 Unhealthy: chip-0-1: alarm level 3"
        ]
    );
    let turned = with(with(dual(1), 0, broken()), 1, silent());
    assert_eq!(
        lines(&told(&turned, &Around::default(), None))[0],
        "module-0 Unhealthy: chip-0-0: alarm level 3; chip-0-1: no answer"
    );
    let same = with(sick, 0, broken());
    assert_eq!(
        lines(&told(&same, &Around::default(), None))[0],
        "module-0 Unhealthy: chip-0-0 and chip-0-1: alarm level 3"
    );
    let unknown = with(dual(1), 0, silent());
    assert_eq!(
        lines(&told(&unknown, &Around::default(), None)),
        [
            "module-0 Unknown: chip-0-0: no answer",
            "chip-0-0 Unknown: chip-0-0: no answer",
            "chip-0-1 Healthy"
        ]
    );
}

#[test]
fn a_device_that_is_held_and_whose_chip_is_gone_is_unhealthy_until_it_is_given_back() {
    let mut now = dual(1);
    let gone = now.chips.remove(1);
    let around = Around { vanished: vec![gone.clone()], ..Around::using(&["module-0"]) };
    assert_eq!(
        lines(&told(&now, &around, None)),
        ["module-0 Unhealthy: chip-0-1: it is not there any more", "chip-0-0 Healthy"]
    );
    let around = Around { vanished: vec![gone], ..Around::using(&["chip-0-1"]) };
    assert_eq!(
        lines(&told(&now, &around, None)),
        ["chip-0-0 Healthy", "chip-0-1 Unhealthy: chip-0-1: it is not there any more"]
    );
    assert_eq!(lines(&told(&now, &Around::default(), None)), ["chip-0-0 Healthy"]);
}

#[test]
fn a_chip_that_another_one_replaced_is_gone_for_those_who_hold_it() {
    let before = single(2);
    let mut now = before.clone();
    now.chips[0].uuid = crate::id::DeviceUuid::new("ANOTHER").unwrap();
    let around = Around { vanished: vec![before.chips[0].clone()], ..Around::using(&["chip-0-0"]) };
    assert_eq!(
        lines(&told(&now, &around, None)),
        [
            "chip-0-0 Unhealthy: chip-0-0: it is not there any more, another chip has its place",
            "chip-1-0 Healthy"
        ]
    );
}

#[test]
fn chips_that_are_never_given_out_singly_are_told_only_while_somebody_holds_one() {
    let union = Inventory { multi_die_policy: MultiDiePolicy::Union, ..dual(1) };
    assert_eq!(lines(&told(&union, &Around::default(), None)), ["module-0 Healthy"]);
    let held = told(&union, &Around::using(&["chip-0-1"]), None);
    assert_eq!(lines(&held), ["module-0 Healthy", "chip-0-1 Healthy"]);
}

#[test]
fn nothing_good_is_believed_of_a_library_that_does_not_answer_any_more() {
    let now = with(with(dual(1), 1, broken()), 0, silent());
    assert_eq!(
        lines(&told(&now, &Around::default(), Some("it hangs"))),
        [
            "module-0 Unhealthy: chip-0-0: it hangs; chip-0-1: alarm level 3",
            "chip-0-0 Unknown: chip-0-0: it hangs",
            "chip-0-1 Unhealthy: chip-0-1: alarm level 3"
        ]
    );
    assert_eq!(
        lines(&told(&dual(1), &Around::default(), Some("it hangs")))[0],
        "module-0 Unknown: chip-0-0 and chip-0-1: it hangs"
    );
}

#[test]
fn what_claims_hold_of_hardware_that_was_never_seen_is_unknown() {
    let held: Vec<DeviceName> = ["module-3", "partition-0-1-0"].map(|n| n.parse().unwrap()).into();
    let pool = PoolName::of(&node(), Vendor::Nvidia).unwrap();
    let told = device_health(&pool, held.clone(), &unknown_chips(held, "it hangs"));
    assert_eq!(
        lines(&told),
        [
            "module-3 Unknown: chip-3-0 and chip-3-1: it hangs",
            "partition-0-1-0 Unknown: partition-0-1-0: it hangs"
        ]
    );
    assert!(told.iter().all(|d| d.pool == pool));
}

#[test]
fn a_message_has_no_more_bytes_than_the_kubelet_shows_and_is_cut_between_characters() {
    let message = |what: String| {
        let sick = with(single(1), 0, Health::fault("what", what));
        told(&sick, &Around::default(), None).remove(0).message
    };
    let room = LONGEST_MESSAGE - "chip-0-0: ".len();
    assert_eq!(message("x".repeat(room)), format!("chip-0-0: {}", "x".repeat(room)));
    let cut = message("x".repeat(room + 1));
    assert_eq!(cut, format!("chip-0-0: {}...", "x".repeat(room - 3)));
    for before in 0..4 {
        let long = format!("{}{}", "x".repeat(before), "芯".repeat(400));
        let cut = message(long.clone());
        assert!((LONGEST_MESSAGE - 3..=LONGEST_MESSAGE).contains(&cut.len()), "{}", cut.len());
        let kept = cut.strip_prefix("chip-0-0: ").unwrap().strip_suffix("...").unwrap();
        assert!(long.starts_with(kept));
    }
}

proptest! {
    #[test]
    fn what_is_told_is_what_is_published_each_device_once(
        inventory in any_inventory(),
        sick in any::<proptest::sample::Index>(),
    ) {
        let mut now = inventory;
        let mut around = Around::default();
        if !now.chips.is_empty() {
            let one = sick.index(now.chips.len());
            now.chips[one].health = broken();
            let gone = now.chips.remove(sick.index(now.chips.len()) / 2);
            around.in_use.insert(gone.name());
            around.vanished.push(gone);
        }
        let told = told(&now, &around, None);
        let plan = around.plan(&now);
        let published: Vec<DeviceName> = plan.devices().map(|d| d.name).collect();
        prop_assert_eq!(told.iter().map(|d| d.device).collect::<Vec<_>>(), published);
        for device in &told {
            prop_assert_eq!(&device.pool, &plan.pool);
            prop_assert_eq!(device.state == DeviceState::Healthy, device.message.is_empty());
        }
        // A device that is tainted as absent is unhealthy.
        for device in plan.devices().filter(|d| !d.taints.is_empty()) {
            let of = told.iter().find(|t| t.device == device.name).unwrap();
            prop_assert_eq!(of.state, DeviceState::Unhealthy);
        }
    }
}
