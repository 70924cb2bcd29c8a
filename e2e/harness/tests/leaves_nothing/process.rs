//! Processes as `/proc` shows them, and which of them are a cluster's.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};

/// The namespaces that a cluster makes.
const NAMESPACES: &[&str] = &["mnt", "net", "pid"];

/// A process, told apart from a later one of the same number by when it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    parent: i32,
    started: String,
    /// Its whole command line.
    pub(crate) command: String,
}

impl Process {
    /// The living process of a number. One without a program has let go of all it had and waits for its parent.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything. State is field 3, the parent 4, the start 22.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let living = !matches!(*fields.first()?, "Z" | "X");
        living.then_some(())?;
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            started: (*fields.get(19)?).to_owned(),
            command,
        })
    }

    /// All that live.
    pub(crate) fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| Self::of(entry.file_name().to_str()?.parse().ok()?)).collect()
    }

    /// Whether this very process lives.
    pub(crate) fn lives(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now.started == self.started)
    }

    /// Its namespaces that are not ours too.
    pub(crate) fn namespaces(&self) -> BTreeSet<PathBuf> {
        let read = |pid: &str, kind: &&str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
        let pid = self.pid.to_string();
        let own = NAMESPACES.iter().filter_map(|kind| read(&pid, kind));
        own.filter(|namespace| !NAMESPACES.iter().any(|kind| read("self", kind).as_ref() == Some(namespace)))
            .collect()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid).unwrap(), signal).unwrap();
    }

    /// A line for people.
    pub(crate) fn line(&self) -> String {
        // A script may be among the arguments.
        let command = self.command.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("process {}: {command:.160}", self.pid)
    }
}

/// The descendants of `roots`, and all in their namespaces with theirs. The roots themselves too.
pub(crate) fn family(roots: &[i32]) -> Vec<Process> {
    let all = Process::all();
    let mut namespaces = BTreeSet::new();
    let mut family: Vec<Process> = Vec::new();
    loop {
        let more: Vec<Process> = all
            .iter()
            .filter(|p| !family.contains(p))
            .filter(|p| {
                roots.contains(&p.pid)
                    || family.iter().any(|member| member.pid == p.parent)
                    || !p.namespaces().is_disjoint(&namespaces)
            })
            .cloned()
            .collect();
        if more.is_empty() {
            return family;
        }
        namespaces.extend(more.iter().flat_map(Process::namespaces));
        family.extend(more);
    }
}
