//! A process that dies, or is stopped, at each step of the protocols: others go on, and no byte is lost or handed out
//! twice.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Driver, GIB, MIB, Node, OUT_OF_MEMORY, share, uid};
use vnpu_driver::quantity::Percent;
use vnpu_quota_abi::mark::Mark;

/// What the neighbour holds.
const NEIGHBOURS: u64 = 256 * MIB;
/// What another process held that is dead.
const DEAD: u64 = 64 * MIB;
/// Far beyond any wait of ours, and far below those of a hang.
const LONG: Duration = Duration::from_secs(60);

/// What the victim does: all steps are in it. The second allocation is refused, for which dead processes' slots are
/// given back.
const DEEDS: [&str; 5] =
    ["alloc 536870912", "free 1", "alloc 1073741824", "launches 1000000", "alloc 268435456"];

/// A claim of 1 GiB and a whole chip, a neighbour in it, and what a dead process left.
struct World {
    node: Node,
    neighbour: Driver,
}

impl World {
    fn new() -> Self {
        let node = Node::empty();
        let mut chip = share(0, GIB);
        chip.cores = Percent(100);
        node.claim(1, vec![chip]);
        let mut neighbour = Driver::start(&mut command(&node));
        assert_eq!(neighbour.ask(&format!("alloc {NEIGHBOURS}")), "0 77");
        let mut dead = Driver::start(&mut command(&node));
        assert_eq!(dead.ask(&format!("alloc {DEAD}")), "0 77");
        dead.kill();
        Self { node, neighbour }
    }

    /// A process that does its deeds until `fault` happens to it.
    fn victim(&self, fault: &str) -> Driver {
        let mut victim = Driver::start(command(&self.node).env("VNPU_FAULT", fault));
        DEEDS.iter().for_each(|deed| victim.send(deed));
        victim
    }

    /// The neighbour works on the chip, and is not let through out of despair.
    fn launches(&mut self, told: &str) {
        let begun = Instant::now();
        let answer = self.neighbour.ask("launches 500");
        assert!(answer.parse::<f64>().is_ok() && begun.elapsed() < LONG, "{told}: {answer}");
        let usage = self.node.agent.usage(&uid(1)).unwrap();
        assert_eq!(usage.chips[0].compute.forced, 0, "{told}");
    }

    /// Nobody but the neighbour is left, and it may have all.
    fn all_is_the_neighbours(&mut self, told: &str) {
        let rest = GIB - NEIGHBOURS;
        assert_eq!(self.neighbour.ask(&format!("alloc {rest}")), "0 77", "{told}");
        assert_eq!(self.neighbour.ask("alloc 1"), format!("{OUT_OF_MEMORY} 77"), "{told}");
        self.node.agent.reap().unwrap();
        let usage = self.node.agent.usage(&uid(1)).unwrap();
        assert_eq!((usage.chips[0].used.0, usage.chips[0].reserved.0), (GIB, 0), "{told}");
        assert_eq!((usage.live_slots, usage.chips[0].unaccounted), (1, 0), "{told}");
        assert_eq!(self.neighbour.ask("free 2"), "0", "{told}");
        assert_eq!(self.node.used(1), 0, "{told}");
    }
}

fn command(node: &Node) -> Command {
    let mut command = node.driver_command("rt");
    command.env("LD_PRELOAD", support::faulty_libraries().join("libvnpu.so"));
    command
}

/// Waits until the process is in this state of `/proc/<pid>/stat`.
fn becomes(process: &Driver, state: char, told: &str) {
    let begun = Instant::now();
    let stat = format!("/proc/{}/stat", process.child.id());
    loop {
        let text = fs::read_to_string(&stat).unwrap();
        let is = text.rsplit(')').next().unwrap().trim_start().chars().next().unwrap();
        if is == state {
            return;
        }
        assert!(begun.elapsed() < LONG, "{told}: the step is never reached; the process is {is}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(process: &Driver, signal: i32) {
    let pid = i32::try_from(process.child.id()).unwrap();
    // SAFETY: a signal to a child that nobody has waited for.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

#[test]
fn a_death_at_any_step_leaves_nothing_to_others() {
    for mark in Mark::INTERPOSER {
        let told = format!("killed at {}", mark.name());
        let mut world = World::new();
        let mut victim = world.victim(mark.name());
        becomes(&victim, 'Z', &told);
        assert_eq!(victim.child.wait().unwrap().signal(), Some(libc::SIGKILL), "{told}");
        world.launches(&told);
        world.all_is_the_neighbours(&told);
    }
}

#[test]
fn a_process_stopped_at_any_step_holds_nobody_up_and_goes_on_rightly() {
    for mark in Mark::INTERPOSER {
        let told = format!("stopped at {}", mark.name());
        let mut world = World::new();
        let mut victim = world.victim(&format!("{}:1:stop", mark.name()));
        becomes(&victim, 'T', &told);
        world.launches(&told);
        // What it has reserved counts, also where it will be refused or is counted as used too: then the answer may be no.
        let begun = Instant::now();
        let mut answers = vec!["0 77".to_owned()];
        if [Mark::ReservePublished, Mark::ReserveRefused, Mark::CommitAdded].contains(mark) {
            answers.push(format!("{OUT_OF_MEMORY} 77"));
        }
        let answer = world.neighbour.ask(&format!("alloc {}", 16 * MIB));
        assert!(answers.contains(&answer) && begun.elapsed() < LONG, "{told}: {answer}");
        assert!(world.node.used(1) <= GIB + GIB, "{told}");
        world.node.agent.reap().unwrap();
        signal(&victim, libc::SIGCONT);
        let said: Vec<String> = DEEDS.iter().map(|_| victim.answer()).collect();
        let refused = format!("{OUT_OF_MEMORY} 77");
        assert_eq!([&said[0], &said[1], &said[2], &said[4]], ["0 77", "0", &refused, "0 77"], "{told}");
        let small = if answer == "0 77" { 16 * MIB } else { 0 };
        assert_eq!(world.node.used(1), NEIGHBOURS + small + 256 * MIB, "{told}");
        drop(victim);
        if small > 0 {
            assert_eq!(world.neighbour.ask("free 1"), "0", "{told}");
        }
        world.all_is_the_neighbours(&told);
    }
}
