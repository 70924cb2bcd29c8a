//! What busy tenants get of a chip through real processes, both libraries and a stand-in chip that executes kernels for as
//! long as they say: by the wall clock, and of what the tenants had together, beside the time that the machine's host took
//! away meanwhile. And what is lost to it, and how soon a changed quota holds. Printed, not asserted.

// Helpers of benches may fail by panic, as benches do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../../e2e/standins/build/tests/machine/mod.rs"]
mod machine;
#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use standin_executor::Discipline;
use standin_protocol::Machine;
use support::{GIB, Node, libraries, share, uid};
use tempfile::TempDir;
use vnpu_driver::quantity::Percent;
use vnpu_driver::share::{ChipShare, ClaimShares};

/// Whole seconds of each run, of which the first is not counted: everybody has saved up a burst.
const SECONDS: usize = 9;

/// A share of the chip and the length of the tenant's kernels.
#[derive(Clone, Copy)]
struct Tenant {
    cores: u32,
    micros: u32,
}

fn chip(cores: u32) -> ChipShare {
    ChipShare { cores: Percent(cores), ..share(0, GIB) }
}

/// Jiffies since the machine began: all, and those that its host took.
fn jiffies() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").unwrap();
    let numbers: Vec<u64> =
        text.lines().next().unwrap().split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
    (numbers.iter().take(8).sum(), numbers.get(7).copied().unwrap_or(0))
}

/// A busy process, in claim `n` or, with `None`, without the interposer.
fn busy(machine: &machine::Node, node: &Node, n: Option<u32>, micros: u32) -> (Child, Option<TempDir>) {
    let (micros, seconds) = (micros.to_string(), SECONDS.to_string());
    let mut command = machine.command(&["busy", "--micros", &micros, "--seconds", &seconds]);
    let regions = n.map(|n| {
        let regions = tempfile::tempdir().unwrap();
        std::fs::create_dir(regions.path().join("claims")).unwrap();
        let (claim, root) = (uid(n), node.dir.path());
        symlink(root.join("claims").join(claim.as_str()), regions.path().join("claims").join(claim.as_str()))
            .unwrap();
        symlink(root.join("devices"), regions.path().join("devices")).unwrap();
        command.env("LD_PRELOAD", libraries().join("libvnpu.so")).env("VNPU_REGION_DIR", regions.path());
        regions
    });
    (command.stdout(Stdio::piped()).spawn().unwrap(), regions)
}

/// Shares of each counted second, in percent of the chip by the wall clock.
fn shares(child: &mut Child) -> Vec<f64> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let all: Vec<f64> = lines.map(|line| machine::fields(&line.unwrap())["share"].parse().unwrap()).collect();
    child.wait().unwrap();
    all[1..].to_vec()
}

fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / all.len() as f64
}

fn machine_of(discipline: Discipline) -> machine::Node {
    machine::Node::start(&Machine { discipline, ..Machine::ascend_910b(1, 65536) })
}

/// Tenants side by side.
fn run(discipline: Discipline, tenants: &[Tenant]) {
    let (machine, node) = (machine_of(discipline), Node::empty());
    for (n, tenant) in (1..).zip(tenants) {
        node.claim(n, vec![chip(tenant.cores)]);
    }
    let (all, stolen) = jiffies();
    let begun = Instant::now();
    let mut children: Vec<_> =
        (1..).zip(tenants).map(|(n, tenant)| busy(&machine, &node, Some(n), tenant.micros)).collect();
    let got: Vec<Vec<f64>> = children.iter_mut().map(|(child, _)| shares(child)).collect();
    let (all, stolen) = (jiffies().0 - all, jiffies().1 - stolen);
    let elapsed = begun.elapsed().as_secs_f64();
    let sum: f64 = got.iter().map(|shares| mean(shares)).sum();
    for (n, (tenant, shares)) in (1..).zip(tenants.iter().zip(&got)) {
        // The first second and its burst are in it.
        let charged = node.agent.usage(&uid(n)).unwrap().chips[0].compute.busy.as_secs_f64();
        let asked = f64::from(tenant.cores);
        let worst = shares.iter().map(|share| (share - asked).abs()).fold(0.0, f64::max);
        println!(
            "  {:<8} {:>5} % asked, kernels of {:>5} us: {:>5.1} % of the chip's time ({:+.1}), worst second {:>4.1} off, \
             {:>5.1} % of what all had, {:>5.1} % by the device's clock; host took {:.1} %",
            format!("{discipline:?}"),
            tenant.cores,
            tenant.micros,
            mean(shares),
            mean(shares) - asked,
            worst,
            mean(shares) / sum * 100.0,
            charged / elapsed * 100.0,
            stolen as f64 / all as f64 * 100.0
        );
    }
}

/// A tenant alone with all of the chip, beside the same program without the interposer, in turns.
fn loss() {
    println!(
        "one tenant with 100 %, kernels of 1 ms, against the same without the interposer, three times in turns"
    );
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let (machine, node) = (machine_of(Discipline::Slices), Node::empty());
        node.claim(1, vec![chip(100)]);
        let [without, with] = [None, Some(1)].map(|n| mean(&shares(&mut busy(&machine, &node, n, 1000).0)));
        println!(
            "  without {without:5.1} %  with {with:5.1} %  lost {:.2} %",
            (1.0 - with / without) * 100.0
        );
        ratios.push((1.0 - with / without) * 100.0);
    }
    ratios.sort_by(f64::total_cmp);
    println!("  lost, median {:.2} %   (to reach: 0.5)", ratios[1]);
}

/// From the change of a quota to the launch that it allows, of a process that would have waited for seconds.
fn change() {
    let dir = support::library_and_client("strict.c", "libcuda.so.1");
    let mut took: Vec<f64> = (0..15)
        .map(|_| {
            let node = Node::empty();
            let gpu = |cores| ChipShare { cores: Percent(cores), ..support::gpu_share([7; 16], GIB) };
            node.claim(1, vec![gpu(1)]);
            let mut command = support::client(dir.path(), &node);
            command.arg("paced");
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            // Of 30 ms 20 had been saved up; the next launch waits for a second, until 10 ms are paid back.
            lines.next().unwrap().unwrap();
            std::thread::sleep(Duration::from_millis(330));
            let begun = Instant::now();
            node.agent.change(&ClaimShares { claim: uid(1), chips: vec![gpu(100)] }).unwrap();
            lines.next().unwrap().unwrap();
            let took = begun.elapsed().as_secs_f64() * 1e3;
            let _ = child.kill();
            let _ = child.wait();
            took
        })
        .collect();
    took.sort_by(f64::total_cmp);
    println!(
        "a quota of 1 % that becomes 100 %, from before the agent writes it to the return of the launch that waited, 15 \
         times: p50 {:.1} ms, most {:.1} ms, of which 7 ms are owed as before   (to reach: within a lease, 3 ms)",
        took[7], took[14]
    );
}

fn main() {
    // `cargo bench -p vnpu-core --bench shares -- shares` runs that part only.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    println!("machine: {cpus} CPUs; stand-in chip");
    if runs("shares") {
        println!(
            "busy tenants, {} seconds each   (to reach: mean 2, worst second 3, for kernels of 1 ms and more)",
            SECONDS - 1
        );
        let of = |list: &[(u32, u32)]| -> Vec<Tenant> {
            list.iter().map(|(cores, micros)| Tenant { cores: *cores, micros: *micros }).collect()
        };
        for discipline in [Discipline::Slices, Discipline::Kernels] {
            for tenants in [
                of(&[(30, 1000), (70, 1000)]),
                of(&[(30, 1000), (70, 5000)]),
                of(&[(10, 1000), (90, 1000)]),
                of(&[(1, 1000), (99, 1000)]),
                of(&[(10, 1000), (20, 1000), (30, 1000), (40, 1000)]),
                of(&[(30, 100), (70, 100)]),
                of(&[(50, 1000)]),
            ] {
                run(discipline, &tenants);
            }
        }
    }
    if runs("loss") {
        loss();
    }
    if runs("change") {
        change();
    }
}
