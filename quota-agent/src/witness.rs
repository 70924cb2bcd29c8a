//! Whose process it is that uses a chip, by what the kernel says and no tenant can write: the files mounted for
//! its container, its cgroup, the files that it has mapped.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use vnpu_driver::id::ClaimUid;

use crate::aside::Aside;
use crate::process::{Stat, innermost_pid, namespace};

/// A file: device and inode number.
pub(crate) type FileId = (u64, u64);

/// The usage file of one claim.
#[derive(Debug, Clone)]
pub(crate) struct UsageFile {
    pub(crate) claim: ClaimUid,
    pub(crate) id: FileId,
}

impl UsageFile {
    /// The claim's file at `path`; `None` when it is gone.
    pub(crate) fn of(claim: &ClaimUid, path: &Path) -> Option<Self> {
        let metadata = fs::symlink_metadata(path).ok()?;
        Some(Self { claim: claim.clone(), id: (metadata.dev(), metadata.ino()) })
    }
}

/// Why a process counts as a claim's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// It has the claim's ledger mapped. Anybody to whom the file is visible could have.
    Mapped,
    /// Its cgroup is that of a pod that the claim is reserved for.
    Cgroup,
    /// The claim's ledger is mounted for it: it is in a container that was given the claim.
    Mounted,
}

/// Where a process runs, for people and for the look before a kill.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Home {
    /// UID of the pod, by the cgroup.
    pub pod: Option<String>,
    /// The container's identity, by the cgroup.
    pub container: Option<String>,
    /// The program's name, as the process gives it.
    pub program: String,
    pub(crate) cgroup: String,
}

/// What the kernel says of one process.
#[derive(Debug, Clone)]
pub(crate) struct Witness {
    pub(crate) starttime: u64,
    pub(crate) inner_pid: u32,
    pub(crate) namespace: u32,
    pub(crate) home: Home,
    // `None` when the kernel does not say so in time.
    mapped: Option<BTreeSet<FileId>>,
    // Device and path inside the file system of each file mounted.
    mounts: Vec<(u64, String)>,
}

impl Witness {
    /// Looks at process `pid` below `root` (`/proc`); `None` when it is gone or hidden.
    pub(crate) fn look(root: &Path, aside: &Aside, pid: u32) -> Option<Self> {
        let process = root.join(pid.to_string());
        let stat = Stat::read(&process)?;
        let cgroup = text(process.join("cgroup"));
        let seen = Self {
            starttime: stat.starttime,
            inner_pid: innermost_pid(&process)?,
            namespace: namespace(&process)?,
            mapped: match aside.read(&process.join("maps")) {
                Err(e) if e.kind() == io::ErrorKind::TimedOut => None,
                maps => Some(utf8(maps).lines().filter_map(mapped).collect()),
            },
            mounts: text(process.join("mountinfo")).lines().filter_map(mount).collect(),
            home: home(cgroup, text(process.join("comm")).trim_end()),
        };
        // Another process of the same number would have begun later.
        let again = Stat::read(&process)?;
        (again.starttime == seen.starttime && !again.ended).then_some(seen)
    }

    /// One of whom nothing is known.
    #[cfg(test)]
    pub(crate) fn nobody() -> Self {
        Self {
            starttime: 0,
            inner_pid: 0,
            namespace: 0,
            home: Home::default(),
            mapped: Some(BTreeSet::new()),
            mounts: Vec::new(),
        }
    }

    /// Why the process is the claim's, the strongest reason first; `None` when nothing says so. `pods` are the UIDs
    /// of the pods that the claim is reserved for.
    pub(crate) fn evidence(&self, usage: &UsageFile, pods: &[String]) -> Option<Evidence> {
        let tail = format!("/claims/{}/usage", usage.claim);
        let mounted = |(device, path): &(u64, String)| {
            *device == usage.id.0 && path.strip_suffix("//deleted").unwrap_or(path).ends_with(&tail)
        };
        if self.mounts.iter().any(mounted) {
            Some(Evidence::Mounted)
        } else if self.home.pod.as_ref().is_some_and(|pod| pods.contains(pod)) {
            Some(Evidence::Cgroup)
        } else {
            self.mapped.as_ref()?.contains(&usage.id).then_some(Evidence::Mapped)
        }
    }

    /// Whether it has the claim's ledger mapped, or may have: of whom that cannot be seen, who is the claim's by a better
    /// reason and has a slot there counts as attached, and its bytes are the claim's either way.
    pub(crate) fn may_have_mapped(&self, usage: &UsageFile) -> bool {
        self.mapped.as_ref().is_none_or(|mapped| mapped.contains(&usage.id))
    }
}

fn text(path: PathBuf) -> String {
    utf8(fs::read(path))
}

/// Names of programs and files need not be UTF-8.
fn utf8(read: io::Result<Vec<u8>>) -> String {
    read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// A line of `maps`: `start-end flags offset major:minor inode path`.
fn mapped(line: &str) -> Option<FileId> {
    let mut words = line.split_whitespace().skip(3);
    let (major, minor) = words.next()?.split_once(':')?;
    let number = |hex| u32::from_str_radix(hex, 16).ok();
    let inode = words.next()?.parse().ok().filter(|inode| *inode != 0)?;
    Some((libc::makedev(number(major)?, number(minor)?), inode))
}

/// A line of `mountinfo`: `id parent major:minor root place ...`.
fn mount(line: &str) -> Option<(u64, String)> {
    let mut words = line.split_whitespace().skip(2);
    let (major, minor) = words.next()?.split_once(':')?;
    let device = libc::makedev(major.parse().ok()?, minor.parse().ok()?);
    Some((device, words.next()?.to_owned()))
}

/// The pod and the container that a cgroup is named after, as the kubelet and the container runtimes name them: a
/// part `pod<uid>` or `kubepods-...-pod<uid with underscores>.slice`, and behind it one that ends in 64 hex digits.
fn home(cgroup: String, program: &str) -> Home {
    let (mut pod, mut container) = (None, None);
    for part in cgroup.lines().flat_map(|line| line.split('/').skip(1)) {
        let part = part.strip_suffix(".slice").or(part.strip_suffix(".scope")).unwrap_or(part);
        if let Some((_, uid)) = part.rsplit_once("pod").filter(|(_, uid)| is_uid(uid)) {
            pod = Some(uid.replace('_', "-"));
        } else if pod.is_some()
            && let Some(id) = part.rsplit(['-', ':']).next().filter(|id| is_container(id))
        {
            container = Some(id.to_owned());
        }
    }
    let program = program.chars().filter(|c| !c.is_control()).take(32).collect();
    Home { pod, container, program, cgroup }
}

fn is_uid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-' || b == b'_')
}

fn is_container(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
