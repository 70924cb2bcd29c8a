//! The quotas on both layerings of CANN: what holds where `aclrt*Impl` calls the runtime by name must hold where it is
//! inside the runtime and nothing can stand between, and a call that passes two hooks must count once. Stand-in
//! libraries over a stand-in chip, whose own books are compared with the ledger.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

#[path = "../../../e2e/standins/build/tests/machine/mod.rs"]
mod machine;
mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use machine::{Cann, fields};
use standin_protocol::Machine;
use support::{GIB, MIB, Node, libraries, share, uid};
use vnpu_driver::quantity::Percent;

/// Every way to the runtime, and every kind of memory that is taken that way.
const WAYS: [(&str, &[&str]); 4] = [
    ("dlsym", &["malloc", "align32", "cached", "cfg", "scheduler", "managed", "physical", "pool"]),
    ("link", &["malloc", "align32", "physical", "pool"]),
    ("rt", &["rt", "rt-cached", "rts", "rt-alloc", "rt-managed", "rt-dvpp", "rt-physical"]),
    ("rt-link", &["rt", "rt-physical"]),
];

/// A machine with one chip of 64 GiB, and claim 1 on it.
struct World {
    machine: machine::Node,
    node: Node,
}

impl World {
    fn new(memory: u64, cores: u32) -> Self {
        let world =
            Self { machine: machine::Node::start(&Machine::ascend_910b(1, 65536)), node: Node::empty() };
        let mut chip = share(0, memory);
        chip.cores = Percent(cores);
        world.node.claim(1, vec![chip]);
        world
    }

    /// The demo program in the claim.
    fn command(&self, cann: Cann, arguments: &[&str]) -> Command {
        let mut command = self.machine.command(arguments);
        command
            .env("LD_PRELOAD", libraries().join("libvnpu.so"))
            .env("VNPU_REGION_DIR", self.node.dir.path())
            .env("LD_LIBRARY_PATH", cann.lib());
        command
    }

    /// As [`Self::command`], preloaded as `/etc/ld.so.preload` does it: without a trace in the environment.
    fn quietly(&self, cann: Cann, arguments: &[&str]) -> Command {
        let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
        let loader = loader.into_iter().find(|path| Path::new(path).exists()).unwrap();
        let plain = self.command(cann, arguments);
        let mut command = Command::new(loader);
        command.arg("--preload").arg(libraries().join("libvnpu.so"));
        command.arg(plain.get_program()).args(plain.get_args());
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env_remove("LD_PRELOAD");
        command
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_way_to_memory_ends_at_the_quota_and_gives_all_of_it_back() {
    let world = World::new(GIB, 10);
    for cann in Cann::ALL {
        for (via, kinds) in WAYS {
            for kind in kinds {
                let told = format!("{cann:?} {via} {kind}");
                let arguments = ["fill", "--via", via, "--kind", kind, "--chunk", "64Mi"];
                let out = output(&mut world.command(cann, &arguments));
                let lines: Vec<_> = out.lines().map(fields).collect();
                // Where the vendor pads, each of the 15 blocks takes a huge page more; smaller ones fill the rest.
                let padded = *kind == "malloc" || *kind == "cached";
                for line in lines.iter().step_by(2) {
                    let granted: u64 = line["granted"].parse().unwrap();
                    let all = if padded { 900 * MIB..GIB } else { GIB..GIB + 1 };
                    assert!(all.contains(&granted), "{told}: {out}");
                    assert_eq!((&*line["code"], &*line["total"]), ("207001", "1073741824"), "{told}: {out}");
                    let left: u64 = line["free"].parse().unwrap();
                    assert!(left < 4 * MIB && (padded || left == 0), "{told}: {out}");
                }
                for line in lines.iter().skip(1).step_by(2) {
                    assert_eq!(line["free"], "1073741824", "{told}: {out}");
                }
            }
        }
    }
}

#[test]
fn a_call_that_passes_two_layers_is_charged_once() {
    let world = World::new(GIB, 10);
    for cann in Cann::ALL {
        for (via, kinds) in WAYS {
            for kind in kinds {
                let told = format!("{cann:?} {via} {kind}");
                let arguments = ["hold", "--via", via, "--kind", kind, "--bytes", "100Mi"];
                let mut child = world.command(cann, &arguments).stdout(Stdio::piped()).spawn().unwrap();
                let mut line = String::new();
                BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
                let (ledger, chip) = (world.node.used(1), world.machine.used(0));
                child.kill().unwrap();
                child.wait().unwrap();
                world.node.agent.reap().unwrap();
                let padding = if *kind == "malloc" || *kind == "cached" { 2 * MIB } else { 0 };
                assert_eq!(ledger, 100 * MIB + padding, "{told}: {line}");
                assert_eq!(ledger, chip, "{told}: the ledger says what the chip's own books say");
            }
        }
    }
}

#[test]
fn what_components_use_is_the_claims_and_not_the_neighbours() {
    let world = World::new(GIB, 10);
    let _neighbour = Neighbour::start(&mut world.machine.command(&["hold", "--bytes", "3Gi"]));
    for cann in Cann::ALL {
        for via in ["dlsym", "link", "rt", "rt-link"] {
            let out = output(&mut world.command(cann, &["usage", "--via", via, "--bytes", "100Mi"]));
            let told = format!("{cann:?} {via}: {out}");
            let usage = fields(out.lines().nth(1).unwrap());
            assert_eq!((&*usage["current"], &*usage["peak"]), ("104857600", "1073741824"), "{told}");
        }
    }
}

/// A process that stays until the test is done with it, however the test ends.
struct Neighbour(Child);

impl Neighbour {
    /// Started, and at work: it has said its first line.
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new());
        let neighbour = Self(child);
        assert!(said.unwrap() > 0, "the neighbour ended before it began");
        neighbour
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Launches 300 kernels of 1 ms by `command` in a claim of 20 %; what it took and what the claim's counters say.
fn launches(world: &World, command: &mut Command) -> (Duration, u64, Duration) {
    let counted = |world: &World| world.node.agent.usage(&uid(1)).unwrap().chips[0].compute;
    let (before, begun) = (counted(world), Instant::now());
    output(command);
    let (after, took) = (counted(world), begun.elapsed());
    (took, after.launches - before.launches, after.busy - before.busy)
}

#[test]
fn launches_wait_for_their_share_and_count_once_however_they_reach_the_runtime() {
    for cann in Cann::ALL {
        for via in ["dlsym", "link", "rt", "rt-link"] {
            // A claim of its own for each: no saved-up burst of the one before.
            let world = World::new(GIB, 20);
            let arguments = ["launch", "--via", via, "--count", "300", "--micros", "1000"];
            let (took, count, busy) = launches(&world, &mut world.command(cann, &arguments));
            let told = format!("{cann:?} {via}: {took:?}, {count} launches, {busy:?}");
            // 300 ms of work at a fifth of the chip, less the burst: 1.4 s.
            assert!(took > Duration::from_millis(1300), "{told}");
            // The counters are written every now and then; the last grant may be missing.
            assert!((200..=300).contains(&count), "{told}");
            // Measured are intervals, so what the host lost between two launches is in it; counted twice, it were 600.
            assert!((200..450).contains(&busy.as_millis()), "{told}");
        }
    }
}

#[test]
fn a_loader_like_torch_npus_is_limited_with_and_without_a_preload_in_its_environment() {
    for cann in Cann::ALL {
        for quiet in [false, true] {
            let world = World::new(GIB, 20);
            let command = |arguments: &[&str]| {
                if quiet { world.quietly(cann, arguments) } else { world.command(cann, arguments) }
            };
            let told = format!("{cann:?} quiet: {quiet}");
            let out = output(&mut command(&["fill", "--via", "torch", "--chunk", "64Mi"]));
            let first = fields(out.lines().next().unwrap());
            assert_eq!(
                (&*first["granted"], &*first["total"], &*first["free"]),
                ("1073741824", "1073741824", "0"),
                "{told}: {out}"
            );
            let arguments = ["launch", "--via", "torch", "--count", "300", "--micros", "1000"];
            let (took, count, _) = launches(&world, &mut command(&arguments));
            assert!(took > Duration::from_millis(1300), "{told}: {took:?}");
            assert!((200..=300).contains(&count), "{told}: {count} launches");
        }
    }
}
