//! Quotas of GPUs through real processes: the CUDA demo program under both libraries, on the stand-in driver. What a
//! program takes and sees is exact; shares of compute are asserted coarsely, since these processes share the machine's
//! cores with whatever else runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

#[path = "../../../e2e/standins/build/tests/gpus/mod.rs"]
mod gpus;
mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};

use gpus::{fields, lines};
use standin_executor::Discipline;
use standin_protocol::Machine;
use support::{GIB, MIB, Node, gpu_share, libraries, uid};
use tempfile::TempDir;
use vnpu_driver::quantity::Percent;

/// Every way to get at the driver's functions.
const WAYS: [&str; 6] = ["link", "dlsym", "dlsym-ptsz", "proc", "proc-ptsz", "proc-old"];
/// Every way to take memory.
const KINDS: [&str; 10] =
    ["alloc", "pitch", "managed", "async", "pool", "vmm", "mapped", "array", "array3d", "mipmap"];

/// The identity of the stand-in's GPU of this number.
fn gpu(minor: u8) -> [u8; 16] {
    let mut uuid = [0x7a, 0x3c, 0, 0, 0x5e, 0x1d, 0x4b, 0x20, 0x9f, 0, 1, 0x23, 0x45, 0x67, 0x89, 0xab];
    uuid[3] = minor;
    uuid
}

/// A machine with GPUs of 1 GiB, and claims on them.
struct World {
    machine: gpus::Node,
    node: Node,
}

impl World {
    fn new(gpus: u32) -> Self {
        Self::of(&Machine::nvidia_h100(gpus, 1024))
    }

    fn of(machine: &Machine) -> Self {
        Self { machine: gpus::Node::start(machine), node: Node::empty() }
    }

    /// Claim `n` has this much of GPU `minor`.
    fn claim(&self, n: u32, minor: u8, memory: u64, cores: u32) {
        let mut share = gpu_share(gpu(minor), memory);
        share.cores = Percent(cores);
        self.node.claim(n, vec![share]);
    }

    fn used(&self, n: u32) -> u64 {
        self.node.used(n)
    }

    /// The demo in a container of these claims.
    fn command(&self, claims: &[u32], arguments: &[&str]) -> (Command, TempDir) {
        let regions = tempfile::tempdir().unwrap();
        let own = regions.path().join("claims");
        std::fs::create_dir(&own).unwrap();
        for claim in claims.iter().map(|n| uid(*n)) {
            let name = claim.as_str();
            symlink(self.node.dir.path().join("claims").join(name), own.join(name)).unwrap();
        }
        symlink(self.node.dir.path().join("devices"), regions.path().join("devices")).unwrap();
        let mut command = self.machine.command(arguments);
        command.env("LD_PRELOAD", libraries().join("libvnpu.so")).env("VNPU_REGION_DIR", regions.path());
        (command, regions)
    }

    fn demo(&self, claims: &[u32], arguments: &[&str]) -> String {
        let (mut command, _regions) = self.command(claims, arguments);
        let output = command.output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    }

    /// Starts the demo; its first line.
    fn start(&self, claims: &[u32], arguments: &[&str]) -> (Running, String) {
        let (mut command, regions) = self.command(claims, arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        (Running { child, output, _regions: regions }, line)
    }
}

struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    _regions: TempDir,
}

impl Running {
    fn rest(&mut self) -> String {
        std::io::read_to_string(&mut self.output).unwrap()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_way_to_take_memory_is_held_to_the_quota_and_gives_back() {
    let world = World::new(1);
    world.claim(1, 0, 256 * MIB, 100);
    for via in WAYS {
        let kinds = if via == "dlsym" { &KINDS[..] } else { &["alloc", "async", "vmm"] };
        for kind in kinds {
            let out = world.demo(&[1], &["fill", "--via", via, "--kind", kind, "--chunk", "64Mi"]);
            assert_eq!(out.lines().count(), 4, "{via} {kind}: {out}");
            for line in out.lines() {
                let fields = fields(line);
                assert_eq!(fields["total"], (256 * MIB).to_string(), "{via} {kind}: {out}");
                if line.starts_with("fill") {
                    let seen = ["granted", "code", "free"].map(|key| fields[key].as_str());
                    assert_eq!(seen, ["268435456", "2", "0"], "{via} {kind}: {out}");
                } else {
                    assert_eq!(fields["free"], (256 * MIB).to_string(), "{via} {kind}: {out}");
                }
            }
            assert_eq!(world.used(1), 0, "{via} {kind}");
        }
    }
}

#[test]
fn what_is_charged_is_what_the_device_takes() {
    let world = World::new(1);
    world.claim(1, 0, 512 * MIB, 100);
    for kind in KINDS {
        for bytes in ["4096", "1Mi", "3Mi", "64Mi"] {
            if ["vmm", "mapped"].contains(&kind) && ["4096", "1Mi", "3Mi"].contains(&bytes) {
                continue;
            }
            let (mut holder, line) = world.start(&[1], &["hold", "--kind", kind, "--bytes", bytes]);
            assert!(line.starts_with("holding"), "{kind} {bytes}: {line}");
            assert_eq!(world.used(1), world.machine.used(0), "{kind} {bytes}");
            assert_eq!(fields(&line)["free"], (512 * MIB - world.used(1)).to_string(), "{kind} {bytes}");
            holder.kill();
            world.node.agent.reap().unwrap();
            assert_eq!(world.used(1), 0);
        }
    }
}

#[test]
fn physical_memory_counts_until_its_last_handle_and_mapping_are_gone() {
    let world = World::new(1);
    world.claim(1, 0, 128 * MIB, 100);
    let out = world.demo(&[1], &["vmm", "--bytes", "64Mi"]);
    let free: Vec<_> = lines(&out, "vmm")
        .into_iter()
        .filter(|line| line["at"] != "odd")
        .map(|line| format!("{} {}", line["at"], line["free"].parse::<u64>().unwrap() / MIB))
        .collect();
    // Imported by the process that exported it, released by both, and still mapped.
    assert_eq!(free, ["created 64", "imported 64", "released 64", "unmapped 128"], "{out}");
}

#[test]
fn processes_of_a_claim_share_its_quota_and_a_killed_ones_part_comes_back() {
    let world = World::new(1);
    world.claim(1, 0, 256 * MIB, 100);
    world.claim(2, 0, 256 * MIB, 100);
    let (mut holder, line) = world.start(&[1], &["hold", "--bytes", "192Mi"]);
    assert_eq!(fields(&line)["free"], (64 * MIB).to_string());
    let granted = |claim: u32| {
        let out = world.demo(&[claim], &["fill", "--chunk", "32Mi"]);
        lines(&out, "fill")[0]["granted"].parse::<u64>().unwrap() / MIB
    };
    assert_eq!((granted(1), granted(2)), (64, 256), "the neighbour has its own");
    holder.kill();
    assert_eq!(granted(1), 256);
}

#[test]
fn a_gpu_is_known_by_its_identity_whatever_its_number() {
    let world = World::new(3);
    world.claim(1, 0, 128 * MIB, 100);
    world.claim(2, 2, 256 * MIB, 100);
    let totals = |visible: &str| -> Vec<String> {
        let (mut command, _regions) = world.command(&[1, 2], &["info"]);
        let out = command.env("CUDA_VISIBLE_DEVICES", visible).output().unwrap();
        let out = String::from_utf8(out.stdout).unwrap();
        let devices = lines(&out, "device ");
        devices
            .iter()
            .map(|line| {
                assert_eq!(line["total"], line["device_total"], "{out}");
                format!("{}:{}", &line["uuid"][4..12], line["total"].parse::<u64>().unwrap() / MIB)
            })
            .collect()
    };
    assert_eq!(totals("0,1,2"), ["7a3c0000:128", "7a3c0001:1024", "7a3c0002:256"]);
    assert_eq!(totals("2,0"), ["7a3c0002:256", "7a3c0000:128"]);
    // What a claim is about is limited, what none is about is not.
    let granted = |device: &str| {
        let (mut command, _regions) =
            world.command(&[1, 2], &["fill", "--chunk", "32Mi", "--device", device]);
        let out = command.env("CUDA_VISIBLE_DEVICES", "2,1,0").output().unwrap();
        let out = String::from_utf8(out.stdout).unwrap();
        lines(&out, "fill")[0]["granted"].parse::<u64>().unwrap() / MIB
    };
    assert_eq!(["0", "1", "2"].map(granted), [256, 1024, 128]);
}

#[test]
fn programs_get_the_hooks_from_the_driver_itself_and_its_answers_stay_its_own() {
    let world = World::new(1);
    world.claim(1, 0, 256 * MIB, 100);
    let ours = world.demo(&[1], &["symbols"]);
    let alone = world.machine.demo(&["symbols"]);
    assert!(lines(&alone, "symbol").len() > 15, "{alone}");
    // Codes, status and which version it is; the addresses are compared by the demo, through our `dlsym` here.
    assert_eq!(lines(&ours, "symbol"), lines(&alone, "symbol"), "{ours}");
}

#[test]
fn memory_of_another_process_charges_its_owner() {
    let world = World::new(1);
    world.claim(1, 0, 128 * MIB, 100);
    world.claim(2, 0, 128 * MIB, 100);
    let (mut owner, line) = world.start(&[1], &["export", "--bytes", "64Mi"]);
    let out = world.demo(&[2], &["import", "--handle", &fields(&line)["handle"]]);
    assert_eq!(lines(&out, "imported")[0]["free"], (128 * MIB).to_string(), "{out}");
    assert_eq!((world.used(1), world.used(2)), (64 * MIB, 0));
    owner.kill();
}

#[test]
fn a_forked_child_takes_no_part_in_its_parents_memory() {
    let world = World::new(1);
    world.claim(1, 0, 256 * MIB, 100);
    let out = world.demo(&[1], &["fork", "--bytes", "64Mi"]);
    let parent = &lines(&out, "parent")[0];
    assert_eq!(parent["free"], (192 * MIB).to_string(), "{out}");
    assert!(out.contains("child init=3"), "{out}");
}

/// The shares that busy tenants got, by the second.
fn shares(out: &str) -> Vec<f64> {
    lines(out, "busy").iter().map(|line| line["share"].parse().unwrap()).collect()
}

fn mean(shares: &[f64]) -> f64 {
    shares.iter().sum::<f64>() / shares.len() as f64
}

#[test]
fn two_tenants_share_a_gpu_as_their_quotas_say() {
    for (discipline, via) in [(Discipline::Slices, "dlsym"), (Discipline::Kernels, "proc-ptsz")] {
        let world = World::of(&Machine { discipline, ..Machine::nvidia_h100(1, 1024) });
        world.claim(1, 0, 128 * MIB, 30);
        world.claim(2, 0, 128 * MIB, 70);
        let start = |n: u32, micros: &str| {
            world.start(&[n], &["busy", "--micros", micros, "--seconds", "5", "--via", via]).0
        };
        let mut tenants = [start(1, "1000"), start(2, "2000")];
        // The first second was read, and is left out: both have saved up a burst.
        let got: Vec<Vec<f64>> = tenants.iter_mut().map(|tenant| shares(&tenant.rest())).collect();
        println!("{discipline:?}: {got:?}");
        let [small, large] = [mean(&got[0]), mean(&got[1])];
        assert!((10.0..34.0).contains(&small) && large < 74.0 && large > 1.3 * small, "{got:?}");
        for n in [1, 2] {
            let compute = world.node.agent.usage(&uid(n)).unwrap().chips[0].compute;
            assert!(compute.launches > 100 && compute.leases > 10 && compute.forced == 0, "{compute:?}");
        }
    }
}

#[test]
fn a_capture_under_way_is_not_broken_by_us_and_graphs_are_charged() {
    let world = World::new(1);
    world.claim(1, 0, 512 * MIB, 30);
    let alone = world.machine.demo(&["capture"]);
    assert_eq!(world.demo(&[1], &["capture"]), alone);
    // Beside it another thread launches, for which it and the helper thread ask for events.
    let out = world.demo(&[1], &["beside", "--count", "100", "--micros", "500"]);
    let beside = &lines(&out, "beside")[0];
    assert_eq!((&*beside["captures"], &*beside["broken"], &*beside["code"]), ("100", "0", "0"), "{out}");
    let compute = world.node.agent.usage(&uid(1)).unwrap().chips[0].compute;
    assert!(compute.leases > 3 && compute.busy > std::time::Duration::from_millis(50), "{compute:?}");
    // 300 times 10 kernels of 1 ms: 3 s of a GPU, 10 s at 30 percent.
    let out = world.demo(&[1], &["graph", "--count", "300", "--micros", "1000", "--bytes", "64Mi"]);
    let share: f64 = lines(&out, "executed")[0]["share"].parse().unwrap();
    assert!((15.0..34.0).contains(&share), "{out}");
}

#[test]
fn a_gigabyte_of_quota_is_free_before_the_first_context() {
    let world = World::new(1);
    world.claim(1, 0, GIB / 2, 100);
    let out = world.demo(&[1], &["info"]);
    assert_eq!(lines(&out, "device ")[0]["used"], "0", "{out}");
}
