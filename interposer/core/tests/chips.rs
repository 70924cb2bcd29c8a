//! Which chip an allocation counts for, and what happens when that cannot be told; what each way to allocate
//! costs.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use support::{Driver, GIB, MIB, Node, OUT_OF_MEMORY, share};
use vnpu_driver::share::{ChipShare, OnFailure};

/// Allocations of claim 1 that went round its ledger (offset 60 of the first chip's counters).
fn unhooked(node: &Node) -> u32 {
    let mut word = [0; 4];
    fs::File::open(node.file(1, "usage")).unwrap().read_exact_at(&mut word, 128 + 60).unwrap();
    u32::from_ne_bytes(word)
}

fn on(node: &Node, chips: &str) -> Driver {
    Driver::start(node.driver_command("acl").env("FAKE_CHIPS", chips).stderr(Stdio::null()))
}

#[test]
fn one_chip_and_one_device_are_the_same_whatever_its_number() {
    let node = Node::empty();
    node.claim(1, vec![share(5, GIB)]);
    let mut driver = on(&node, "0");
    assert_eq!(driver.ask("fill 268435456"), format!("4 {OUT_OF_MEMORY}"));
    assert_eq!((driver.info(), node.used(1)), ((0, GIB), GIB));
}

#[test]
fn a_chip_beside_the_claims_is_not_limited_and_its_allocations_are_counted() {
    let node = Node::empty();
    node.claim(1, vec![share(3, GIB), share(4, GIB)]);
    let mut driver = on(&node, "3,4,7");
    assert_eq!(driver.ask("device 2"), "0");
    assert_eq!(driver.ask("alloc 8589934592"), "0 77");
    assert_eq!(driver.info(), (60 * GIB, 64 * GIB), "the vendor's numbers");
    assert_eq!((unhooked(&node), node.used(1)), (1, 0));
}

#[test]
fn a_number_that_may_be_any_chip_is_refused_memory_or_let_through_as_the_claim_says() {
    let unknown: [(&str, &str); 2] = [("FAKE_CHIPS", "0,1"), ("FAKE_NO_DEVICE", "1")];
    for (name, value) in unknown {
        for (on_failure, answer, free, counted) in [
            (OnFailure::Closed, format!("{OUT_OF_MEMORY} 77"), 0, 0),
            (OnFailure::Open, "0 77".to_owned(), 60 * GIB, 1),
        ] {
            let node = Node::empty();
            let chip = |n| ChipShare { on_failure, ..share(n, GIB) };
            node.claim(1, vec![chip(3), chip(4)]);
            let mut driver = Driver::start(node.driver_command("acl").env(name, value).stderr(Stdio::null()));
            assert_eq!(driver.ask("alloc 8589934592"), answer, "{name} {on_failure:?}");
            assert_eq!((driver.info().0, unhooked(&node)), (free, counted), "{name} {on_failure:?}");
        }
    }
}

#[test]
fn a_single_chip_among_several_devices_with_other_numbers_is_refused() {
    let node = Node::empty();
    node.claim(1, vec![share(5, GIB)]);
    let mut driver = on(&node, "0,1");
    assert_eq!(driver.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
}

#[test]
fn page_bits_of_a_memory_type_are_charged() {
    let node = Node::with_quota(4 * GIB);
    let mut driver = node.driver("rt");
    let mut used = 0;
    for (bits, size, cost) in [
        (0x2, 512, 512),
        (0x800 | 0x2, 512, 2 * MIB),
        (0x4000, 512, 2 * MIB),
        (0x1000, 3 * MIB, 3 * MIB),
        (0x8000, 3 * MIB, 3 * MIB),
        (0x400, 3 * MIB, 4 * MIB),
        (0x1_0000, 512, GIB),
        (0x2_0000, 512, GIB),
    ] {
        assert_eq!(driver.ask(&format!("typed {size} {bits}")), "0", "{bits:#x}");
        used += cost;
        assert_eq!(node.used(1), used, "{bits:#x}");
    }
    assert_eq!(driver.ask("free 8"), "0");
    assert_eq!(node.used(1), 0);
}

#[test]
fn pages_of_one_gibibyte_are_not_padded() {
    let node = Node::with_quota(2 * GIB);
    let mut driver = node.driver("impl");
    assert_eq!(driver.ask("policy 1073741824 6"), "0");
    assert_eq!(driver.ask("policy 1073741824 7"), "0");
    assert_eq!(driver.info(), (0, 2 * GIB));
}

#[test]
fn a_kind_of_memory_beside_the_page_policy_changes_nothing() {
    let node = Node::with_quota(GIB);
    let mut driver = node.driver("impl");
    assert_eq!(driver.ask("policy 512 257"), "0", "huge pages only, of low bandwidth");
    assert_eq!(node.used(1), 2 * MIB);
}

#[test]
fn physical_memory_is_charged_by_its_side_and_pages() {
    let node = Node::with_quota(2 * GIB);
    let mut driver = node.driver("impl");
    assert_eq!(driver.ask("numa 8589934592"), "0", "memory of the host");
    assert_eq!(node.used(1), 0);
    assert_eq!(driver.ask("physical 512 1"), "0");
    assert_eq!(node.used(1), 2 * MIB, "huge pages");
    assert_eq!(driver.ask("physical 512 5"), "0");
    assert_eq!(node.used(1), 2 * MIB + 512, "normal pages");
    assert_eq!(driver.ask("physical 512 10"), "0");
    assert_eq!(node.used(1), GIB + 2 * MIB + 512, "a page of 1 GiB");
}

#[test]
fn memory_of_a_pool_is_charged_at_both_layers() {
    for how in ["rt", "impl"] {
        let node = Node::with_quota(GIB);
        let mut driver = node.driver(how);
        assert_eq!(driver.ask("pool 1073741824"), "0", "{how}");
        assert_eq!(driver.ask("pool 2097152"), OUT_OF_MEMORY, "{how}");
    }
    let node = Node::with_quota(GIB);
    let mut driver = node.driver("rt");
    assert_eq!(driver.ask("pool 1073741824"), "0");
    assert_eq!(driver.ask("poolfree"), "0");
    assert_eq!(node.used(1), 0);
}

#[test]
fn nothing_from_a_pool_releases_no_living_block() {
    for how in ["rt", "impl"] {
        let node = Node::with_quota(GIB);
        let mut driver = node.driver(how);
        assert_eq!(driver.ask("alloc 1073741824"), "0 77");
        assert_eq!(driver.ask("nothing"), "0");
        assert_eq!(node.used(1), GIB, "{how}");
        assert_eq!(driver.ask("free 1"), "0", "the place still has the block's address");
        assert_eq!(node.used(1), 0);
    }
}

#[test]
fn what_a_callback_allocates_inside_the_vendors_function_is_charged() {
    let node = Node::with_quota(GIB);
    let mut driver = Driver::start(node.driver_command("impl").env("FAKE_CALLBACK", "1"));
    assert_eq!(driver.ask("device 0"), "0");
    assert_eq!(node.used(1), MIB);
}
