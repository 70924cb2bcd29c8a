//! Compute shares through real processes: the demo program under both libraries, on a stand-in chip that executes its
//! kernels for as long as they say. What is asserted here is far coarser than what the scheduler does on virtual time
//! (`quota-abi/tests/compute.rs`): these processes share the machine's cores with whatever else runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

#[path = "../../../e2e/standins/build/tests/machine/mod.rs"]
mod machine;
mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use machine::Cann;
use standin_executor::Discipline;
use standin_protocol::Machine;
use support::{GIB, Node, libraries, share, uid};
use tempfile::TempDir;
use vnpu_driver::quantity::Percent;

/// A machine with one chip, and claims on it.
struct World {
    machine: machine::Node,
    node: Node,
}

/// A busy process of one claim.
struct Tenant {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    _regions: TempDir,
}

impl World {
    fn new(discipline: Discipline, cores: &[u32]) -> Self {
        let described = Machine { discipline, ..Machine::ascend_910b(1, 65536) };
        let world = Self { machine: machine::Node::start(&described), node: Node::empty() };
        for (n, cores) in (1..).zip(cores) {
            let mut chip = share(0, GIB);
            chip.cores = Percent(*cores);
            world.node.claim(n, vec![chip]);
        }
        world
    }

    /// Starts a process that is busy with kernels of `micros` for so many seconds, in claim `n`.
    fn busy(&self, n: u32, micros: u32, seconds: u32) -> Tenant {
        self.start(n, &["busy", "--micros", &micros.to_string(), "--seconds", &seconds.to_string()])
    }

    /// Starts the demo program in claim `n`.
    fn start(&self, n: u32, arguments: &[&str]) -> Tenant {
        self.start_on(Cann::V85, n, arguments)
    }

    fn start_on(&self, cann: Cann, n: u32, arguments: &[&str]) -> Tenant {
        // What a container of this claim sees.
        let regions = tempfile::tempdir().unwrap();
        std::fs::create_dir(regions.path().join("claims")).unwrap();
        let claim = uid(n);
        let own = regions.path().join("claims").join(claim.as_str());
        symlink(self.node.dir.path().join("claims").join(claim.as_str()), own).unwrap();
        symlink(self.node.dir.path().join("devices"), regions.path().join("devices")).unwrap();
        let mut child = self
            .machine
            .command(arguments)
            .env("LD_PRELOAD", libraries().join("libvnpu.so"))
            .env("VNPU_REGION_DIR", regions.path())
            .env("LD_LIBRARY_PATH", cann.lib())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        end_in(child.id(), Duration::from_secs(60));
        Tenant { child, lines, _regions: regions }
    }
}

impl Tenant {
    /// The share of each second, in percent of the chip.
    fn shares(&mut self) -> Vec<f64> {
        let shares =
            self.lines.by_ref().map(|line| machine::fields(&line.unwrap())["share"].parse().unwrap());
        let shares: Vec<f64> = shares.collect();
        assert!(self.child.wait().unwrap().success());
        shares
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills the process if it is still there then: a launch that never returns must fail a test, not hold it up.
fn end_in(pid: u32, patience: Duration) {
    let started = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    std::thread::spawn(move || {
        std::thread::sleep(patience);
        let now = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        let started_at = |stat: &Option<String>| Some(stat.as_ref()?.split(' ').nth(21)?.to_owned());
        if started_at(&now).is_some() && started_at(&now) == started_at(&started) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    });
}

fn mean(shares: &[f64]) -> f64 {
    shares.iter().sum::<f64>() / shares.len() as f64
}

#[test]
fn two_tenants_share_a_chip_as_their_quotas_say() {
    for discipline in [Discipline::Slices, Discipline::Kernels] {
        let world = World::new(discipline, &[30, 70]);
        let mut tenants = [world.busy(1, 1000, 5), world.busy(2, 2000, 5)];
        let shares: Vec<Vec<f64>> = tenants.iter_mut().map(Tenant::shares).collect();
        println!("{discipline:?}: {shares:?}");
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
fn what_is_recorded_into_a_graph_is_let_through_and_what_a_graph_takes_is_charged() {
    for (cann, via) in [(Cann::V85, "dlsym"), (Cann::V85, "rt"), (Cann::V92, "dlsym"), (Cann::V92, "rt")] {
        let world = World::new(Discipline::Slices, &[30]);
        // 100 times 10 kernels of 1 ms: 1 s of a chip, 3.3 s at 30 percent.
        let arguments = ["graph", "--via", via, "--micros", "1000", "--count", "100"];
        // It ends with an error if the capture breaks: while it goes on, our helper thread and a launch of another
        // thread ask for events.
        let shares = world.start_on(cann, 1, &arguments).shares();
        assert!(shares.len() == 1 && (15.0..34.0).contains(&shares[0]), "{cann:?} {via}: {shares:?}");
    }
}

#[test]
fn a_chips_region_that_a_neighbour_cuts_ends_the_limit_and_not_the_program() {
    let world = World::new(Discipline::Slices, &[20]);
    let mut tenant = world.busy(1, 1000, 3);
    let region = world.node.dir.path().join("devices/CHIP-0");
    let size = std::fs::metadata(&region).unwrap().len();
    std::thread::sleep(Duration::from_millis(1500));
    std::fs::File::options().write(true).open(&region).unwrap().set_len(0).unwrap();
    // The program ends as it should, without its limit.
    let shares = tenant.shares();
    assert!(shares[2] > 40.0, "{shares:?}");
    world.node.agent.reap().unwrap();
    assert_eq!(std::fs::metadata(&region).unwrap().len(), size);
    let again = world.busy(1, 1000, 3).shares();
    assert!(mean(&again[1..]) < 22.0, "{again:?}");
}

#[test]
fn alone_a_tenant_is_held_to_its_cap() {
    let world = World::new(Discipline::Slices, &[20]);
    let shares = world.busy(1, 1000, 4).shares();
    assert!((7.0..22.0).contains(&mean(&shares[1..])), "{shares:?}");
}
