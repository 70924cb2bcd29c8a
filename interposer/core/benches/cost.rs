//! What the interposer costs: per `exec` of a program that never touches the runtime, per allocation and free,
//! per first call of a process. Printed, not asserted; runs with and without alternate in one run.

// Helpers of benches may fail by panic, as benches do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use support::{Driver, GIB, Node};

fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * q) as usize]
}

fn exec(runs: usize, others: usize) {
    let node = Node::with_quota(GIB);
    let mut neighbours: Vec<Driver> = (0..others).map(|_| node.driver("rt")).collect();
    for driver in &mut neighbours {
        driver.ask("device 0");
    }
    let mut times = [Vec::new(), Vec::new()];
    for i in 0..runs * 2 {
        let under = i % 2;
        let mut command = match under {
            0 => Command::new("/bin/true"),
            _ => node.command("/bin/true"),
        };
        if under == 0 {
            command.env("LD_LIBRARY_PATH", support::fakes());
        }
        command.stdin(Stdio::null());
        let start = Instant::now();
        assert!(command.status().unwrap().success());
        times[under].push(start.elapsed().as_secs_f64() * 1e6);
    }
    for list in &mut times {
        list.sort_by(f64::total_cmp);
    }
    let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64;
    println!(
        "exec of /bin/true beside {others} processes of the claim, {runs} each way, alternating (microseconds)"
    );
    for (name, list) in ["without", "with   "].iter().zip(&times) {
        println!(
            "  {name}  p10 {:7.1}  p50 {:7.1}  p90 {:7.1}  mean {:7.1}",
            quantile(list, 0.1),
            quantile(list, 0.5),
            quantile(list, 0.9),
            mean(list)
        );
    }
    println!(
        "  added    p50 {:7.1}  mean {:7.1}   (to reach: 100)",
        quantile(&times[1], 0.5) - quantile(&times[0], 0.5),
        mean(&times[1]) - mean(&times[0])
    );
}

/// Five times without and with the interposer, in turns: the pair that is the median by the second.
fn median(bench: impl Fn(bool) -> f64) -> (f64, f64) {
    let mut rounds: Vec<(f64, f64)> = (0..5).map(|_| (bench(false), bench(true))).collect();
    rounds.sort_by(|a, b| a.1.total_cmp(&b.1));
    rounds[2]
}

fn operations() {
    let node = Node::with_quota(GIB);
    let bench = |preload: bool| -> f64 {
        let mut command = node.driver_command("rt");
        command.env("FAKE_CHEAP", "1");
        if !preload {
            command.env_remove("LD_PRELOAD");
        }
        let mut driver = Driver::start(&mut command);
        driver.ask("bench 1000");
        driver.ask("bench 300000").parse().unwrap()
    };
    let (without, with) = median(bench);
    println!("one allocation and its free, runtime that does nothing (nanoseconds, median of 5)");
    println!(
        "  without {without:.1}  with {with:.1}  added {:.1}   (to reach: 2000 for both)",
        with - without
    );
}

/// The same on CUDA: plain memory, and memory in stream order.
fn gpu_operations() {
    let dir = support::library_and_client("cheap.c", "libcuda.so.1");
    let node = Node::empty();
    node.claim(1, vec![support::gpu_share([7; 16], GIB)]);
    for way in ["alloc", "async"] {
        let bench = |preload: bool| -> f64 {
            let mut command = support::client(dir.path(), &node);
            command.args([way, "300000"]);
            if !preload {
                command.env_remove("LD_PRELOAD");
            }
            let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
            text.strip_prefix("0 ").unwrap().trim().parse().unwrap()
        };
        let (without, with) = median(bench);
        println!(
            "one allocation on CUDA ({way}) and its free, driver that does nothing (nanoseconds, median of 5)\n  without \
             {without:.1}  with {with:.1}  added {:.1}   (to reach: 2000 for both)",
            with - without
        );
    }
}

fn launches() {
    let node = Node::empty();
    let mut whole = support::share(0, GIB);
    whole.cores = vnpu_driver::quantity::Percent(100);
    node.claim(1, vec![whole]);
    let bench = |preload: bool| -> f64 {
        let mut command = node.driver_command("rt");
        if !preload {
            command.env_remove("LD_PRELOAD");
        }
        let mut driver = Driver::start(&mut command);
        driver.ask("device 0");
        driver.ask("launches 100000");
        driver.ask("launches 5000000").parse().unwrap()
    };
    let (without, with) = median(bench);
    println!(
        "one launch, never throttled, runtime that does nothing (nanoseconds, mean of 5 million, median of 5)"
    );
    println!("  without {without:.1}  with {with:.1}  added {:.1}   (to reach: 50)", with - without);
}

/// Single launches by quantile, each with and without; what a counter's reading costs is in both.
fn launch_quantiles(threads: u32, batch: u32) {
    let node = Node::empty();
    let mut whole = support::share(0, GIB);
    whole.cores = vnpu_driver::quantity::Percent(100);
    node.claim(1, vec![whole]);
    let each = 2_000_000 / threads / batch;
    let bench = |preload: bool| -> Vec<f64> {
        let mut command = node.driver_command("rt");
        if !preload {
            command.env_remove("LD_PRELOAD");
        }
        let mut driver = Driver::start(&mut command);
        driver.ask("device 0");
        driver.ask("launches 100000");
        let answer = driver.ask(&format!("quantiles {each} {threads} {batch}"));
        answer.split(' ').map(|n| n.parse().unwrap()).collect()
    };
    let mut rounds: Vec<[Vec<f64>; 2]> = (0..5).map(|_| [bench(false), bench(true)]).collect();
    rounds.sort_by(|a, b| a[1][1].total_cmp(&b[1][1]));
    let [without, with] = &rounds[2];
    println!(
        "one launch in batches of {batch}, {threads} threads, never throttled, runtime that does nothing (nanoseconds, \
         the median of 5 runs by p50)"
    );
    println!("           {:>8} {:>8} {:>8} {:>8} {:>8}", "p10", "p50", "p90", "p99", "p99.9");
    let line = |name: &str, all: &[f64]| {
        let numbers: Vec<String> = all.iter().map(|n| format!("{n:8.1}")).collect();
        println!("  {name}  {}", numbers.join(" "));
    };
    line("without", without);
    line("with   ", with);
    let added: Vec<f64> = with.iter().zip(without).map(|(with, without)| with - without).collect();
    line("added  ", &added);
    println!("  (to reach: p50 15, p99 with 64 threads 200)");
}

fn first_call(others: usize) {
    let node = Node::with_quota(GIB);
    let mut neighbours: Vec<Driver> = (0..others).map(|_| node.driver("rt")).collect();
    for driver in &mut neighbours {
        driver.ask("device 0");
    }
    let mut times: Vec<f64> = (0..50)
        .map(|_| {
            let mut driver = node.driver("rt");
            driver.ask("nothing");
            let start = Instant::now();
            driver.ask("device 0");
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!(
        "first device call of a process beside {others} others: p50 {:.0} p90 {:.0} microseconds   (to reach: 1000)",
        quantile(&times, 0.5),
        quantile(&times, 0.9)
    );
}

/// Processes that make their first call at the same moment, in one claim: what each of them computes, and how long it takes
/// on the few processors that they have between them.
fn first_calls_at_once(processes: usize) {
    let (mut computed, mut waited) = (Vec::new(), Vec::new());
    for _ in 0..(256 / processes).min(64) {
        let node = Node::with_quota(GIB);
        let mut drivers: Vec<Driver> = (0..processes).map(|_| node.driver("rt")).collect();
        drivers.iter_mut().for_each(|driver| assert_ne!(driver.ask("count"), "what?"));
        drivers.iter_mut().for_each(|driver| driver.send("first"));
        for driver in &mut drivers {
            let answer = driver.answer();
            let mut numbers = answer.split(' ').map(|n| n.parse::<f64>().unwrap());
            computed.push(numbers.next().unwrap());
            waited.push(numbers.next().unwrap());
        }
    }
    for list in [&mut computed, &mut waited] {
        list.sort_by(f64::total_cmp);
    }
    println!(
        "first device call of {processes} processes at once: processor time p50 {:.0} p90 {:.0} p99 {:.0}, from call to \
         return p50 {:.0} p90 {:.0} microseconds   (to reach: 1000)",
        quantile(&computed, 0.5),
        quantile(&computed, 0.9),
        quantile(&computed, 0.99),
        quantile(&waited, 0.5),
        quantile(&waited, 0.9)
    );
}

fn main() {
    // `cargo bench -p vnpu-core --bench cost -- exec` runs that part only.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!("machine: {cpus} CPUs, Linux {}", kernel.trim());
    assert!(Path::new("/bin/true").exists());
    if runs("exec") {
        exec(1000, 0);
        exec(1000, 200);
    }
    if runs("operations") {
        operations();
        gpu_operations();
    }
    if runs("launches") {
        launches();
        // The path without a decision: few batches have one in them.
        launch_quantiles(1, 16);
        launch_quantiles(1, 1);
        launch_quantiles(64, 1);
    }
    if runs("first-call") {
        first_call(0);
        first_call(100);
        first_calls_at_once(1);
        first_calls_at_once(64);
    }
}
