//! What the parts of the control plane take of the processors while pods are bound: what bounds the rate.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use vnpu_e2e_stack::Stack;

/// Parts whose processes are looked at; the controller has its own name.
const PARTS: [&str; 4] = ["etcd", "apiserver", "controller-manager", "scheduler"];

/// Clock ticks a second, as the kernel tells them to processes (`USER_HZ`): the same on x86_64 and aarch64.
const TICKS: u64 = 100;

/// Processor time since their start, by part.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taken(BTreeMap<String, Duration>);

impl Taken {
    /// What has been taken until now, by the control plane, by `controller` where there is one, and by this process.
    pub(crate) fn now(stack: &Stack, controller: Option<&str>) -> Result<Self> {
        let pids = PARTS.iter().copied().chain(controller).filter_map(|name| {
            let pid = stack.cluster.pid(name)?;
            Some((name.to_owned(), pid.to_string()))
        });
        let own = ("this load".to_owned(), "self".to_owned());
        let taken = pids.chain([own]).map(|(name, pid)| Ok((name, of(&pid)?)));
        Ok(Self(taken.collect::<Result<_>>()?))
    }

    /// What was taken since `before`, in processors, of a span.
    pub(crate) fn since(&self, before: &Self, span: Duration) -> String {
        let shares = self.0.iter().map(|(name, taken)| {
            let begun = before.0.get(name).copied().unwrap_or_default();
            let share = taken.saturating_sub(begun).as_secs_f64() / span.as_secs_f64();
            format!("{name} {share:.2}")
        });
        shares.collect::<Vec<_>>().join(", ")
    }
}

/// User and system time of a process with all its threads: `proc_pid_stat(5)`.
fn of(pid: &str) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything; the third field follows it.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}
