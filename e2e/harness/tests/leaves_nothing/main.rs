//! A cluster leaves nothing behind on the machine, however it ends. Each case brings up a cluster with the real
//! node and a pod, ends it in one way, and compares the machine with what it was before. They need root and the
//! cluster's binaries, and are run one by one by `xtask ci`.

// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod machine;
mod owner;
mod process;

use std::io::Read;
use std::time::Duration;

use rustix::process::Signal;
use vnpu_harness::{Cluster, Options};

use owner::{ONLY_WHEN, Owner, Place, turn};

/// The kernel and the guardian need a moment after the owner's death; this is more than any of their waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the owner says once pods can run.
const READY: &str = "cluster ready";

#[test]
#[ignore = "needs root and the cluster's binaries; `cargo xtask ci leaves` runs it"]
fn when_it_ends_as_it_should() {
    let _turn = turn();
    let place = Place::new();
    let mut owner = Owner::up(&place, &["up", "--attached"]);
    owner.hear(READY);
    let cluster = owner.cluster().with_a_pod();
    owner.end_of_input();
    assert!(owner.wait().success(), "{}", owner.said());
    // The owner has waited for everything: a dying process may be on its last instructions, no more.
    place.assert_nothing_remains(&cluster, Duration::from_secs(2));
}

#[test]
#[ignore = "needs root and the cluster's binaries; `cargo xtask ci leaves` runs it"]
fn after_ctrl_c() {
    let _turn = turn();
    let place = Place::new();
    let mut owner = Owner::up(&place, &["up", "--attached"]);
    owner.hear(READY);
    let cluster = owner.cluster().with_a_pod();
    owner.signal_group(Signal::INT);
    assert!(!owner.wait().success());
    place.assert_nothing_remains(&cluster, PATIENCE);
}

#[test]
#[ignore = "needs root and the cluster's binaries; `cargo xtask ci leaves` runs it"]
fn after_ctrl_c_while_it_comes_up() {
    let _turn = turn();
    let place = Place::new();
    let mut owner = Owner::up(&place, &["up"]);
    owner.hear("starting containerd and kubelet");
    // A detached one: until it is left standing it is its owner's like any other.
    let cluster = owner.cluster();
    owner.signal_group(Signal::INT);
    assert!(!owner.wait().success());
    place.assert_nothing_remains(&cluster, PATIENCE);
}

#[test]
#[ignore = "needs root and the cluster's binaries; `cargo xtask ci leaves` runs it"]
fn after_its_owner_is_killed() {
    let _turn = turn();
    let place = Place::new();
    let mut owner = Owner::up(&place, &["up", "--attached"]);
    owner.hear(READY);
    let cluster = owner.cluster().with_a_pod();
    owner.signal(Signal::KILL);
    assert!(!owner.wait().success());
    place.assert_nothing_remains(&cluster, PATIENCE);
}

#[test]
#[ignore = "needs root and the cluster's binaries; `cargo xtask ci leaves` runs it"]
fn after_its_owner_panics() {
    let _turn = turn();
    let place = Place::new();
    let mut owner = Owner::that_panics(&place, "an_owner_that_panics");
    owner.hear(READY);
    let cluster = owner.cluster().with_a_pod();
    owner.end_of_input();
    assert!(!owner.wait().success());
    assert!(owner.said().contains("as the test wants"), "{}", owner.said());
    place.assert_nothing_remains(&cluster, Duration::from_secs(2));
}

/// Not a case: what the case above runs in a process of its own.
#[test]
#[ignore = "a part of `after_its_owner_panics`"]
fn an_owner_that_panics() {
    if std::env::var_os(ONLY_WHEN).is_none() {
        return;
    }
    let _cluster = Cluster::start(Options::default()).unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    panic!("as the test wants");
}

#[test]
#[ignore = "needs root and the cluster's binaries; `cargo xtask ci leaves` runs it"]
fn after_its_owner_and_its_guardian_are_killed() {
    let _turn = turn();
    let place = Place::new();
    let mut owner = Owner::up(&place, &["up", "--attached"]);
    owner.hear(READY);
    let cluster = owner.cluster().with_a_pod();
    // The guardian first: it must not see its ward die.
    cluster.process("vnpu-guardian").signal(Signal::KILL);
    owner.signal(Signal::KILL);
    assert!(!owner.wait().success());
    // Nobody is left who could remove files. The processes, and with them mounts and network, the kernel ends.
    place.assert_nothing_runs(&cluster, PATIENCE);
    assert!(cluster.directory().exists(), "the case is about a directory that is left, and it is not");

    // Beside it one whose owner died before there was a record of it, and someone else's.
    let half_made = place.run_directory("abc123");
    let foreign = place.run_directory("not-ours");

    // The next start removes both; a small cluster will do.
    let mut next = Owner::up(&place, &["up", "--attached", "--no-node"]);
    next.hear(&format!("removed what the crashed cluster {} had left", cluster.id()));
    next.hear(READY);
    assert!(!half_made.exists() && foreign.exists());
    std::fs::remove_dir_all(foreign).unwrap();
    let second = next.cluster_except(cluster.id());
    next.end_of_input();
    assert!(next.wait().success(), "{}", next.said());
    place.assert_nothing_remains(&cluster, Duration::from_secs(2));
    place.assert_nothing_remains(&second, Duration::from_secs(2));
}

#[test]
#[ignore = "needs root and the cluster's binaries; `cargo xtask ci leaves` runs it"]
fn after_one_left_standing_is_taken_down() {
    let _turn = turn();
    let place = Place::new();
    let mut owner = Owner::up(&place, &["up"]);
    owner.hear(READY);
    assert!(owner.wait().success(), "{}", owner.said());
    let cluster = owner.cluster().with_a_pod();
    let mut down = Owner::up(&place, &["down", cluster.id()]);
    assert!(down.wait().success(), "{}", down.said());
    place.assert_nothing_remains(&cluster, Duration::from_secs(2));
}
