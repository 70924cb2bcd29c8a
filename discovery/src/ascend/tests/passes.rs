//! Passes over the fake table.

use std::path::Path;
use std::time::Duration;

use vnpu_driver::hardware::{Fault, Health, Inventory, MultiDiePolicy};
use vnpu_driver::quantity::Bytes;

use super::fake::{Fake, die_of, slot};
use crate::ascend::dcmi::{Refusal, Slot};
use crate::ascend::scan::{Known, scan};
use crate::error::{DiscoveryError, VendorLibrary};
use crate::worker::Worker;

pub(super) struct Node {
    pub(super) fake: Fake,
    pub(super) worker: Worker<Fake, Slot>,
    known: Known,
}

impl Node {
    /// A deadline that a loaded machine does not reach.
    pub(super) fn new(fake: Fake) -> Self {
        Self::with_deadline(fake, Duration::from_secs(30))
    }

    /// For calls that are meant to hang.
    pub(super) fn impatient(fake: Fake) -> Self {
        Self::with_deadline(fake, Duration::from_millis(300))
    }

    fn with_deadline(fake: Fake, deadline: Duration) -> Self {
        let worker = Worker::new("dcmi", fake.clone(), deadline);
        Self { fake, worker, known: Known::default() }
    }

    fn try_scan(&mut self) -> Result<Inventory, DiscoveryError> {
        scan(&self.worker, Path::new("/nonexistent"), &mut self.known, false)
    }

    fn brief_scan(&mut self) -> Inventory {
        scan(&self.worker, Path::new("/nonexistent"), &mut self.known, true).unwrap()
    }

    pub(super) fn scan(&mut self) -> Inventory {
        self.try_scan().unwrap()
    }
}

pub(super) fn names(inventory: &Inventory) -> Vec<String> {
    inventory.chips.iter().map(|chip| chip.name().to_string()).collect()
}

pub(super) fn reasons(inventory: &Inventory) -> Vec<&str> {
    inventory.problems.iter().map(|problem| problem.reason.as_str()).collect()
}

#[test]
fn a_910c_module_is_its_card_and_its_dies_are_chips() {
    let inventory = Node::new(Fake::modules(2)).scan();
    assert_eq!(names(&inventory), ["chip-0-0", "chip-0-1", "chip-1-0", "chip-1-1"]);
    let chip = &inventory.chips[3];
    assert_eq!(chip.module, Some(1));
    assert_eq!(chip.model, "910C");
    assert_eq!(chip.product_name, "Ascend910");
    assert_eq!(chip.memory, Bytes::gib(64));
    assert_eq!(chip.phys_id, 3);
    assert_eq!(chip.uuid.as_str(), "0000ABCD-00000001-00000001-00000004-00000005");
    assert_eq!(chip.uuid.as_str().len(), 44);
    assert_eq!(chip.pci.unwrap().to_string(), "0000:83:00.0");
    assert_eq!(chip.health, Health::Healthy);
    assert_eq!(inventory.multi_die_policy, MultiDiePolicy::Independent);
    assert_eq!(inventory.driver_version, "25.5.0");
    assert!(inventory.problems.is_empty());
}

#[test]
fn single_die_boards_have_no_modules_even_with_two_devices_in_a_card() {
    let inventory =
        Node::new(Fake::new([(slot(3, 0), die_of(3, 0, 2, 0x64)), (slot(3, 1), die_of(3, 1, 2, 0x64))]))
            .scan();
    assert_eq!(names(&inventory), ["chip-3-0", "chip-3-1"]);
    assert!(inventory.chips.iter().all(|chip| chip.module.is_none() && chip.model == "910B3"));
}

#[test]
fn a_brief_look_asks_which_dies_there_are_and_how_they_are() {
    let mut node = Node::new(Fake::modules(2));
    let whole = node.scan();
    node.fake.change(|table| table.asked.clear());
    assert_eq!(node.brief_scan(), whole);
    node.fake.change(|table| {
        let asked: Vec<&str> = table.asked.iter().copied().collect();
        assert_eq!(asked, ["cards", "devices", "health", "logic_id", "phys_of_logic", "vdie"]);
    });

    // What it sees: health, numbers, dies that come and go; of a die that is another everything.
    node.fake.change(|table| {
        table.policy = Ok(0);
        table.dies.remove(&slot(0, 0));
        table.dies.insert(slot(2, 0), die_of(2, 0, 2, 0xb0));
        let [_, sick, other, ..] = &mut table.dies.values_mut().collect::<Vec<_>>()[..] else { panic!() };
        (sick.health, sick.phys, sick.hbm) = (3, 9, Ok(1024));
        (other.vdie, other.hbm) = ([7, 7, 7, 7, 7], Ok(2048));
    });
    let brief = node.brief_scan();
    assert_eq!(names(&brief), ["chip-0-1", "chip-1-0", "chip-1-1", "chip-2-0"]);
    let [_, sick, other, new] = &brief.chips[..] else { panic!() };
    assert!(matches!(sick.health, Health::Unhealthy(_)));
    assert_eq!((sick.phys_id, sick.memory), (9, Bytes::gib(64)), "its memory is believed");
    assert_eq!((other.memory, other.uuid.as_str().len()), (Bytes::gib(2), 44));
    assert_eq!(new.memory, Bytes::gib(64));
    assert_eq!(brief.multi_die_policy, MultiDiePolicy::Independent);

    // Where sharing is off, whether it was switched on is asked each time.
    node.fake.change(|table| table.dies.get_mut(&slot(1, 1)).unwrap().shares = Ok(false));
    assert!(node.brief_scan().chips[2].traits.whole_only.is_none(), "it is believed");
    assert!(node.scan().chips[2].traits.whole_only.is_some());
    node.fake.change(|table| table.dies.get_mut(&slot(1, 1)).unwrap().shares = Ok(true));
    assert!(node.brief_scan().chips[2].traits.whole_only.is_none());

    let whole = node.scan();
    assert_eq!((whole.chips[1].memory, whole.multi_die_policy), (Bytes::gib(1), MultiDiePolicy::Union));
}

#[test]
fn a_vanished_die_changes_no_other_pair() {
    let mut node = Node::new(Fake::modules(2));
    node.scan();
    node.fake.change(|table| {
        table.dies.remove(&slot(0, 0));
    });
    let inventory = node.scan();
    assert_eq!(names(&inventory), ["chip-0-1", "chip-1-0", "chip-1-1"]);
    assert_eq!(inventory.chips[0].module, Some(0));
    assert_eq!(inventory.chips[1].module, Some(1));
}

#[test]
fn a_renumbered_die_keeps_its_identity_and_module() {
    let mut node = Node::new(Fake::modules(2));
    let before = node.scan();
    node.fake.change(|table| {
        for (place, die) in table.dies.values_mut().enumerate() {
            die.phys = [7, 4, 0, 2][place];
        }
    });
    let after = node.scan();
    for (old, new) in before.chips.iter().zip(&after.chips) {
        assert_eq!((&old.uuid, old.module, old.name()), (&new.uuid, new.module, new.name()));
    }
    assert_eq!(after.chips.iter().map(|chip| chip.phys_id).collect::<Vec<_>>(), [7, 4, 0, 2]);
}

#[test]
fn memory_falls_back_to_the_other_call() {
    let mut node = Node::new(Fake::modules(1));
    node.fake.change(|table| {
        let die = table.dies.get_mut(&slot(0, 0)).unwrap();
        die.hbm = Err(Refusal::Code(-8255));
        die.memory = Ok(21527);
    });
    assert_eq!(node.scan().chips[0].memory, Bytes(21527 << 20));
}

#[test]
fn zero_memory_missing_uuid_and_negative_numbers_are_problems_of_their_die_only() {
    let mut node = Node::new(Fake::modules(3));
    node.fake.change(|table| {
        let die = table.dies.get_mut(&slot(0, 0)).unwrap();
        die.hbm = Ok(0);
        die.memory = Ok(0);
        table.dies.get_mut(&slot(1, 1)).unwrap().vdie = [0; 5];
    });
    let inventory = node.scan();
    assert_eq!(names(&inventory), ["chip-0-1", "chip-1-0", "chip-2-0", "chip-2-1"]);
    assert_eq!(reasons(&inventory), ["zero_memory", "missing_uuid"]);
    assert_eq!(inventory.problems[0].object, "card 0 die 0");
}

#[test]
fn of_two_dies_with_one_identity_nobody_has_it_at_first_and_its_old_owner_later() {
    let double = |node: &Node| {
        node.fake.change(|table| {
            let vdie = table.dies[&slot(0, 0)].vdie;
            table.dies.get_mut(&slot(1, 1)).unwrap().vdie = vdie;
        });
    };
    let mut node = Node::new(Fake::modules(2));
    double(&node);
    let inventory = node.scan();
    assert_eq!(names(&inventory), ["chip-0-1", "chip-1-0"]);
    assert_eq!(reasons(&inventory), ["duplicate_uuid"]);
    assert_eq!(inventory.problems[0].object, "card 0 die 0, card 1 die 1");

    let mut node = Node::new(Fake::modules(2));
    node.scan();
    double(&node);
    let inventory = node.scan();
    assert_eq!(names(&inventory), ["chip-0-0", "chip-0-1", "chip-1-0"]);
    assert_eq!(reasons(&inventory), ["duplicate_uuid"]);
}

#[test]
fn two_dies_never_get_one_device_node() {
    let mut node = Node::new(Fake::modules(2));
    node.fake.change(|table| table.dies.get_mut(&slot(1, 0)).unwrap().phys = 0);
    let inventory = node.scan();
    assert_eq!(names(&inventory), ["chip-0-1", "chip-1-1"]);
    assert_eq!(reasons(&inventory), ["duplicate_phys_id"]);
}

#[test]
fn a_sick_die_is_reported_with_its_codes() {
    let mut node = Node::new(Fake::modules(1));
    node.fake.change(|table| {
        let die = table.dies.get_mut(&slot(0, 1)).unwrap();
        die.health = 3;
        die.errors = vec![0x80E0_1801];
    });
    let inventory = node.scan();
    assert_eq!(
        inventory.chips[1].health,
        Health::Unhealthy(vec![Fault {
            codes: vec!["0x80e01801".to_owned(), "alarm-3".to_owned()],
            message: "alarm level 3, error code 0x80E01801".to_owned(),
        }])
    );
    assert_eq!(inventory.chips[0].health, Health::Healthy);
}

#[test]
fn a_die_that_was_known_stays_with_unknown_health_when_a_call_fails() {
    let mut node = Node::new(Fake::modules(1));
    node.scan();
    node.fake.change(|table| {
        table.failing.insert(("vdie", Some(slot(0, 1))), -8009);
    });
    let inventory = node.scan();
    assert_eq!(names(&inventory), ["chip-0-0", "chip-0-1"]);
    assert!(
        matches!(&inventory.chips[1].health, Health::Unknown(why) if why.contains("dcmi_get_device_die_v2"))
    );
    assert_eq!(reasons(&inventory), ["vendor_call_failed"]);
}

#[test]
fn a_new_die_whose_call_fails_is_named_and_left_out() {
    let mut node = Node::new(Fake::modules(1));
    node.fake.change(|table| {
        table.failing.insert(("board_id", Some(slot(0, 1))), -8005);
    });
    let inventory = node.scan();
    assert_eq!(names(&inventory), ["chip-0-0"]);
    assert!(inventory.problems[0].message.contains("dcmi_get_device_board_info failed with -8005"));
}

#[test]
fn a_hanging_health_call_leaves_the_die_in_service_and_costs_no_second_thread() {
    let mut node = Node::impatient(Fake::modules(1));
    node.fake.change(|table| {
        table.hanging.insert(("health", Some(slot(0, 0))));
    });
    for _ in 0..3 {
        let inventory = node.scan();
        assert_eq!(names(&inventory), ["chip-0-0", "chip-0-1"]);
        assert!(
            matches!(&inventory.chips[0].health, Health::Unknown(why) if why.contains("does not return"))
        );
        assert_eq!(inventory.chips[1].health, Health::Healthy);
        assert_eq!(node.worker.hanging(), 1);
    }
    node.fake.change(|table| table.hanging.clear());
    while node.worker.hanging() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(node.scan().chips[0].health, Health::Healthy);
}

#[test]
fn a_die_that_hangs_altogether_keeps_its_last_description() {
    let mut node = Node::impatient(Fake::modules(2));
    let before = node.scan();
    node.fake.change(|table| {
        for function in ["unit_type", "vdie", "board_id", "hbm", "health"] {
            table.hanging.insert((function, Some(slot(1, 0))));
        }
    });
    let inventory = node.scan();
    assert_eq!(names(&inventory), names(&before));
    assert_eq!(inventory.chips[2].uuid, before.chips[2].uuid);
    assert!(matches!(inventory.chips[2].health, Health::Unknown(_)));
    assert_eq!(reasons(&inventory), ["vendor_call_hangs"]);
    assert_eq!(node.worker.hanging(), 1, "one deadline per die and pass");
    node.fake.change(|table| table.hanging.clear());
}

#[test]
fn without_a_card_list_there_is_no_inventory() {
    let mut node = Node::impatient(Fake::modules(1));
    node.fake.change(|table| {
        table.failing.insert(("cards", None), -8005);
    });
    let error = node.try_scan().unwrap_err();
    assert_eq!(
        error,
        DiscoveryError::Call { library: VendorLibrary::Dcmi, function: "dcmi_get_card_list", code: -8005 }
    );
    assert!(error.retryable());
    node.fake.change(|table| {
        table.failing.clear();
        table.hanging.insert(("cards", None));
    });
    assert_eq!(node.try_scan().unwrap_err().reason(), "vendor_call_hangs");
    node.fake.change(|table| table.hanging.clear());
}

#[test]
fn the_policy_is_what_the_driver_says_and_stands_over_a_failure() {
    let mut node = Node::new(Fake::modules(1));
    node.fake.change(|table| table.policy = Ok(0));
    assert_eq!(node.scan().multi_die_policy, MultiDiePolicy::Union);
    node.fake.change(|table| table.policy = Err(Refusal::Code(-8005)));
    let inventory = node.scan();
    assert_eq!(inventory.multi_die_policy, MultiDiePolicy::Union);
    assert_eq!(inventory.problems.len(), 1);
    node.fake.change(|table| table.policy = Err(Refusal::Absent));
    assert_eq!(node.scan().multi_die_policy, MultiDiePolicy::Independent);
}

#[test]
fn other_units_in_a_card_are_no_chips() {
    let mut node = Node::new(Fake::modules(1));
    node.fake.change(|table| table.dies.get_mut(&slot(0, 1)).unwrap().kind = 1);
    let inventory = node.scan();
    assert_eq!(names(&inventory), ["chip-0-0"]);
    assert!(inventory.problems.is_empty());
}

#[test]
fn the_superpod_is_told_where_there_is_one() {
    let mut node = Node::new(Fake::modules(1));
    assert_eq!(node.scan().superpod, None);
    node.fake.change(|table| table.superpod = Ok(7));
    assert_eq!(node.scan().superpod, Some(7));
}
