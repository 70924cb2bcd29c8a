//! The Ascend backend over a real shared library: `libdcmi.so` in front of a simulated machine that changes,
//! fails and hangs while it is looked at.
// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod machine;

use std::time::Duration;

use machine::Node;
use standin_protocol::{DeviceShare, Fault, Machine, MultiDiePolicy as Policy, SuperPod};
use vnpu_discovery::ascend::{Ascend, AscendOptions};
use vnpu_discovery::{Backend, DiscoveryError, VendorLibrary};
use vnpu_driver::hardware::{Health, Inventory, MultiDiePolicy, ProcessView};
use vnpu_driver::id::NodeName;
use vnpu_driver::planner::{NodeLabels, PlanInput, plan_pool};
use vnpu_driver::quantity::Bytes;
use vnpu_driver::slices::PoolPlan;

fn names(inventory: &Inventory) -> Vec<String> {
    inventory.chips.iter().map(|chip| chip.name().to_string()).collect()
}

fn fault(function: &str, card: i32, device: i32) -> Fault {
    Fault { function: function.to_owned(), card: Some(card), device: Some(device), error: 0, hang: false }
}

#[test]
fn what_hardly_ever_changes_is_believed_and_health_is_not() {
    let mut machine = Machine::ascend_910c(2, 1024);
    let node = Node::start(&machine);
    let patient = AscendOptions { believed: Duration::from_secs(3600), ..node.options() };
    let (patient, thorough) = (Ascend::new(patient), node.ascend());
    let before = patient.discover().unwrap();
    machine.cards[1].dies[0].health = 3;
    machine.cards[1].dies[0].memory_mib = 2048;
    node.change(&machine);
    let sick = |inventory: &Inventory| inventory.chips[2].health != Health::Healthy;
    let now = node.until(&patient, sick);
    assert_eq!(now.chips[2].memory, before.chips[2].memory, "it was asked for");
    assert_eq!(node.until(&thorough, sick).chips[2].memory, Bytes(2048 << 20));
    // After a call that failed everything is asked.
    machine.faults = vec![Fault {
        function: "dcmi_get_device_health".to_owned(),
        card: Some(0),
        device: Some(0),
        error: -8005,
        hang: false,
    }];
    node.change(&machine);
    node.until(&patient, |inventory| inventory.chips[2].memory != before.chips[2].memory);
}

#[test]
fn a_910c_node_is_seen_as_its_hardware_is() {
    let mut machine = Machine::ascend_910c(2, 65536);
    machine.super_pod = Some(SuperPod { id: 9, server: 1, scale: 768 });
    machine.driver_version = "25.2.0".to_owned();
    let node = Node::start(&machine);
    let inventory = node.ascend().discover().unwrap();
    assert_eq!(names(&inventory), ["chip-0-0", "chip-0-1", "chip-1-0", "chip-1-1"]);
    assert_eq!(inventory.problems, []);
    assert_eq!(inventory.driver_version, "25.2.0");
    assert_eq!(inventory.superpod, Some(9));
    assert_eq!(inventory.multi_die_policy, MultiDiePolicy::Independent);
    for ((card, die), chip) in machine.dies().zip(&inventory.chips) {
        let words: Vec<String> = die.vdie.iter().map(|word| format!("{word:08X}")).collect();
        assert_eq!(chip.uuid.as_str(), words.join("-"));
        assert_eq!(chip.module, Some(card.id as u32));
        assert_eq!(chip.phys_id, die.phys_id);
        assert_eq!(chip.memory, Bytes::gib(64));
        assert_eq!(chip.pci.map(|pci| pci.to_string()), die.pci);
        assert_eq!((chip.model.as_str(), &chip.health), ("910C", &Health::Healthy));
    }
}

#[test]
fn a_910b_node_has_chips_without_modules() {
    let mut machine = Machine::ascend_910b(8, 32768);
    machine.multi_die_policy = Policy::Unsupported;
    let inventory = Node::start(&machine).ascend().discover().unwrap();
    assert_eq!(inventory.chips.len(), 8);
    assert!(
        inventory.chips.iter().all(|chip| chip.module.is_none() && chip.die == 0 && chip.model == "910B3")
    );
    assert_eq!(inventory.chips[0].product_name, "Ascend910B3");
    assert_eq!(inventory.superpod, None);
}

#[test]
fn the_rings_of_a_910b_node_are_link_groups() {
    let mut machine = Machine::ascend_910b(8, 65536);
    for (place, card) in machine.cards.iter_mut().enumerate() {
        card.dies[0].hccs = [Some(0), Some(1), None][if place == 7 { 2 } else { place / 4 }];
    }
    let node = Node::start(&machine);
    let ascend = node.ascend();
    let inventory = ascend.discover().unwrap();
    let group = |chip: usize| inventory.chips[chip].traits.link_group.as_str();
    assert_eq!([0, 1, 2, 3].map(group), [inventory.chips[0].uuid.as_str(); 4]);
    assert_eq!([4, 5, 6].map(group), [inventory.chips[4].uuid.as_str(); 3]);
    assert_eq!(group(7), "");
    // As the whole of a 910C node, over its switches.
    let inventory = Node::start(&Machine::ascend_910c(8, 65536)).ascend().discover().unwrap();
    let first = inventory.chips[0].uuid.as_str();
    assert!(inventory.chips.iter().all(|chip| chip.traits.link_group == first));
}

#[test]
fn a_310p_duo_card_is_two_chips_and_no_module() {
    let inventory = Node::start(&Machine::ascend_310p_duo(2, 44_280)).ascend().discover().unwrap();
    assert_eq!(names(&inventory), ["chip-0-0", "chip-0-1", "chip-1-0", "chip-1-1"]);
    assert_eq!(inventory.problems, []);
    assert_eq!(inventory.multi_die_policy, MultiDiePolicy::Independent);
    for chip in &inventory.chips {
        assert_eq!((chip.module, chip.model.as_str(), chip.memory), (None, "310P3", Bytes(44_280 << 20)));
        assert_eq!((chip.product_name.as_str(), chip.traits.link_group.as_str()), ("Ascend310P3", ""));
    }
    assert_eq!(devices(&planned(&inventory)), ["chip-0-0", "chip-0-1", "chip-1-0", "chip-1-1"]);
}

fn planned(inventory: &Inventory) -> PoolPlan {
    plan_pool(&PlanInput {
        node: &NodeName::new("node-1").unwrap(),
        inventory,
        labels: &NodeLabels::default(),
        in_use: &Default::default(),
        vanished: &[],
        sick: &Default::default(),
        order: &Default::default(),
    })
    .unwrap()
}

fn devices(plan: &PoolPlan) -> Vec<String> {
    plan.devices().map(|device| device.name.to_string()).collect()
}

#[test]
fn an_a3_node_publishes_modules_and_chips_or_modules_only_as_its_policy_says() {
    let mut machine = Machine::ascend_910c(2, 65536);
    machine.super_pod = Some(SuperPod { id: 9, server: 1, scale: 768 });
    let node = Node::start(&machine);
    let ascend = node.ascend();
    let plan = planned(&ascend.discover().unwrap());
    let mut both = devices(&plan);
    both.sort();
    assert_eq!(both, ["chip-0-0", "chip-0-1", "chip-1-0", "chip-1-1", "module-0", "module-1"]);
    machine.multi_die_policy = Policy::Union;
    node.change(&machine);
    let inventory = node.until(&ascend, |inventory| inventory.multi_die_policy == MultiDiePolicy::Union);
    let plan = planned(&inventory);
    assert_eq!(devices(&plan), ["module-0", "module-1"]);
    let pod = plan.devices().map(|device| format!("{:?}", device.attributes["superpod"]));
    assert_eq!(pod.collect::<Vec<_>>(), ["Str(\"9\")", "Str(\"9\")"]);
}

#[test]
fn a_chip_whose_share_switch_is_off_is_published_whole_only_until_it_is_on() {
    let mut machine = Machine::ascend_910c(1, 65536);
    machine.cards[0].dies[0].device_share = DeviceShare::Off;
    machine.cards[0].dies[1].device_share = DeviceShare::Unsupported;
    let node = Node::start(&machine);
    let ascend = node.ascend();
    let inventory = ascend.discover().unwrap();
    let reasons: Vec<_> = inventory.problems.iter().map(|p| (&*p.object, &*p.reason)).collect();
    assert_eq!(reasons, [("card 0 die 0", "whole_only"), ("card 0 die 1", "whole_only")]);
    let plan = planned(&inventory);
    for device in plan.devices().filter(|device| device.name.to_string().starts_with("chip")) {
        assert!(!device.allow_multiple_allocations);
        assert_eq!(format!("{:?}", device.attributes["shareable"]), "Bool(false)");
    }
    for die in &mut machine.cards[0].dies {
        die.device_share = DeviceShare::On;
    }
    node.change(&machine);
    let inventory = node.until(&ascend, |inventory| inventory.problems.is_empty());
    assert!(inventory.chips.iter().all(|chip| chip.traits.whole_only.is_none()));
}

#[test]
fn dies_vanish_return_and_are_renumbered_while_it_runs() {
    let whole = Machine::ascend_910c(2, 65536);
    let node = Node::start(&whole);
    let ascend = node.ascend();
    let before = ascend.discover().unwrap();

    let mut less = whole.clone();
    less.cards[0].dies.remove(0);
    node.change(&less);
    // A pass during the change sees some of both.
    let left = ["chip-0-1", "chip-1-0", "chip-1-1"];
    let inventory = node.until(&ascend, |inventory| names(inventory) == left);
    assert_eq!(inventory.chips, before.chips[1..]);

    let mut renumbered = whole.clone();
    for card in &mut renumbered.cards {
        for die in &mut card.dies {
            die.phys_id = 3 - die.phys_id;
        }
    }
    node.change(&renumbered);
    let inventory =
        node.until(&ascend, |inventory| inventory.chips.first().is_some_and(|chip| chip.phys_id == 3));
    for (old, new) in before.chips.iter().zip(&inventory.chips) {
        assert_eq!((&old.uuid, old.module, old.name()), (&new.uuid, new.module, new.name()));
        assert_eq!(new.phys_id, 3 - old.phys_id);
    }
}

#[test]
fn calls_that_fail_and_hang_are_their_dies_matter() {
    let mut machine = Machine::ascend_910c(2, 65536);
    let node = Node::start(&machine);
    let ascend = node.impatient();
    let before = ascend.discover().unwrap();
    machine.faults = vec![
        Fault { error: -8005, ..fault("dcmi_get_device_board_info", 0, 0) },
        Fault { error: -8005, ..fault("dcmi_get_device_hbm_info", 1, 0) },
        Fault { hang: true, ..fault("dcmi_get_device_health", 1, 1) },
    ];
    node.change(&machine);
    let unknown =
        |inventory: &Inventory, chip: usize| matches!(inventory.chips[chip].health, Health::Unknown(_));
    let inventory = node.until(&ascend, |inventory| unknown(inventory, 0) && unknown(inventory, 3));
    assert_eq!(names(&inventory), names(&before));
    assert_eq!(inventory.problems.len(), 1);
    assert_eq!(inventory.problems[0].object, "card 0 die 0");
    // The other memory call answers for the failing one.
    assert_eq!(inventory.chips[2], before.chips[2]);
    machine.faults.clear();
    node.change(&machine);
    node.until(&ascend, |inventory| inventory.chips.iter().all(|chip| chip.health == Health::Healthy));
}

#[test]
fn two_dies_with_one_identity_are_named() {
    let mut machine = Machine::ascend_910c(2, 65536);
    machine.cards[1].dies[0].vdie = machine.cards[0].dies[0].vdie;
    machine.cards[1].dies[1].vdie = [0; 5];
    let inventory = Node::start(&machine).ascend().discover().unwrap();
    assert_eq!(names(&inventory), ["chip-0-1"]);
    let reasons: Vec<_> = inventory.problems.iter().map(|problem| problem.reason.as_str()).collect();
    assert_eq!(reasons, ["missing_uuid", "duplicate_uuid"]);
}

#[test]
fn the_policy_union_is_told() {
    let mut machine = Machine::ascend_910c(1, 65536);
    machine.multi_die_policy = Policy::Union;
    assert_eq!(Node::start(&machine).ascend().discover().unwrap().multi_die_policy, MultiDiePolicy::Union);
}

#[test]
fn a_driver_that_comes_later_is_found() {
    let root = tempfile::tempdir().unwrap();
    let ascend =
        Ascend::new(AscendOptions { driver_root: root.path().to_owned(), ..AscendOptions::default() });
    let error = ascend.discover().unwrap_err();
    assert_eq!((error.reason(), error.retryable()), ("library_missing", true));

    machine::install_dcmi(root.path());
    let error = ascend.discover().unwrap_err();
    let library = VendorLibrary::Dcmi;
    assert_eq!(error, DiscoveryError::Call { library, function: "dcmi_init", code: -8005 });

    let node = Node::start_in(root, &Machine::ascend_910c(1, 65536));
    assert_eq!(ascend.discover().unwrap().chips.len(), 2);
    assert_eq!(ascend.library().unwrap(), node.root().join("usr/local/dcmi/libdcmi.so"));
}

#[test]
fn a_library_that_is_too_old_or_none_is_a_clear_error() {
    let root = tempfile::tempdir().unwrap();
    let old = machine::compile(root.path(), "libdcmi.so", "int dcmi_init(void) { return 0; }");
    let options = AscendOptions { dcmi_library: Some(old.clone()), ..AscendOptions::default() };
    let error = Ascend::new(options).discover().unwrap_err();
    let DiscoveryError::LibraryTooOld { path, missing, .. } = &error else { panic!("{error}") };
    assert_eq!(path, &old);
    assert!(missing.contains(&"dcmi_get_device_die_v2") && !missing.contains(&"dcmi_init"));
    assert!(error.to_string().contains("dcmi_get_card_list"), "{error}");

    let text = root.path().join("text.so");
    std::fs::write(&text, "no library").unwrap();
    let options = AscendOptions { dcmi_library: Some(text), ..AscendOptions::default() };
    assert_eq!(Ascend::new(options).discover().unwrap_err().reason(), "library_broken");
}

#[test]
fn a_driver_that_hangs_at_the_start_holds_nobody_up() {
    let mut machine = Machine::ascend_910c(1, 65536);
    machine.faults =
        vec![Fault { function: "dcmi_init".to_owned(), card: None, device: None, error: 0, hang: true }];
    let node = Node::start(&machine);
    let ascend = node.impatient();
    for _ in 0..3 {
        assert_eq!(ascend.discover().unwrap_err(), DiscoveryError::Hanging { function: "dcmi_init" });
    }
    machine.faults.clear();
    node.change(&machine);
    assert_eq!(node.until(&ascend, |_| true).chips.len(), 2);
}

#[test]
fn processes_on_a_chip_are_seen_with_their_bytes_until_they_die() {
    let node = Node::start(&Machine::ascend_910c(1, 65536));
    let ascend = node.ascend();
    let chips = ascend.discover().unwrap().chips;
    assert_eq!(ascend.processes(&chips[1]).unwrap(), []);
    let mut holder = node.hold(1, 3 << 30);
    let seen = node.wait(|| ascend.processes(&chips[1]).ok().filter(|list| !list.is_empty()));
    assert_eq!((seen[0].pid, seen[0].bytes), (holder.id(), Bytes::gib(3)));
    assert_eq!(ascend.processes(&chips[0]).unwrap(), []);
    holder.kill().unwrap();
    holder.wait().unwrap();
    node.wait(|| ascend.processes(&chips[1]).ok().filter(Vec::is_empty));
}

#[test]
fn a_full_node_is_read_well_within_a_deadline() {
    let node = Node::start(&Machine::ascend_910c(64, 65536));
    let options = AscendOptions { deadline: Duration::from_secs(30), ..node.options() };
    assert_eq!(Ascend::new(options).discover().unwrap().chips.len(), 128);
}

#[test]
fn a_backend_that_goes_leaves_its_library_to_the_threads_that_used_it() {
    let node = Node::start(&Machine::ascend_910b(1, 65536));
    let ascend = node.ascend();
    ascend.discover().unwrap();
    let library = ascend.library().unwrap();
    drop(ascend);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(maps.lines().any(|line| line.ends_with(library.to_str().unwrap())), "{}", library.display());
}
