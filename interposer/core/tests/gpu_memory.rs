//! Quotas of GPUs: the demo program under both libraries, on stand-in GPUs with a stand-in `libcuda.so.1`, whose own
//! books are compared with the ledger.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

#[path = "../../../e2e/standins/build/tests/gpus/mod.rs"]
mod gpus;
mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use gpus::{fields, lines};
use standin_protocol::Machine;
use support::{GIB, MIB, Node, libraries, share, uid};
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::Percent;
use vnpu_driver::share::{ChipShare, ComputeMode};

/// Every way to get at the driver's functions.
const WAYS: [&str; 6] = ["link", "dlsym", "dlsym-ptsz", "proc", "proc-ptsz", "proc-old"];

/// Every way to take memory.
const KINDS: [&str; 10] =
    ["alloc", "pitch", "managed", "async", "pool", "vmm", "mapped", "array", "array3d", "mipmap"];

/// GPUs of 4 GiB, and claims on them.
struct World {
    machine: gpus::Node,
    described: Machine,
    node: Node,
}

/// A running demo program.
struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl World {
    fn new(gpus: u32) -> Self {
        let described = Machine::nvidia_h100(gpus, 4096);
        Self { machine: gpus::Node::start(&described), described, node: Node::empty() }
    }

    /// With claim 1 that has `memory` of the only GPU.
    fn with_quota(memory: u64) -> Self {
        let world = Self::new(1);
        world.node.claim(1, vec![world.gpu(0, memory)]);
        world
    }

    /// A share of one of the GPUs.
    fn gpu(&self, minor: usize, memory: u64) -> ChipShare {
        let uuid = self.described.gpus().nth(minor).unwrap().uuid.clone();
        ChipShare { uuid: DeviceUuid::new(uuid).unwrap(), ..share(minor as u32, memory) }
    }

    /// The demo program with all claims.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.machine.command(arguments);
        command
            .env("LD_PRELOAD", libraries().join("libvnpu.so"))
            .env("VNPU_REGION_DIR", self.node.dir.path());
        command
    }

    fn demo(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.command(arguments).output().unwrap().stdout).unwrap()
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Running { child, output }
    }

    /// What the ledger says of the GPU, and what the GPU's own books say.
    fn books(&self) -> (u64, u64) {
        (self.node.used(1), self.machine.used(0))
    }
}

impl Running {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    fn kill(self) {
        drop(self);
    }

    fn rest(mut self) -> String {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
        rest
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_way_to_memory_ends_at_the_quota_and_gives_all_of_it_back() {
    let world = World::with_quota(GIB);
    for via in WAYS {
        for kind in KINDS {
            let out = world.demo(&["fill", "--via", via, "--kind", kind]);
            assert_eq!(out.lines().count(), 4, "{via} {kind}: {out}");
            for line in lines(&out, "fill") {
                let seen = ["granted", "code", "total", "free"].map(|key| line[key].as_str());
                assert_eq!(seen, ["1073741824", "2", "1073741824", "0"], "{via} {kind}: {out}");
            }
            for line in lines(&out, "freed") {
                assert_eq!(
                    [&*line["total"], &*line["free"]],
                    ["1073741824", "1073741824"],
                    "{via} {kind}: {out}"
                );
            }
        }
    }
    let usage = world.node.agent.usage(&uid(1)).unwrap();
    assert_eq!(usage.chips[0].unaccounted, 0, "nothing went by");
}

#[test]
fn the_ledger_says_what_the_books_of_the_gpu_say() {
    let world = World::with_quota(GIB);
    let sizes = ["1", "513", "1Mi", "3Mi", "100Mi"];
    for kind in KINDS {
        for bytes in sizes.into_iter().filter(|bytes| kind == "alloc" || *bytes == "100Mi") {
            let mut holder = world.start(&["hold", "--kind", kind, "--bytes", bytes]);
            let line = holder.line();
            let (ledger, gpu) = world.books();
            holder.kill();
            world.node.agent.reap().unwrap();
            assert!(gpu > 0 && ledger == gpu, "{kind} {bytes}: {ledger} {gpu} {line}");
            let free: u64 = fields(&line)["free"].parse().unwrap();
            assert_eq!(free, GIB - gpu, "{kind} {bytes}");
            assert_eq!(world.books(), (0, 0), "{kind} {bytes}");
        }
    }
}

#[test]
fn two_processes_of_a_claim_share_its_quota() {
    let world = World::with_quota(GIB);
    let mut holder = world.start(&["hold", "--bytes", "600Mi"]);
    holder.line();
    for kind in ["alloc", "vmm", "pool"] {
        let out = world.demo(&["fill", "--kind", kind, "--chunk", "32Mi"]);
        let granted: u64 = lines(&out, "fill")[0]["granted"].parse().unwrap();
        // A pool takes pieces of 32 MiB.
        let all = if kind == "pool" { 416 * MIB } else { 424 * MIB };
        assert!((all..=424 * MIB).contains(&granted), "{kind}: {out}");
    }
    holder.kill();
    world.node.agent.reap().unwrap();
    assert_eq!(lines(&world.demo(&["fill"]), "fill")[0]["granted"], GIB.to_string());
}

/// Each program has its own numbers for the GPUs; the claims know them by identity.
#[test]
fn gpus_are_known_by_identity_whatever_numbers_they_have() {
    let world = World::new(2);
    world.node.claim(1, vec![world.gpu(0, GIB)]);
    world.node.claim(2, vec![world.gpu(1, 2 * GIB)]);
    let uuids: Vec<String> = world.described.gpus().map(|gpu| gpu.uuid.clone()).collect();
    let second = uuids[1].as_str();
    for (list, order) in [("0,1", [0, 1]), ("1,0", [1, 0]), (second, [1, 1]), ("1", [1, 1])] {
        for via in ["dlsym", "proc"] {
            let info = world.command(&["info", "--via", via]).env("CUDA_VISIBLE_DEVICES", list).output();
            let info = String::from_utf8(info.unwrap().stdout).unwrap();
            for (line, gpu) in lines(&info, "device ").iter().zip(order) {
                let quota = (gpu as u64 + 1) * GIB;
                assert_eq!(line["uuid"], uuids[gpu], "{info}");
                let seen = ["total", "free", "device_total"].map(|key| line[key].parse::<u64>().unwrap());
                assert_eq!(seen, [quota; 3], "{list}: {info}");
            }
        }
        let arguments = ["hold", "--device", "0", "--bytes", "100Mi"];
        let mut command = world.command(&arguments);
        let mut child = command.env("CUDA_VISIBLE_DEVICES", list).stdout(Stdio::piped()).spawn().unwrap();
        let mut holder = Running { output: BufReader::new(child.stdout.take().unwrap()), child };
        holder.line();
        let used = [world.node.used(1), world.node.used(2)];
        holder.kill();
        world.node.agent.reap().unwrap();
        let mut expected = [0, 0];
        expected[order[0]] = 100 * MIB;
        assert_eq!(used, expected, "{list}");
    }
}

#[test]
fn a_gpu_beside_the_claims_is_not_limited() {
    let world = World::new(2);
    world.node.claim(1, vec![world.gpu(0, GIB)]);
    let out = world.demo(&["fill", "--device", "1", "--chunk", "512Mi"]);
    assert_eq!(lines(&out, "fill")[0]["granted"], (4 * GIB).to_string(), "{out}");
    let out = world.demo(&["fill", "--device", "0"]);
    assert_eq!(lines(&out, "fill")[0]["granted"], GIB.to_string(), "{out}");
}

#[test]
fn physical_memory_counts_until_its_last_handle_and_mapping_are_gone() {
    let world = World::with_quota(GIB);
    for via in ["dlsym", "proc-ptsz"] {
        let out = world.demo(&["vmm", "--bytes", "64Mi", "--via", via]);
        let at: Vec<(String, u64)> = lines(&out, "vmm")
            .into_iter()
            .filter(|line| line.contains_key("free"))
            .map(|line| (line["at"].clone(), line["free"].parse().unwrap()))
            .collect();
        let held = GIB - 64 * MIB;
        let expected = [("created", held), ("imported", held), ("released", held), ("unmapped", GIB)]
            .map(|(at, free)| (at.to_owned(), free));
        assert_eq!(at, expected, "{out}");
    }
}

#[test]
fn memory_of_another_process_is_charged_to_its_owner() {
    let world = World::with_quota(GIB);
    let mut owner = world.start(&["export", "--bytes", "64Mi"]);
    let handle = fields(&owner.line())["handle"].clone();
    let mut importer = world.start(&["import", "--handle", &handle]);
    let line = importer.line();
    assert_eq!(fields(&line)["free"], (GIB - 64 * MIB).to_string(), "{line}");
    importer.rest();
    assert_eq!(world.books(), (64 * MIB, 64 * MIB));
    owner.kill();
}

#[test]
fn a_killed_process_gives_everything_back_and_a_forked_child_frees_nothing() {
    let world = World::with_quota(GIB);
    for kind in ["alloc", "async", "mapped", "array"] {
        world.demo(&["crash", "--kind", kind, "--bytes", "512Mi"]);
        world.node.agent.reap().unwrap();
        assert_eq!(world.books(), (0, 0), "{kind}");
    }
    let out = world.demo(&["fork", "--bytes", "64Mi"]);
    assert_eq!(lines(&out, "child init")[0]["init"], "3", "{out}");
    assert_eq!(lines(&out, "parent")[0]["free"], (GIB - 64 * MIB).to_string(), "{out}");
}

/// What the driver answers to names, versions and flags is what programs get, with our functions in the places of those
/// that are hooked.
#[test]
fn a_question_for_a_function_is_answered_as_the_driver_answers_it() {
    let world = World::with_quota(GIB);
    let plain = world.machine.demo(&["symbols"]);
    assert!(plain.lines().count() > 15, "{plain}");
    assert_eq!(world.demo(&["symbols"]), plain);
}

/// The programs that do what the demo program does not, each built once: the one that can do this.
fn program(what: &str) -> &'static Path {
    static BUILT: [OnceLock<PathBuf>; 3] = [const { OnceLock::new() }; 3];
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake");
    let sources =
        ["gpu_memory", "gpu_pools", "gpu_graphs"].map(|name| (name, directory.join(format!("{name}.c"))));
    let can = |source: &Path| std::fs::read_to_string(source).unwrap().contains(&format!("{{\"{what}\", "));
    let number = sources.iter().position(|(_, source)| can(source)).unwrap();
    BUILT[number].get_or_init(|| {
        let (name, source) = &sources[number];
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let mut command = support::arch::compiler();
        command.args(["-O1", "-Wall", "-o"]).arg(&program).arg(source).args(["-ldl", "-lpthread"]);
        assert!(command.status().unwrap().success());
        program
    })
}

fn said(mut command: Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

impl World {
    /// What [`program`] says without the interposer.
    fn alone(&self, what: &str) -> String {
        said(self.program(what))
    }

    /// What it says with the claims.
    fn limited(&self, what: &str) -> String {
        self.limited_with(what, &[])
    }

    /// The same, on a driver of which some calls take longer.
    fn limited_with(&self, what: &str, pauses: &[(&str, &str)]) -> String {
        let mut command = self.program(what);
        command.envs(pauses.iter().copied());
        let preload = libraries().join("libvnpu.so");
        command.env("LD_PRELOAD", preload).env("VNPU_REGION_DIR", self.node.dir.path());
        said(command)
    }

    fn program(&self, what: &str) -> Command {
        let mut command = Command::new(program(what));
        command.arg(what).envs(self.machine.environment()).env_remove("CUDA_VISIBLE_DEVICES");
        command
    }
}

#[test]
fn memory_in_stream_order_is_charged_where_it_is() {
    let world = World::new(2);
    world.node.claim(1, vec![world.gpu(0, 256 * MIB)]);
    world.node.claim(2, vec![world.gpu(1, 192 * MIB)]);
    let expected = "begin 0 256 192\n\
        the other's stream 0 256 160\n\
        no stream 0 224 160\n\
        no context 0 224 128\n\
        the other's pool 0 224 96\n\
        a pool there 0 224 64\n\
        too much 2 224 64\n\
        our own 0 192 64\n\
        the host's 0 192 64\n\
        freed 0 256 192\n";
    assert_eq!(world.limited("pools"), expected);
    for claim in [1, 2] {
        let usage = world.node.agent.usage(&uid(claim)).unwrap();
        assert_eq!((usage.chips[0].unaccounted, world.node.used(claim)), (0, 0));
    }
}

#[test]
fn a_pool_is_charged_for_what_it_keeps() {
    let world = World::with_quota(GIB);
    // What is left, in MiB.
    let expected = [
        ("100 of 128", 0, 896),
        ("kept", 0, 896),
        ("kept also when waited for", 0, 896),
        ("again", 0, 896),
        ("20 of the rest", 0, 896),
        ("20 more", 0, 864),
        ("kept", 0, 864),
        ("too much", 2, 896),
        ("trimmed for it", 0, 896),
        ("kept", 0, 896),
        ("kept", 0, 896),
        ("trim", 0, 1024),
        ("all but a piece", 0, 32),
        ("the last piece", 0, 0),
        ("of the last piece", 0, 0),
        ("kept", 0, 0),
        ("kept", 0, 0),
        ("kept", 0, 0),
        ("all", 0, 0),
        ("nothing for the other", 2, 0),
        ("kept", 0, 0),
        ("plain, trimmed for it", 0, 124),
        ("64 of 64", 0, 60),
        ("destroy", 0, 60),
        ("gone", 1, 60),
        ("ends with its last block", 0, 124),
        ("destroy", 0, 124),
        ("free", 0, 1024),
        ("from no pool", 0, 992),
        ("free", 0, 992),
    ];
    let expected = expected.map(|(what, code, free)| format!("{what} {code} {}\n", free * MIB)).concat();
    assert_eq!(world.limited("keeps"), expected + "waited 0\n");
    assert_eq!(world.books(), (0, 0));
}

/// Threads that take of three pools at once, where not all of them find room. Each may be a piece over, where another
/// one trims the pool in the moment in which what it keeps was to pay.
#[test]
fn pools_of_many_threads_stay_within_the_quota() {
    let world = World::with_quota(256 * MIB);
    let done = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(world.machine.used(0));
            }
            most
        });
        let seen: Vec<String> = (0..3).map(|_| world.limited("threads")).collect();
        done.store(true, Ordering::Relaxed);
        let most = looking.join().unwrap();
        assert_eq!(seen, [(); 3].map(|()| format!("threads 0 {}\n", 256 * MIB)));
        most
    });
    assert!((128 * MIB..=(256 + 4 * 32) * MIB).contains(&most), "{most}");
    assert_eq!(world.books(), (0, 0));
}

/// What is freed in a stream that has not come to it is no other stream's: the driver takes more. Where the quota has room
/// it pays, and where it has none it is exceeded once.
#[test]
fn a_pool_whose_frees_are_pending_does_not_grow_without_end() {
    let world = World::new(1);
    // The whole GPU's compute: launches do not wait for each other.
    let share = ChipShare { cores: Percent(100), mode: ComputeMode::Elastic, ..world.gpu(0, 192 * MIB) };
    world.node.claim(1, vec![share]);
    // What is left, or what the pool has of the GPU, in MiB.
    let growing = [(160, 32), (128, 64), (96, 96), (64, 128)]
        .map(|(left, pool)| format!("take 0 {}\npool 0 {pool}\ngive 0 {}\n", left * MIB, left * MIB));
    let waited = format!("waited 0 {}\ntrimmed 0 0\n", 64 * MIB);
    let over = format!(
        "take 0 {0}\npool 0 128\ngive 0 {0}\n\
        take 0 0\npool 0 256\ngive 0 0\ntake 2 0\npool 0 256\ntake 2 0\npool 0 256\n\
        waited 0 0\ntrimmed 0 0\n\
        plain 0 {1}\ntake 0 0\ngive 0 0\nfree 0 {0}\ndestroy 0 {2}\n",
        64 * MIB,
        128 * MIB,
        192 * MIB
    );
    assert_eq!(world.limited("pending"), growing.concat() + &waited + &over);
    assert_eq!(world.books(), (0, 0));
}

#[test]
fn a_block_on_its_way_is_not_taken_for_kept() {
    let world = World::with_quota(GIB);
    let left = 992 * MIB;
    let expected = format!(
        "20 of 32 0 {left}\nwaited 0 {left}\n28 of 32 0 {left}\ngive 0 {left}\ngive 0 {left}\ndestroy 0 {GIB}\n"
    );
    assert_eq!(world.limited_with("on the way", &[("STANDIN_POOL_ALLOCATION", "500")]), expected);
    assert_eq!(world.books(), (0, 0));
}

#[test]
fn a_pool_that_is_about_to_end_is_not_asked_about() {
    let world = World::with_quota(GIB);
    let left = 992 * MIB;
    let expected = format!("ends 2 {GIB}\ndestroy 1 {left}\nfree 0 {left}\nall 0 0\nfree 0 {GIB}\n");
    assert_eq!(world.limited_with("ends", &[("STANDIN_POOL_END", "5")]), expected);
    assert_eq!(world.books(), (0, 0));
}

#[test]
fn memory_of_graphs_is_charged_where_it_is() {
    let world = World::new(2);
    world.node.claim(1, vec![world.gpu(0, 256 * MIB)]);
    world.node.claim(2, vec![world.gpu(1, 192 * MIB)]);
    let expected = "added 0 268435456\n\
        ready 0 256 192\n\
        launched 0 256 128\n\
        freed 0 256 192\n\
        drop 0 268435456\n\
        added 0 268435456\n\
        too much 2 256 192\n\
        drop 0 268435456\n";
    assert_eq!(world.limited("graphs there"), expected);
    for claim in [1, 2] {
        let usage = world.node.agent.usage(&uid(claim)).unwrap();
        assert_eq!((usage.chips[0].unaccounted, world.node.used(claim)), (0, 0));
    }
}

#[test]
fn no_more_is_free_than_the_gpu_has_left() {
    let world = World::with_quota(3 * GIB);
    let mut neighbour = world.machine.start_demo(&["hold", "--bytes", "2Gi"]).0;
    let info = world.demo(&["info"]);
    let free = lines(&info, "device ")[0]["free"].clone();
    neighbour.kill().unwrap();
    neighbour.wait().unwrap();
    assert_eq!(free, (2 * GIB).to_string(), "{info}");
}

/// A GPU that has as much as the quota of one that has more must look the same in every answer.
#[test]
fn a_quota_looks_like_a_smaller_gpu() {
    let small = Machine::nvidia_h100(1, 64);
    let small = World { machine: gpus::Node::start(&small), described: small.clone(), node: Node::empty() };
    let world = World::with_quota(64 * MIB);
    // The last one ends with memory that is still mapped.
    let parts =
        ["old", "arrays", "handles", "unmaps", "contexts", "graphs", "temporaries", "recaptured", "launches"];
    for what in parts.into_iter().chain(["exports", "sparse"]) {
        let (limited, real) = (world.limited(what), small.alone(what));
        assert!(real.lines().count() > 5, "{what}: {real}");
        assert_eq!(limited, real, "{what}");
        if what == "sparse" {
            world.node.agent.reap().unwrap();
        }
        assert_eq!(world.books(), (0, 0), "{what}");
    }
    let usage = world.node.agent.usage(&uid(1)).unwrap();
    assert!(usage.chips[0].denied >= 2 && usage.chips[0].unaccounted == 0, "{usage:?}");
}
