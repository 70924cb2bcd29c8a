//! What differs between generations: HCCS rings, cards of two chips, the device-share switch.

use vnpu_driver::hardware::{Health, Inventory, MultiDiePolicy};
use vnpu_driver::quantity::Bytes;

use super::fake::{Fake, die_of, slot};
use super::passes::{Node, names, reasons};
use crate::ascend::dcmi::Refusal;

/// `cards` 910B chips.
fn cards(cards: i32) -> Node {
    Node::new(Fake::new((0..cards).map(|card| (slot(card, 0), die_of(card, 0, 1, 0x33)))))
}

fn ring(node: &Node, card: i32, ring: Option<u32>) {
    node.fake.change(|table| table.dies.get_mut(&slot(card, 0)).unwrap().ring = ring);
}

fn groups(inventory: &Inventory) -> Vec<&str> {
    inventory.chips.iter().map(|chip| chip.traits.link_group.as_str()).collect()
}

fn asked(node: &Node) -> usize {
    let mut asked = 0;
    node.fake.change(|table| asked = std::mem::take(&mut table.connections));
    asked
}

#[test]
fn rings_are_groups_named_after_their_smallest_uuid_and_asked_about_once() {
    let mut node = cards(8);
    for card in [1, 3, 5, 6] {
        ring(&node, card, Some(1));
    }
    ring(&node, 7, Some(2));
    let inventory = node.scan();
    let uuid = |card: usize| inventory.chips[card].uuid.as_str();
    let (first, second) = (uuid(0), uuid(1));
    assert_eq!(groups(&inventory), [first, second, first, second, first, second, second, ""]);
    assert!(asked(&node) > 0);
    assert_eq!(groups(&node.scan()), groups(&inventory));
    assert_eq!(asked(&node), 0, "the dies are the same");
    // Other dies: asked again, and the group keeps its name although who gave it is gone.
    node.fake.change(|table| {
        table.dies.remove(&slot(0, 0));
    });
    let less = node.scan();
    assert_eq!(groups(&less), groups(&inventory)[1..]);
    assert!(asked(&node) > 0);
}

#[test]
fn a_group_that_falls_apart_is_two_groups() {
    let mut node = cards(4);
    let one = node.scan();
    let uuid = |card: usize| one.chips[card].uuid.as_str();
    for card in [0, 1] {
        ring(&node, card, Some(1));
    }
    // Rewired machines have been switched off, so other dies are there too.
    node.fake.change(|table| {
        table.dies.insert(slot(4, 0), die_of(4, 0, 1, 0x33));
    });
    assert_eq!(groups(&node.scan()), [uuid(0), uuid(0), uuid(2), uuid(2), uuid(2)]);
}

#[test]
fn a_full_mesh_costs_a_question_a_die() {
    let mut node = cards(64);
    let inventory = node.scan();
    let first = inventory.chips[0].uuid.as_str();
    assert!(groups(&inventory).iter().all(|group| *group == first));
    assert_eq!(asked(&node), 63);
}

#[test]
fn dies_of_a_module_are_one_group_whatever_the_library_calls_it() {
    let mut node = Node::new(Fake::modules(2));
    node.fake.change(|table| {
        for (slot, die) in &mut table.dies {
            die.ring = Some(slot.card as u32 * 2 + slot.device as u32);
        }
    });
    let inventory = node.scan();
    let [a, b] = [0, 2].map(|chip| inventory.chips[chip].uuid.as_str());
    assert_eq!(groups(&inventory), [a, a, b, b]);
}

#[test]
fn where_the_library_does_not_tell_there_is_no_group() {
    let mut node = cards(3);
    (0..3).for_each(|card| ring(&node, card, None));
    assert_eq!(groups(&node.scan()), ["", "", ""]);
    assert_eq!(asked(&node), 1, "one answer is enough");
    assert_eq!((groups(&node.scan()), asked(&node)), (vec!["", "", ""], 0));
}

#[test]
fn a_silent_library_takes_no_group_away_and_is_asked_again() {
    let mut node = cards(4);
    let before = node.scan();
    node.fake.change(|table| {
        table.dies.insert(slot(4, 0), die_of(4, 0, 1, 0x33));
        table.failing.insert(("connection", None), -8005);
    });
    let inventory = node.scan();
    assert_eq!(groups(&inventory)[..4], groups(&before));
    assert_eq!(groups(&inventory)[4], "");
    node.fake.change(|table| table.failing.clear());
    assert_eq!(groups(&node.scan()), [before.chips[0].uuid.as_str(); 5]);
}

#[test]
fn a_die_whose_links_hang_costs_one_deadline() {
    let mut node = Node::impatient(Fake::new((0..6).map(|card| (slot(card, 0), die_of(card, 0, 1, 0x33)))));
    // The fake hangs by the first die of a question.
    node.fake.change(|table| {
        table.hanging.insert(("connection", Some(slot(0, 0))));
    });
    let inventory = node.scan();
    assert_eq!(inventory.chips.len(), 6);
    assert!(inventory.chips.iter().all(|chip| chip.health == Health::Healthy));
    assert_eq!(node.worker.hanging(), 1);
    node.fake.change(|table| table.hanging.clear());
    while node.worker.hanging() > 0 {
        std::thread::yield_now();
    }
    // The others had found each other, and their name stays.
    assert_eq!(groups(&node.scan()), [inventory.chips[2].uuid.as_str(); 6]);
}

#[test]
fn a_310p_duo_card_is_two_chips_with_the_memory_of_the_other_call() {
    let duo = |die: i32| {
        let mut fake = die_of(7, die, 2, 0x64);
        fake.chip = "310P3";
        (fake.hbm, fake.memory, fake.ring) = (Err(Refusal::Code(-8255)), Ok(21_527), None);
        (slot(7, die), fake)
    };
    let mut node = Node::new(Fake::new([duo(0), duo(1)]));
    node.fake.change(|table| table.policy = Err(Refusal::Code(-8255)));
    let inventory = node.scan();
    assert_eq!(names(&inventory), ["chip-7-0", "chip-7-1"]);
    assert!(inventory.chips.iter().all(|chip| chip.module.is_none() && chip.model == "310P3"));
    assert_eq!((inventory.chips[0].memory, groups(&inventory)), (Bytes(21_527 << 20), vec!["", ""]));
    assert_eq!(inventory.multi_die_policy, MultiDiePolicy::Independent);
    assert!(inventory.problems.is_empty());
}

#[test]
fn what_cannot_be_shared_is_published_whole_only_and_the_reason_is_said_once() {
    let mut node = cards(8);
    node.fake.change(|table| {
        for card in 0..6 {
            table.dies.get_mut(&slot(card, 0)).unwrap().shares = Ok(false);
        }
        table.dies.get_mut(&slot(6, 0)).unwrap().shares = Err(Refusal::Code(-8255));
    });
    let inventory = node.scan();
    let whole: Vec<bool> = inventory.chips.iter().map(|chip| chip.traits.whole_only.is_some()).collect();
    assert_eq!(whole, [true, true, true, true, true, true, true, false]);
    assert_eq!(reasons(&inventory), ["whole_only", "whole_only"]);
    let [off, old] = &inventory.problems[..] else { panic!("{:?}", inventory.problems) };
    assert_eq!(off.object, "card 0 die 0, card 1 die 0, card 2 die 0, card 3 die 0, and 2 more");
    assert!(
        off.message.contains("npu-smi set -t device-share") && off.message.ends_with("published whole only")
    );
    assert_eq!(old.object, "card 6 die 0");
    assert!(old.message.contains("a newer driver may"));

    // An old library has no such function at all.
    node.fake.change(|table| table.dies.values_mut().for_each(|die| die.shares = Err(Refusal::Absent)));
    assert!(node.scan().chips.iter().all(|chip| chip.traits.whole_only.is_some()));

    // Switched on: shares at the next look.
    node.fake.change(|table| table.dies.values_mut().for_each(|die| die.shares = Ok(true)));
    let inventory = node.scan();
    assert!(inventory.chips.iter().all(|chip| chip.traits.whole_only.is_none()));
    assert!(inventory.problems.is_empty());
}

#[test]
fn a_switch_that_cannot_be_read_stays_as_it_was_and_is_off_at_first() {
    let mut node = cards(1);
    node.fake.change(|table| {
        table.failing.insert(("shares", None), -8012);
    });
    assert!(node.scan().chips[0].traits.whole_only.as_deref().unwrap().contains("-8012"));
    node.fake.change(|table| table.failing.clear());
    assert_eq!(node.scan().chips[0].traits.whole_only, None);
    node.fake.change(|table| {
        table.failing.insert(("shares", None), -8012);
    });
    assert_eq!(node.scan().chips[0].traits.whole_only, None);
}

#[test]
fn where_only_modules_are_published_the_switch_is_nobodys_matter() {
    let mut node = Node::new(Fake::modules(1));
    node.fake.change(|table| {
        table.policy = Ok(0);
        table.dies.values_mut().for_each(|die| die.shares = Ok(false));
    });
    assert_eq!(reasons(&node.scan()), Vec::<&str>::new());
}
