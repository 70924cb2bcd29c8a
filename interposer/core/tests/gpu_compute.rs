//! Compute shares of GPUs through real processes, as `compute.rs` has them for Ascend: two tenants, captures beside our
//! own events, graphs, and streams and contexts that end. Coarse, since these processes share the machine's cores with
//! whatever else runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

#[path = "../../../e2e/standins/build/tests/gpus/mod.rs"]
mod gpus;
mod support;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use gpus::lines;
use standin_executor::Discipline;
use standin_protocol::Machine;
use support::{GIB, Node, libraries, share, uid};
use tempfile::TempDir;
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::Percent;
use vnpu_driver::share::ChipShare;

/// A machine with one GPU, and claims on it.
struct World {
    machine: gpus::Node,
    node: Node,
}

/// A process of one claim, which sees its own claim only.
struct Tenant {
    child: Child,
    _regions: TempDir,
}

/// No test program runs longer: a launch that never returns must fail a test, not hold it up.
const PATIENCE: Duration = Duration::from_secs(60);

impl World {
    fn new(discipline: Discipline, cores: &[u32]) -> Self {
        let described = Machine { discipline, ..Machine::nvidia_h100(1, 4096) };
        let uuid = DeviceUuid::new(described.gpus().next().unwrap().uuid.clone()).unwrap();
        let world = Self { machine: gpus::Node::start(&described), node: Node::empty() };
        for (n, cores) in (1..).zip(cores) {
            let gpu = ChipShare { uuid: uuid.clone(), cores: Percent(*cores), ..share(0, GIB) };
            world.node.claim(n, vec![gpu]);
        }
        world
    }

    /// Starts a program in claim `n`.
    fn start(&self, n: u32, command: &mut Command) -> Tenant {
        let regions = tempfile::tempdir().unwrap();
        std::fs::create_dir(regions.path().join("claims")).unwrap();
        let claim = uid(n);
        let own = regions.path().join("claims").join(claim.as_str());
        symlink(self.node.dir.path().join("claims").join(claim.as_str()), own).unwrap();
        symlink(self.node.dir.path().join("devices"), regions.path().join("devices")).unwrap();
        let command =
            command.env("LD_PRELOAD", libraries().join("libvnpu.so")).env("VNPU_REGION_DIR", regions.path());
        Tenant { child: command.stdout(Stdio::piped()).spawn().unwrap(), _regions: regions }
    }

    /// Starts the demo program in claim `n`.
    fn demo(&self, n: u32, arguments: &[&str]) -> Tenant {
        self.start(n, &mut self.machine.command(arguments))
    }

    /// What the test's own program says in claim 1.
    fn own(&self, what: &str) -> String {
        let mut command = Command::new(program());
        command.arg(what).envs(self.machine.environment()).env_remove("CUDA_VISIBLE_DEVICES");
        self.start(1, &mut command).output()
    }
}

impl Tenant {
    fn output(&mut self) -> String {
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.child.stdout.take().unwrap(), &mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "{text}");
        text
    }

    /// The share of each second, in percent of the GPU.
    fn shares(&mut self) -> Vec<f64> {
        lines(&self.output(), "busy").iter().map(|line| line["share"].parse().unwrap()).collect()
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("gpu-{}", std::process::id()));
        let mut command = support::arch::compiler();
        command.args(["-O1", "-Wall", "-o"]).arg(&program);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/gpu.c")).arg("-ldl");
        assert!(command.status().unwrap().success());
        program
    })
}

fn mean(shares: &[f64]) -> f64 {
    shares.iter().sum::<f64>() / shares.len() as f64
}

#[test]
fn two_tenants_share_a_gpu_as_their_quotas_say() {
    for (discipline, via) in [(Discipline::Slices, "dlsym"), (Discipline::Kernels, "proc-ptsz")] {
        let world = World::new(discipline, &[30, 70]);
        let busy = |n, micros| world.demo(n, &["busy", "--via", via, "--micros", micros, "--seconds", "5"]);
        let mut tenants = [busy(1, "1000"), busy(2, "2000")];
        let shares: Vec<Vec<f64>> = tenants.iter_mut().map(Tenant::shares).collect();
        println!("{discipline:?} {via}: {shares:?}");
        // Without the first second: both have saved up a burst.
        let [small, large] = [mean(&shares[0][1..]), mean(&shares[1][1..])];
        for n in [1, 2] {
            let compute = world.node.agent.usage(&uid(n)).unwrap().chips[0].compute;
            assert!(compute.launches > 100 && compute.leases > 10 && compute.forced == 0, "{compute:?}");
            assert!(compute.busy > Duration::from_millis(300) && !compute.throttled.is_zero(), "{compute:?}");
        }
        // Without a quota it is 50 and 50; a machine that has no time for the tenants gives both less.
        assert!((10.0..34.0).contains(&small) && large < 74.0 && large > 1.3 * small, "{shares:?}");
    }
}

#[test]
fn every_way_to_launch_is_held_to_the_cap() {
    let world = World::new(Discipline::Slices, &[20]);
    for via in ["link", "dlsym", "dlsym-ptsz", "proc", "proc-ptsz", "proc-old"] {
        let shares = world.demo(1, &["busy", "--via", via, "--micros", "1000", "--seconds", "3"]).shares();
        assert!((7.0..22.0).contains(&mean(&shares[1..])), "{via}: {shares:?}");
    }
}

#[test]
fn work_on_a_threads_own_stream_is_held_to_the_cap() {
    let world = World::new(Discipline::Slices, &[20]);
    let out = world.own("own");
    println!("{out}");
    let own = &lines(&out, "own")[0];
    let share: f64 = own["share"].parse().unwrap();
    // The first 20 ms of a chip are saved up.
    assert!(own["code"] == "0" && (7.0..22.0).contains(&share), "{out}");
}

#[test]
fn what_is_captured_is_let_through_and_what_a_graph_takes_is_charged() {
    let world = World::new(Discipline::Slices, &[30]);
    for via in ["dlsym", "proc-ptsz"] {
        // 200 times 10 kernels of 1 ms: 2 s of a GPU, 6.7 s at 30 percent.
        let out = world.demo(1, &["graph", "--via", via, "--micros", "1000", "--count", "200"]).output();
        let executed = &lines(&out, "executed")[0];
        let share: f64 = executed["share"].parse().unwrap();
        assert!((15.0..34.0).contains(&share), "{via}: {out}");
    }
}

/// In the strictest mode a question for an event from any thread breaks every capture of the process.
#[test]
fn our_own_events_break_no_capture() {
    let world = World::new(Discipline::Slices, &[90]);
    assert_eq!(world.own("capture"), "capture 0 0 0 0\n");
    let compute = world.node.agent.usage(&uid(1)).unwrap().chips[0].compute;
    assert!(compute.busy > Duration::from_millis(50), "{compute:?}");
    // What breaks a capture is the same with us and without.
    let plain = world.machine.demo(&["capture"]);
    assert_eq!(world.demo(1, &["capture"]).output(), plain);
}

#[test]
fn streams_and_contexts_may_end_with_work_in_them() {
    let world = World::new(Discipline::Slices, &[50]);
    assert_eq!(world.own("endings"), "endings 0 0 0 0\n");
}
