//! What passes must not stay: slots and descriptors that were short, what a parent leaves to its child, and the
//! container's own files, which nobody may talk away.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use support::{Driver, GIB, Node, OUT_OF_MEMORY, fakes, libraries};

/// Asks until the answer comes; many times more than any pause between tries lasts.
fn becomes(driver: &mut Driver, question: &str, answer: &str) {
    let mut last = String::new();
    for _ in 0..1000 {
        last = driver.ask(question);
        if last == answer {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{question}: still {last}");
}

#[test]
fn a_process_that_found_no_slot_takes_one_when_one_is_free() {
    let node = Node::with_quota(GIB);
    let usage = fs::File::options().write(true).open(node.file(1, "usage")).unwrap();
    usage.write_all_at(&1_u16.to_ne_bytes(), 14).unwrap();
    let mut first = node.driver("rt");
    assert_eq!(first.ask("alloc 512"), "0 77");
    let mut second = Driver::start(node.driver_command("rt").stderr(Stdio::null()));
    assert_eq!(second.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
    first.kill();
    becomes(&mut second, "alloc 512", "0 77");
}

#[test]
fn a_lack_of_descriptors_at_the_first_call_passes() {
    let node = Node::with_quota(GIB);
    let mut driver = Driver::start(node.driver_command("rt").stderr(Stdio::null()));
    assert_eq!(driver.ask("limit 0"), "0");
    assert_eq!(driver.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
    assert_eq!(driver.ask("limit 1024"), "0");
    becomes(&mut driver, "alloc 512", "0 77");
    assert_eq!(driver.info(), (GIB - 512, GIB));
}

#[test]
fn a_region_that_is_put_back_is_used_again() {
    let node = Node::with_quota(GIB);
    let (quota, aside) = (node.file(1, "quota"), node.dir.path().join("aside"));
    fs::rename(&quota, &aside).unwrap();
    let mut driver = Driver::start(node.driver_command("rt").stderr(Stdio::null()));
    assert_eq!(driver.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
    fs::rename(&aside, &quota).unwrap();
    becomes(&mut driver, "alloc 512", "0 77");
}

#[test]
fn generations_of_children_inherit_neither_descriptors_nor_mappings() {
    let node = Node::with_quota(GIB);
    let mut driver = node.driver("rt");
    assert_eq!(driver.ask("alloc 512"), "0 77");
    let counts = |answer: String| -> Vec<i32> { answer.split(' ').map(|n| n.parse().unwrap()).collect() };
    let (second, eighth) = (counts(driver.ask("chain 2")), counts(driver.ask("chain 8")));
    assert_eq!(second[0], eighth[0], "descriptors");
    // Each generation holds a block that its fake runtime maps; of the interposer nothing is left over.
    assert!(eighth[1] - second[1] <= 6, "mappings: {second:?} {eighth:?}");
}

#[test]
fn a_ledger_that_was_exchanged_costs_no_descriptors() {
    let node = Node::with_quota(GIB);
    let mut driver = node.driver("rt");
    assert_eq!(driver.ask("alloc 512"), "0 77");
    assert_eq!(driver.ask("closefds"), "ok");
    let usage = node.file(1, "usage");
    let copy = usage.with_extension("copy");
    fs::copy(&usage, &copy).unwrap();
    fs::rename(&copy, &usage).unwrap();
    driver.info();
    let before = driver.ask("count");
    for _ in 0..5 {
        driver.info();
    }
    assert_eq!(driver.ask("count"), before);
}

#[test]
fn a_process_whose_first_thread_ended_keeps_its_bytes() {
    let node = Node::with_quota(GIB);
    let (mut daemon, mut other) = (node.driver("rt"), node.driver("rt"));
    assert_eq!(daemon.ask("alloc 1073741824"), "0 77");
    assert_eq!(daemon.ask("leave"), "ok");
    let stat = format!("/proc/{}/stat", daemon.child.id());
    while !fs::read_to_string(&stat).unwrap().rsplit_once(')').unwrap().1.starts_with(" Z") {
        std::thread::yield_now();
    }
    assert_eq!(other.info(), (0, GIB));
    assert_eq!(other.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
}

/// A command that runs `script`, then the driver, in namespaces of its own; `None` where that is not allowed.
fn namespaced(node: &Node, options: &[&str], script: &str) -> Option<Command> {
    let allowed = Command::new("unshare").args(options).arg("true").status().is_ok_and(|s| s.success());
    if !allowed {
        println!("no new namespaces here: not run");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(options).args([
        "sh",
        "-ec",
        &format!("{script}\nexec env LD_PRELOAD=\"$LIBRARY\" \"$DRIVER\" rt"),
    ]);
    command
        .env("LIBRARY", libraries().join("libvnpu.so"))
        .env("CLAIMS", node.dir.path().join("claims"))
        .env("LIBRARIES", libraries())
        .env("DRIVER", fakes().join("driver"))
        .env("VNPU_REGION_DIR", node.dir.path())
        .env("LD_LIBRARY_PATH", fakes())
        .stderr(Stdio::null());
    Some(command)
}

#[test]
fn equal_pids_of_two_containers_without_proc_are_two_processes() {
    let node = Node::with_quota(GIB);
    let options = ["--mount", "--pid", "--fork", "--kill-child"];
    let script = "mount -t tmpfs none /proc";
    let Some(mut command) = namespaced(&node, &options, script) else { return };
    let mut first = Driver::start(&mut command);
    assert_eq!(first.ask("alloc 1073741824"), "0 77");
    let mut second = Driver::start(&mut command);
    assert_eq!(second.info(), (0, GIB));
    assert_eq!(second.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
}

const CONTAINER: &str = "mount -t tmpfs none /run\nmkdir -p /run/vnpu/lib\n\
    cp \"$LIBRARIES\"/*.so /run/vnpu/lib\nLIBRARY=/run/vnpu/lib/libvnpu.so";

#[test]
fn a_container_without_its_claims_is_refused_memory() {
    let node = Node::empty();
    for (script, environment) in [("", true), ("\nmkdir /run/vnpu/claims", true), ("", false)] {
        let script = format!("{CONTAINER}{script}");
        let Some(mut command) = namespaced(&node, &["--mount"], &script) else { return };
        if !environment {
            command.env_remove("VNPU_REGION_DIR");
        }
        let mut driver = Driver::start(&mut command);
        assert_eq!(driver.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"), "{script}");
    }
}

#[test]
fn the_environment_cannot_lead_a_container_away_from_its_claims() {
    let (node, other) = (Node::with_quota(GIB), Node::with_quota(8 * GIB));
    let script = format!("{CONTAINER}\nmkdir /run/vnpu/claims\nmount --bind \"$CLAIMS\" /run/vnpu/claims");
    let Some(mut command) = namespaced(&node, &["--mount"], &script) else { return };
    for elsewhere in [other.dir.path(), std::path::Path::new("/nonexistent"), std::path::Path::new("")] {
        let mut driver = Driver::start(command.env("VNPU_REGION_DIR", elsewhere));
        assert_eq!(driver.info(), (GIB, GIB), "{}", elsewhere.display());
    }
}
