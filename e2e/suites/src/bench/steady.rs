//! What the plugin takes of a node with Ascend modules and as many NVIDIA GPUs where nothing happens.

use std::collections::BTreeMap;
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
    let (before, of_threads) = (processor_seconds(pid)?, threads(pid)?);
    std::thread::sleep(Duration::from_secs(seconds));
    let mut parts: Vec<(f64, String)> = threads(pid)?
        .into_iter()
        .map(|(name, spent)| (spent - of_threads.get(&name).copied().unwrap_or_default(), name))
        .filter(|(spent, _)| *spent > 0.0)
        .collect();
    parts.sort_by(|one, other| other.0.total_cmp(&one.0));
    let parts: Vec<String> = parts.iter().map(|(spent, name)| format!("{name} {spent:.2} s")).collect();
    // Whole seconds far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let share = (processor_seconds(pid)? - before) / seconds as f64 * 100.0;
    let memory = resident_megabytes(pid)?;
    let verdict = |met: bool| if met { "met" } else { "MISSED" };
    Ok(format!(
        "{} modules and {modules} GPUs (stand-ins), {seconds} s, {}, load {}\n  processor {share:.2} % of a core (<= {}: {}): {}\n  resident {memory:.1} MB (<= {}: {}): {}\n",
        modules,
        machine::describe(),
        machine::load(),
        GOALS.0,
        verdict(share <= GOALS.0),
        parts.join(", "),
        GOALS.1,
        verdict(memory <= GOALS.1),
        resident_parts(pid)?,
    ))
}

/// `proc_pid_stat(5)`: utime and stime.
fn processor_seconds(pid: i32) -> Result<f64> {
    spent_by(&pid.to_string())
}

fn spent_by(process: &str) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no fields")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
}

/// Seconds by the threads' names; of those that live now.
fn threads(pid: i32) -> Result<BTreeMap<String, f64>> {
    let mut spent = BTreeMap::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let number = thread?.file_name();
        let path = format!("{pid}/task/{}", number.to_string_lossy());
        // One that has ended meanwhile is not counted.
        let (Ok(name), Ok(seconds)) =
            (std::fs::read_to_string(format!("/proc/{path}/comm")), spent_by(&path))
        else {
            continue;
        };
        *spent.entry(name.trim().to_owned()).or_default() += seconds;
    }
    Ok(spent)
}

/// What of it is program text and what is its own.
fn resident_parts(pid: i32) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let lines = status.lines().filter(|line| line.starts_with("RssAnon") || line.starts_with("RssFile"));
    Ok(lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", "))
}

fn resident_megabytes(pid: i32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().next().context("no number")?.parse()?;
    Ok(kib * 1024.0 / 1e6)
}
