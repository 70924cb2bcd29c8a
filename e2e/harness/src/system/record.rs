//! The run directory of a cluster and the record in it of everything that lives outside it. Whoever finds a
//! record whose owner is gone can remove all that the owner left.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::cgroup::Cgroups;
use super::link::Link;

/// The record's name in a run directory.
const RECORD: &str = "record.json";

/// How long a directory may be without its first record while it is made; it takes milliseconds.
const MAKING: Duration = Duration::from_secs(60);

/// A process, told apart from a later one with the same number by when it started and in which boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Its number in the initial PID namespace of whoever recorded it.
    pub(crate) pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub(crate) started: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub(crate) boot: String,
}

impl ProcessId {
    /// The identity of a living process, or `None` when there is none with this number.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; fields are counted after it. State is field 3.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        if fields.next()? == "Z" {
            return None;
        }
        let started = fields.nth(18)?.to_owned();
        // A process without memory is past the point where it lets go of its namespaces. The first process
        // of a PID namespace can linger there until some slow init has reaped the others.
        fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        Some(Self { pid, started, boot })
    }

    /// Whether this very process still runs.
    pub(crate) fn alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Kills it, if it still is the same process, and waits until it is gone.
    ///
    /// # Errors
    /// When it survives ten seconds.
    pub(crate) fn kill(&self) -> Result<()> {
        let begun = Instant::now();
        while self.alive() {
            if let Some(pid) = rustix::process::Pid::from_raw(self.pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            if begun.elapsed() > Duration::from_secs(10) {
                bail!("process {} survives SIGKILL", self.pid);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// What a cluster has made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The cluster's identifier; names of its cgroup and network link derive from it.
    pub(crate) id: String,
    /// The process that started it and, unless `detached`, takes it down when it ends.
    pub(crate) owner: ProcessId,
    /// Whether the cluster outlives its owner (`vnpu-cluster up`).
    pub(crate) detached: bool,
    /// First process of the node's PID namespace: when it dies, the kernel kills all others in it and
    /// drops its mounts and network.
    pub(crate) init: Option<ProcessId>,
    /// Processes outside such a namespace (without root there is none).
    pub(crate) processes: Vec<ProcessId>,
}

/// The directory of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct RunDirectory {
    path: PathBuf,
}

/// Where run directories lie: `$VNPU_RUNS`, else `/var/lib/vnpu-dra` for root, else
/// `$XDG_STATE_HOME/vnpu-dra` or `~/.local/state/vnpu-dra`. Short for root: kubelet's plugin sockets are
/// beneath it, and a socket's path has at most 107 bytes.
///
/// # Errors
/// Without root when none of the variables is set.
pub fn runs_root() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = set("VNPU_RUNS") {
        return Ok(path);
    }
    if super::is_root() {
        return Ok(PathBuf::from("/var/lib/vnpu-dra"));
    }
    set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|h| h.join(".local/state")))
        .map(|d| d.join("vnpu-dra"))
        .context("no place for the cluster's files: set HOME, XDG_STATE_HOME or VNPU_RUNS")
}

impl RunDirectory {
    /// Makes the directory of cluster `id` and writes its first record.
    ///
    /// # Errors
    /// When it cannot be made or its path is too long for the sockets beneath it.
    pub(crate) fn create(id: &str, detached: bool) -> Result<(Self, Record)> {
        let path = runs_root()?.join(id);
        if path.as_os_str().len() > 50 {
            bail!(
                "{} is too long a path: sockets beneath it would exceed 107 bytes; set VNPU_RUNS",
                path.display()
            );
        }
        let owner = ProcessId::of(std::process::id().cast_signed()).context("reading /proc/self/stat")?;
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        let directory = Self { path };
        let record = Record { id: id.to_owned(), owner, detached, init: None, processes: Vec::new() };
        directory.save(&record)?;
        Ok((directory, record))
    }

    /// The directory of an existing cluster.
    pub(crate) fn open(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes and returns a directory beneath it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn sub(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }

    /// Writes the record, atomically.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(crate) fn save(&self, record: &Record) -> Result<()> {
        let temporary = self.path.join("record.tmp");
        fs::write(&temporary, serde_json::to_vec_pretty(record)?)?;
        fs::rename(&temporary, self.path.join(RECORD)).context("writing the cluster's record")
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When there is none or it is not ours.
    pub(crate) fn load(&self) -> Result<Record> {
        let path = self.path.join(RECORD);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
    }

    /// Kills the cluster's processes and removes everything it made, this directory last, so that a
    /// removal that is interrupted can be repeated.
    ///
    /// # Errors
    /// When something resists; the directory then stays.
    pub(crate) fn destroy(&self, record: &Record) -> Result<()> {
        for process in record.init.iter().chain(&record.processes) {
            process.kill()?;
        }
        Link::remove(&record.id);
        Cgroups::remove(&record.id)?;
        self.remove()
    }

    /// Removes the directory, the record last: by it whoever comes after an interrupted removal finds the rest.
    fn remove(&self) -> Result<()> {
        // The mounts lived in the dead namespace; a mount here would mean something else is wrong, and
        // removing through it would destroy what it shows.
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let inside = format!("{}/", self.path.display());
        if let Some(line) =
            mounts.lines().find(|l| l.split(' ').nth(4).is_some_and(|p| p.starts_with(&inside)))
        {
            bail!("something is still mounted in the run directory, leaving it alone: {line}");
        }
        persist(&self.path, || {
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                if entry.file_name() == RECORD {
                    continue;
                }
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
            fs::remove_dir_all(&self.path)
        })
    }

    /// Whether it has no record and is not just being made: its maker died before it could write one, or the
    /// removal was cut short between the record and the directory itself.
    fn abandoned(&self) -> bool {
        let age = fs::metadata(&self.path).and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        !self.path.join(RECORD).exists() && is_id(&self.id()) && age.is_some_and(|age| age > MAKING)
    }

    fn id(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// Whether `name` is one that [`super::random_id`] makes. Other directories among ours are someone else's.
fn is_id(name: &str) -> bool {
    name.len() == 6 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Removes something at `path`, in which dying processes may still write for a moment, or someone else remove.
fn persist(path: &Path, remove: impl Fn() -> std::io::Result<()>) -> Result<()> {
    let mut attempts = 0;
    while path.exists() {
        match remove() {
            Err(error) if attempts >= 20 => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
            Ok(()) => {}
        }
        attempts += 1;
    }
    Ok(())
}

/// Removes what crashed clusters left: every run directory whose owner is gone (or, for a detached one,
/// whose node is gone). Returns the identifiers removed.
///
/// # Errors
/// When one of them resists.
pub fn clean_stale() -> Result<Vec<String>> {
    let root = runs_root()?;
    let mut removed = Vec::new();
    let Ok(entries) = fs::read_dir(&root) else { return Ok(removed) };
    for entry in entries.flatten() {
        let directory = RunDirectory::open(entry.path());
        if directory.abandoned() {
            directory.remove()?;
            removed.push(directory.id());
        }
        let Ok(record) = directory.load() else { continue };
        let lives = if record.detached {
            // While `up` still runs there may be no process yet.
            record.owner.alive() || record.init.iter().chain(&record.processes).any(ProcessId::alive)
        } else {
            record.owner.alive()
        };
        if !lives {
            directory
                .destroy(&record)
                .with_context(|| format!("removing what cluster {} left", record.id))?;
            removed.push(record.id);
        }
    }
    Ok(removed)
}
