//! More processes than a claim has slots: its memory policy applies to those beyond, they are counted, and the
//! agent tells of them.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs::File;
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{Driver, GIB, Node, OUT_OF_MEMORY, share, uid};
use vnpu_driver::share::{ChipShare, OnFailure};
use vnpu_quota_abi::SLOT_COUNT;
use vnpu_quota_abi::usage::{USAGE_DEVICE_SIZE, USAGE_DEVICES_OFFSET, UsageDevice};
use vnpu_quota_agent::Attached;

/// Pipes to this many processes are more files than is usual.
fn raise_file_limit() {
    // SAFETY: both calls read or write the struct only.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_max.min(4096);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

/// A driver whose line about the full table nobody reads.
fn quiet(node: &Node, chips: &str) -> Driver {
    Driver::start(node.driver_command("rt").env("FAKE_CHIPS", chips).stderr(Stdio::null()))
}

/// Claim 1 on `chips` with a table of one slot, which the returned process has: the count stands in the header,
/// the rest of the file is unused.
fn with_one_slot(chips: &[u32], on_failure: OnFailure, seen: &str) -> (Node, Driver) {
    let node = Node::empty();
    node.claim(1, chips.iter().map(|chip| ChipShare { on_failure, ..share(*chip, GIB) }).collect());
    let usage = File::options().write(true).open(node.file(1, "usage")).unwrap();
    usage.write_all_at(&1_u16.to_ne_bytes(), 14).unwrap();
    let mut owner = quiet(&node, seen);
    assert_eq!(owner.ask("alloc 512"), "0 77");
    (node, owner)
}

/// Processes without a slot, and allocations on `device` refused to them and let through.
fn counted(node: &Node, device: usize) -> (u64, u64, u32) {
    let usage = File::open(node.file(1, "usage")).unwrap();
    let read = |device: usize, field: usize, to: &mut [u8]| {
        let offset = USAGE_DEVICES_OFFSET + device * USAGE_DEVICE_SIZE + field;
        usage.read_exact_at(to, offset as u64).unwrap();
    };
    let (mut processes, mut denied, mut passed) = ([0; 8], [0; 8], [0; 4]);
    read(0, offset_of!(UsageDevice, slotless_processes), &mut processes);
    read(device, offset_of!(UsageDevice, slotless_denied), &mut denied);
    read(device, offset_of!(UsageDevice, unhooked), &mut passed);
    (u64::from_ne_bytes(processes), u64::from_ne_bytes(denied), u32::from_ne_bytes(passed))
}

#[test]
fn the_process_beyond_the_last_slot_gets_what_the_policy_says_and_the_agent_tells_of_it() {
    raise_file_limit();
    let node = Node::with_quota(GIB);
    let mut drivers: Vec<Driver> = (0..SLOT_COUNT).map(|_| node.driver("rt")).collect();
    for driver in &mut drivers {
        driver.send("alloc 512");
    }
    assert!(drivers.iter_mut().all(|driver| driver.answer() == "0 77"), "all slots can be used");
    let told = || {
        let usage = node.agent.usage(&uid(1)).unwrap();
        let chip = &usage.chips[0];
        assert_eq!((usage.live_slots, chip.denied), (u32::from(SLOT_COUNT), 0));
        let attached = node.agent.attached(&uid(1)).unwrap();
        (attached, usage.without_slot, chip.denied_without_slot, chip.unaccounted)
    };
    assert_eq!(told(), (Attached::True, 0, 0, 0));

    let mut refused = quiet(&node, "0");
    assert_eq!(refused.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
    assert_eq!(refused.info().0, 0);
    assert_eq!(told(), (Attached::Crowded, 1, 1, 0));
    // Long enough for it to look for a slot again; it is the same process still.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(refused.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
    assert_eq!(told(), (Attached::Crowded, 1, 2, 0));
    assert_eq!(refused.ask("fork 512"), format!("0 {OUT_OF_MEMORY} 0"));
    assert_eq!(told(), (Attached::Crowded, 2, 3, 0), "a child is another process");

    node.claim(1, vec![ChipShare { on_failure: OnFailure::Open, ..share(0, GIB) }]);
    let mut passed = quiet(&node, "0");
    assert_eq!(passed.ask("alloc 8589934592"), "0 77", "more than the quota");
    assert_eq!(passed.info(), (60 * GIB, 64 * GIB), "the vendor's numbers");
    assert_eq!(told(), (Attached::Crowded, 3, 3, 1));

    drivers[100].kill();
    let until = Instant::now() + Duration::from_secs(15);
    while refused.ask("alloc 512") != "0 77" {
        assert!(Instant::now() < until, "it does not take the slot that became free");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (attached, without_slot, ..) = told();
    assert_eq!((attached, without_slot), (Attached::Crowded, 3), "what has been stays told");
}

#[test]
fn without_a_slot_the_policy_applies_whatever_number_the_only_chip_has_in_the_container() {
    for (on_failure, answer, counts) in [
        (OnFailure::Closed, format!("{OUT_OF_MEMORY} 77"), (1, 1, 0)),
        (OnFailure::Open, "0 77".into(), (1, 0, 1)),
    ] {
        let (node, _owner) = with_one_slot(&[5], on_failure, "0");
        let mut beyond = quiet(&node, "0");
        assert_eq!(beyond.ask("alloc 8589934592"), answer, "{on_failure:?}");
        assert_eq!(counted(&node, 0), counts, "{on_failure:?}");
    }
}

#[test]
fn without_a_slot_each_chip_counts_for_itself() {
    for (on_failure, answer, first, second) in [
        (OnFailure::Closed, format!("{OUT_OF_MEMORY} 77"), (1, 1, 0), (1, 2, 0)),
        (OnFailure::Open, "0 77".into(), (1, 0, 1), (1, 0, 2)),
    ] {
        let (node, _owner) = with_one_slot(&[3, 4], on_failure, "3,4");
        let mut beyond = quiet(&node, "4,3");
        for _ in 0..2 {
            assert_eq!(beyond.ask("alloc 512"), answer, "{on_failure:?}");
        }
        assert_eq!(beyond.ask("device 1"), "0");
        assert_eq!(beyond.ask("alloc 512"), answer, "{on_failure:?}");
        assert_eq!((counted(&node, 0), counted(&node, 1)), (first, second), "{on_failure:?}");
    }
}

#[test]
fn without_a_slot_a_number_that_may_be_any_chip_is_refused() {
    let (node, _owner) = with_one_slot(&[3, 4], OnFailure::Closed, "3,4");
    let mut beyond = quiet(&node, "0,1");
    assert_eq!(beyond.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
    assert_eq!(beyond.info().0, 0);
}

#[test]
fn without_a_slot_a_chip_beside_the_claims_is_not_limited() {
    let (node, _owner) = with_one_slot(&[3, 4], OnFailure::Closed, "3,4");
    let mut beyond = quiet(&node, "3,4,7");
    assert_eq!(beyond.ask("device 2"), "0");
    assert_eq!(beyond.ask("alloc 8589934592"), "0 77");
    assert_eq!(counted(&node, 0), (1, 0, 1));
}
