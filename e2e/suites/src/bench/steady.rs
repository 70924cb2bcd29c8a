//! What the plugin takes of a node with Ascend modules and as many NVIDIA GPUs where nothing happens.

use std::time::Duration;

use anyhow::{Context as _, Result};
use vnpu_e2e_stack::{Machine, Stack};

use crate::machine;

/// Clock ticks a second, as the kernel tells them to processes (`USER_HZ`): the same on x86_64 and aarch64.
const TICKS: f64 = 100.0;
/// After the start, so long until nothing happens any more.
const SETTLED: Duration = Duration::from_secs(20);
/// To reach: percent of a core, MB.
const GOALS: (f64, f64) = (0.2, 15.0);

/// The lines of the report.
pub(crate) fn measure(stack: &Stack, modules: u32, die_mib: u64, seconds: u64) -> Result<String> {
    let machine = Machine::ascend_910c(modules, die_mib).with_gpus(modules, 81_920);
    let node = stack.add_simulated_node("steady-node", machine)?;
    let pid = stack.cluster.pid(&node.handle.plugin()).context("the plugin has ended")?;
    std::thread::sleep(SETTLED);
    let before = processor_seconds(pid)?;
    std::thread::sleep(Duration::from_secs(seconds));
    // Whole seconds far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let share = (processor_seconds(pid)? - before) / seconds as f64 * 100.0;
    let memory = resident_megabytes(pid)?;
    let verdict = |met: bool| if met { "met" } else { "MISSED" };
    Ok(format!(
        "{} modules and {modules} GPUs (stand-ins), {seconds} s, {}, load {}\n  processor {share:.2} % of a core (<= {}: {})\n  resident {memory:.1} MB (<= {}: {})\n",
        modules,
        machine::describe(),
        machine::load(),
        GOALS.0,
        verdict(share <= GOALS.0),
        GOALS.1,
        verdict(memory <= GOALS.1),
    ))
}

/// `proc_pid_stat(5)`: utime and stime.
fn processor_seconds(pid: i32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no fields")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
}

fn resident_megabytes(pid: i32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().next().context("no number")?.parse()?;
    Ok(kib * 1024.0 / 1e6)
}
