//! The memory quota end to end: a driver process under `LD_PRELOAD`, a fake runtime that never refuses, and the
//! node agent's view of the ledger.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use support::{Driver, GIB, Layers, MIB, Node, OUT_OF_MEMORY, share, uid};
use vnpu_driver::quantity::Bytes;
use vnpu_driver::share::{ClaimShares, OnFailure};
use vnpu_quota_abi::LAYOUT_VERSION;
use vnpu_quota_abi::header::HEADER_SIZE;
use vnpu_quota_agent::Attached;

const WAYS: [&str; 4] = ["linked", "acl", "impl", "rt"];

#[test]
fn a_program_gets_exactly_its_quota_however_it_finds_the_runtime() {
    for (layers, how) in Layers::ALL.into_iter().flat_map(|layers| WAYS.map(|how| (layers, how))) {
        let node = Node::with_quota(4 * GIB);
        let mut driver = Driver::start(&mut node.driver_on(layers, how));
        let told = format!("{layers:?} {how}");
        assert_eq!(driver.ask("fill 67108864"), format!("64 {OUT_OF_MEMORY}"), "{told}");
        assert_eq!(driver.info(), (0, 4 * GIB), "{told}");
        assert_eq!(node.used(1), 4 * GIB, "{told}");
        assert_eq!(driver.ask("alloc 1"), format!("{OUT_OF_MEMORY} 77"), "{told}: errno untouched");
        assert_eq!(driver.ask("free 64"), "0");
        assert_eq!(driver.info(), (4 * GIB, 4 * GIB), "{told}");
        assert_eq!(driver.ask("fill 4294967296"), format!("1 {OUT_OF_MEMORY}"), "{told}: all in one piece");
        assert_eq!(node.agent.usage(&uid(1)).unwrap().chips[0].denied, 3, "{told}");
    }
}

#[test]
fn small_blocks_fill_the_quota_to_the_last_unit() {
    let node = Node::with_quota(MIB);
    let mut driver = node.driver("acl");
    assert_eq!(driver.ask("fill 512"), format!("2048 {OUT_OF_MEMORY}"));
    assert_eq!(driver.ask("free 1"), "0");
    assert_eq!(driver.ask("alloc 1"), "0 77", "one byte takes one unit");
    assert_eq!(driver.info(), (0, MIB));
}

#[test]
fn the_padding_of_aclrt_malloc_costs_what_it_costs_the_chip() {
    let ways = Layers::ALL.into_iter().flat_map(|layers| ["linked", "acl", "impl"].map(|how| (layers, how)));
    for (layers, how) in ways {
        let node = Node::with_quota(GIB);
        let mut driver = Driver::start(&mut node.driver_on(layers, how));
        assert_eq!(driver.ask("padded 67108864"), "0");
        assert_eq!(driver.info(), (GIB - 66 * MIB, GIB), "one huge page more ({layers:?} {how})");
        assert_eq!(driver.ask("padded 1073741824"), OUT_OF_MEMORY);
        assert_eq!(driver.ask("free 1"), "0");
        assert_eq!(driver.info(), (GIB, GIB));
    }
}

#[test]
fn a_change_of_the_quota_that_is_never_finished_leaves_the_last_one_in_force() {
    let node = Node::with_quota(GIB);
    let mut driver = node.driver("acl");
    assert_eq!(driver.ask("alloc 536870912"), "0 77");
    let change = |memory| {
        node.agent.change(&ClaimShares { claim: uid(1), chips: vec![share(0, memory)] }).unwrap();
    };
    change(2 * GIB);
    assert_eq!(driver.info(), (2 * GIB - GIB / 2, 2 * GIB));
    // An odd sequence number, and half of what was to come: the agent died between the two.
    let quota = fs::File::options().read(true).write(true).open(node.file(1, "quota")).unwrap();
    let entry = HEADER_SIZE as u64;
    let mut seq = [0; 4];
    quota.read_exact_at(&mut seq, entry + 84).unwrap();
    quota.write_all_at(&(u32::from_ne_bytes(seq) | 1).to_ne_bytes(), entry + 84).unwrap();
    quota.write_all_at(&(8 * GIB).to_ne_bytes(), entry + 88).unwrap();
    assert_eq!(driver.info(), (2 * GIB - GIB / 2, 2 * GIB));
    assert_eq!(driver.ask("fill 536870912"), format!("3 {OUT_OF_MEMORY}"));
    assert_eq!(node.used(1), 2 * GIB);
    change(4 * GIB);
    assert_eq!(driver.info(), (2 * GIB, 4 * GIB));
}

#[test]
fn two_processes_share_the_quota() {
    let node = Node::with_quota(GIB);
    let (mut a, mut b) = (node.driver("acl"), node.driver("rt"));
    assert_eq!(a.ask("alloc 536870912"), "0 77");
    assert_eq!(b.info(), (GIB / 2, GIB));
    assert_eq!(b.ask("fill 268435456"), format!("2 {OUT_OF_MEMORY}"));
    assert_eq!(a.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
    assert_eq!(b.ask("free 1"), "0");
    assert_eq!(a.info(), (GIB / 4, GIB));
}

#[test]
fn a_killed_process_gives_its_bytes_back_without_anybodys_help() {
    let node = Node::with_quota(GIB);
    let (mut a, mut b) = (node.driver("acl"), node.driver("acl"));
    assert_eq!(a.ask("alloc 1073741824"), "0 77");
    assert_eq!(b.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
    a.kill();
    assert_eq!(b.info(), (GIB, GIB));
    assert_eq!(b.ask("alloc 1073741824"), "0 77");
    b.kill();
    assert_eq!(node.agent.reap().unwrap().bytes, Bytes(GIB));
    assert_eq!(node.used(1), 0);
}

#[test]
fn a_failed_allocation_costs_nothing() {
    let node = Node::with_quota(GIB);
    let mut driver = Driver::start(node.driver_command("acl").env("FAKE_FAIL", "1"));
    assert_eq!(driver.ask("alloc 1048576"), format!("{OUT_OF_MEMORY} 77"));
    assert_eq!(driver.info(), (GIB, GIB));
    assert_eq!(node.agent.usage(&uid(1)).unwrap().chips[0].denied, 0, "the vendor refused, not the quota");
}

#[test]
fn a_free_of_an_unknown_pointer_reaches_the_vendor_and_is_counted() {
    let node = Node::with_quota(GIB);
    let mut driver = node.driver("acl");
    assert_eq!(driver.ask("alloc 1048576"), "0 77");
    assert_eq!(driver.ask("unknown"), "107000", "the vendor's own answer");
    let usage = node.agent.usage(&uid(1)).unwrap();
    assert_eq!((usage.chips[0].unknown_frees, usage.chips[0].used), (1, Bytes(MIB)));
}

#[test]
fn physical_memory_is_charged_on_the_device_and_not_on_the_host() {
    let node = Node::with_quota(GIB);
    let mut driver = node.driver("impl");
    assert_eq!(driver.ask("physical 1073741824"), "0");
    assert_eq!(driver.ask("physical 2097152"), OUT_OF_MEMORY);
    assert_eq!(driver.ask("host 1073741824"), "0");
    assert_eq!(driver.ask("freephysical"), "0");
    assert_eq!(driver.info(), (GIB, GIB));
}

#[test]
fn two_claims_on_two_chips_have_two_quotas() {
    let node = Node::empty();
    node.claim(1, vec![share(3, GIB)]);
    node.claim(2, vec![share(5, 2 * GIB)]);
    let mut driver = Driver::start(node.driver_command("acl").env("FAKE_CHIPS", "5,3"));
    assert_eq!(driver.ask("device 1"), "0");
    assert_eq!(driver.ask("fill 268435456"), format!("4 {OUT_OF_MEMORY}"));
    assert_eq!(driver.info(), (0, GIB));
    assert_eq!(driver.ask("device 0"), "0");
    assert_eq!(driver.info(), (2 * GIB, 2 * GIB));
    assert_eq!(driver.ask("fill 268435456"), format!("8 {OUT_OF_MEMORY}"));
    assert_eq!((node.used(1), node.used(2)), (GIB, 2 * GIB));
    assert_eq!(driver.ask("free 12"), "0", "each to its own claim, whatever device is current");
    assert_eq!((node.used(1), node.used(2)), (0, 0));
}

#[test]
fn one_claim_on_two_chips_counts_each_for_itself() {
    let node = Node::empty();
    node.claim(1, vec![share(0, GIB), share(1, GIB)]);
    let mut driver = Driver::start(node.driver_command("acl").env("FAKE_CHIPS", "0,1"));
    assert_eq!(driver.ask("alloc 1073741824"), "0 77");
    assert_eq!(driver.ask("device 1"), "0");
    assert_eq!(driver.info(), (GIB, GIB));
}

#[test]
fn a_forked_child_has_its_own_slot_and_never_frees_its_parents_bytes() {
    let node = Node::with_quota(GIB);
    let mut driver = node.driver("acl");
    assert_eq!(driver.ask("alloc 268435456"), "0 77");
    // The child's free of the inherited pointer is the vendor's business; it must not credit the claim.
    assert_eq!(driver.ask("fork 268435456"), format!("0 0 {}", GIB / 2));
    assert_eq!(driver.info(), (GIB - GIB / 4, GIB), "the child's bytes went with it, the parent's stayed");
    assert_eq!(node.agent.usage(&uid(1)).unwrap().live_slots, 1);
}

#[test]
fn a_process_is_attached_from_its_first_device_call_to_its_end() {
    let node = Node::with_quota(GIB);
    let mut driver = node.driver("acl");
    assert_eq!(node.agent.attached(&uid(1)).unwrap(), Attached::Unknown);
    assert_eq!(driver.ask("device 0"), "0");
    assert_eq!(node.agent.attached(&uid(1)).unwrap(), Attached::True);
    driver.kill();
    assert_eq!(node.agent.attached(&uid(1)).unwrap(), Attached::Unknown);
}

#[test]
fn a_program_that_closes_all_its_files_keeps_its_bytes() {
    let node = Node::with_quota(GIB);
    let (mut daemon, mut other) = (node.driver("acl"), node.driver("acl"));
    assert_eq!(daemon.ask("alloc 805306368"), "0 77");
    assert_eq!(daemon.ask("closefds"), "ok");
    assert_eq!(other.info(), (GIB / 4, GIB), "its lock is gone, its memory is not");
    assert_eq!(other.ask("alloc 536870912"), format!("{OUT_OF_MEMORY} 77"));
    assert_eq!(node.agent.reap().unwrap().reaped, 0);
    assert_eq!(daemon.ask("free 1"), "0");
    assert_eq!(other.ask("alloc 1073741824"), "0 77");
}

#[test]
fn a_program_that_executes_another_gives_its_bytes_back() {
    let node = Node::with_quota(GIB);
    let (mut first, mut other) = (node.driver("acl"), node.driver("acl"));
    assert_eq!(first.ask("alloc 1073741824"), "0 77");
    assert_eq!(first.ask("exec"), "ok");
    while fs::read_link(format!("/proc/{}/exe", first.child.id())).unwrap().file_name().unwrap() == "driver" {
        std::thread::yield_now();
    }
    assert_eq!(other.info(), (GIB, GIB));
}

#[test]
fn a_changed_quota_holds_from_the_next_call_on() {
    let node = Node::with_quota(GIB);
    let mut driver = node.driver("acl");
    assert_eq!(driver.ask("alloc 1073741824"), "0 77");
    let change = |memory| node.agent.change(&ClaimShares { claim: uid(1), chips: vec![share(0, memory)] });
    assert!(change(2 * GIB).unwrap());
    assert_eq!(driver.info(), (GIB, 2 * GIB));
    assert!(change(GIB / 2).unwrap());
    assert_eq!(driver.info(), (0, GIB / 2));
    assert_eq!(driver.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
}

#[test]
fn without_any_claim_nothing_is_touched() {
    let node = Node::empty();
    let mut driver = node.driver("acl");
    assert_eq!(driver.info(), (60 * GIB, 64 * GIB));
    assert_eq!(driver.ask("alloc 107374182400"), "0 77");
    let mut outside = Driver::start(node.driver_command("acl").env_remove("VNPU_REGION_DIR"));
    assert_eq!(outside.info(), (60 * GIB, 64 * GIB));
    assert_eq!(outside.ask("alloc 107374182400"), "0 77");
}

#[test]
fn a_named_region_directory_that_is_gone_refuses_memory() {
    let node = Node::empty();
    let mut driver = Driver::start(
        node.driver_command("acl").env("VNPU_REGION_DIR", "/nonexistent").stderr(Stdio::null()),
    );
    assert_eq!(driver.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
}

/// Spoils the regions of a claim and says what a driver then answers to an allocation, its free bytes, and what
/// it wrote on standard error.
fn spoiled(on_failure: OnFailure, spoil: impl FnOnce(&Node)) -> (String, u64, String) {
    let node = Node::empty();
    node.claim(1, vec![vnpu_driver::share::ChipShare { on_failure, ..share(0, GIB) }]);
    spoil(&node);
    let mut driver = Driver::start(node.driver_command("acl").stderr(Stdio::piped()));
    let answers: Vec<String> = (0..3).map(|_| driver.ask("alloc 1048576")).collect();
    assert!(answers.iter().all(|a| a == &answers[0]), "{answers:?}");
    let free = driver.info().0;
    driver.kill();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut driver.child.stderr.take().unwrap(), &mut text).unwrap();
    (answers[0].clone(), free, text)
}

#[test]
fn an_unusable_region_refuses_memory_with_one_line_that_names_it() {
    type Spoil = fn(&Node);
    let cases: [(&str, &str, Spoil); 7] = [
        ("quota", "shorter", |n| truncate(n, "quota", 100)),
        ("quota", "empty", |n| truncate(n, "quota", 0)),
        ("quota", "newer", |n| write(n, "quota", 6, &(LAYOUT_VERSION + 1).to_ne_bytes())),
        ("quota", "No such file", |n| fs::remove_file(n.file(1, "quota")).unwrap()),
        ("usage", "No such file", |n| fs::remove_file(n.file(1, "usage")).unwrap()),
        ("usage", "shorter", |n| truncate(n, "usage", 4096)),
        ("usage", "newer", |n| write(n, "usage", 6, &(LAYOUT_VERSION + 1).to_ne_bytes())),
    ];
    for (file, word, spoil) in cases {
        let (answer, free, text) = spoiled(OnFailure::Closed, spoil);
        assert_eq!((answer, free), (format!("{OUT_OF_MEMORY} 77"), 0), "{file}: {word}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with("vnpu: ") && text.contains(file) && text.contains(word), "{text}");
    }
}

#[test]
fn an_open_claim_lets_memory_pass_when_its_ledger_is_unusable() {
    let (answer, free, text) = spoiled(OnFailure::Open, |n| fs::remove_file(n.file(1, "usage")).unwrap());
    assert_eq!((answer.as_str(), free), ("0 77", 60 * GIB));
    assert!(text.contains("not limited"), "{text}");
}

fn truncate(node: &Node, name: &str, len: u64) {
    fs::File::options().write(true).open(node.file(1, name)).unwrap().set_len(len).unwrap();
}

fn write(node: &Node, name: &str, offset: u64, bytes: &[u8]) {
    fs::File::options().write(true).open(node.file(1, name)).unwrap().write_all_at(bytes, offset).unwrap();
}

#[test]
fn a_missing_back_end_refuses_memory_in_a_claim_and_nothing_outside() {
    let alone = tempfile::tempdir().unwrap();
    let library = alone.path().join("libvnpu.so");
    fs::copy(support::libraries().join("libvnpu.so"), &library).unwrap();
    let node = Node::with_quota(GIB);
    let start = |dir: &std::path::Path| {
        Driver::start(
            node.driver_command("acl")
                .env("LD_PRELOAD", &library)
                .env("VNPU_REGION_DIR", dir)
                .stderr(Stdio::null()),
        )
    };
    let mut inside = start(node.dir.path());
    assert_eq!(inside.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
    assert_eq!(inside.info().0, 0);
    let mut outside = start(alone.path());
    assert_eq!(outside.ask("alloc 512"), "0 77");
}
