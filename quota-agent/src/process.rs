//! Whether processes live that hold no record lock any more: one that closes all its files loses its lock and
//! lives on. `/proc` is read once for all that are asked about, and a process is looked into at most once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vnpu_quota_abi::slot::{owner_pid, owner_starttime};

use crate::aside::Aside;

/// In the flags of a thread that is on its way out: its memory and files are being let go.
const PF_EXITING: u64 = 0x4;
/// Looks at a process whose threads change under the look.
const LOOKS: u32 = 3;

/// The processes of the machine at one moment, as far as they were asked about.
pub(crate) struct Processes<'a> {
    root: PathBuf,
    aside: &'a Aside,
    // By the pid in the process's own namespace; `None` when there is no list of processes.
    by_pid: Option<BTreeMap<u32, Vec<Process>>>,
    held: BTreeMap<u32, Held>,
}

struct Process {
    pid: u32,
    namespace: Option<u32>,
    // The low half: that is what owner words have.
    starttime: u32,
}

/// What a process still has.
#[derive(Debug)]
enum Held {
    /// All threads have ended.
    Nothing,
    /// On its way out: the driver may not have got everything back yet.
    Leaving,
    /// Not to be known.
    Hidden,
    /// It waits in the kernel with its mappings locked: it lives.
    Silent,
    /// The files of these inodes, mapped.
    Files(BTreeSet<u64>),
}

impl<'a> Processes<'a> {
    /// Those below `root` (`/proc`) that have one of `owners` as owner word, but for the start time.
    pub(crate) fn look(root: &Path, aside: &'a Aside, owners: impl Iterator<Item = u64>) -> Self {
        let wanted: BTreeSet<u32> = owners.map(owner_pid).collect();
        let by_pid = fs::read_dir(root).ok().map(|entries| {
            let mut by_pid: BTreeMap<u32, Vec<Process>> = BTreeMap::new();
            for entry in entries.flatten() {
                let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                let path = entry.path();
                let Some(inner) = innermost_pid(&path).filter(|pid| wanted.contains(pid)) else { continue };
                let Some(stat) = Stat::read(&path) else { continue };
                let starttime = low_half(stat.starttime);
                let process = Process { pid, namespace: namespace(&path), starttime };
                by_pid.entry(inner).or_default().push(process);
            }
            by_pid
        });
        Self { root: root.to_path_buf(), aside, by_pid, held: BTreeMap::new() }
    }

    /// Whether a process of this owner word and PID namespace may still have memory accounted in the usage file
    /// `inode`: it has the file mapped, cannot be looked into, or is on its way out. What is 0 in the two is not
    /// known (a container without `/proc`) and fits every process that can be looked into.
    pub(crate) fn lives(&mut self, owner: u64, namespace: u32, inode: u64) -> bool {
        let Self { root, aside, by_pid: Some(by_pid), held } = self else { return true };
        let Some(processes) = by_pid.get(&owner_pid(owner)) else { return false };
        let known = namespace != 0 && owner_starttime(owner) != 0;
        processes
            .iter()
            .filter(|p| namespace == 0 || p.namespace.is_none_or(|n| n == namespace))
            .filter(|p| owner_starttime(owner) == 0 || p.starttime == owner_starttime(owner))
            .any(|p| {
                match held.entry(p.pid).or_insert_with(|| held_by(&root.join(p.pid.to_string()), aside)) {
                    Held::Nothing => false,
                    Held::Leaving | Held::Silent => true,
                    Held::Hidden => known,
                    // After an exec the process lives and has its start time, but neither mapping nor memory.
                    Held::Files(inodes) => inodes.contains(&inode),
                }
            })
    }
}

/// Thread by thread: the first one may have ended before the others, and threads share their memory until each
/// lets go of it.
fn held_by(process: &Path, aside: &Aside) -> Held {
    for _ in 0..LOOKS {
        let Ok(threads) = fs::read_dir(process.join("task")) else { return Held::Nothing };
        let (mut leaving, mut changing) = (false, false);
        for thread in threads.flatten().map(|t| t.path()) {
            match Stat::read(&thread) {
                None => changing = true,
                Some(stat) if stat.ended => (),
                Some(stat) if stat.exiting => leaving = true,
                Some(_) => match aside.read(&thread.join("maps")) {
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Held::Hidden,
                    Err(e) if e.kind() == io::ErrorKind::TimedOut => return Held::Silent,
                    Err(_) => changing = true,
                    // It may have let its memory go between the two looks.
                    Ok(maps) => match Stat::read(&thread) {
                        Some(stat) if !stat.ended && !stat.exiting => return Held::Files(inodes(&maps)),
                        _ => changing = true,
                    },
                },
            }
        }
        if leaving {
            return Held::Leaving;
        }
        if !changing {
            return Held::Nothing;
        }
    }
    Held::Hidden
}

/// A line of `stat`, of a process or a thread.
pub(crate) struct Stat {
    pub(crate) ended: bool,
    exiting: bool,
    pub(crate) starttime: u64,
}

impl Stat {
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let stat = text(&path.join("stat"))?;
        // The second field is the program's name in parentheses and may hold anything; the others count from
        // behind it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let flags: u64 = fields.get(6)?.parse().ok()?;
        let starttime: u64 = fields.get(19)?.parse().ok()?;
        Some(Self {
            ended: matches!(*fields.first()?, "Z" | "X" | "x"),
            exiting: flags & PF_EXITING != 0,
            starttime,
        })
    }
}

fn low_half(starttime: u64) -> u32 {
    (starttime & 0xffff_ffff) as u32
}

pub(crate) fn namespace(process: &Path) -> Option<u32> {
    let link = fs::read_link(process.join("ns/pid")).ok()?;
    link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

pub(crate) fn innermost_pid(process: &Path) -> Option<u32> {
    let status = text(&process.join("status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

/// Inode numbers of the mapped files.
fn inodes(maps: &[u8]) -> BTreeSet<u64> {
    let maps = String::from_utf8_lossy(maps);
    maps.lines().filter_map(|l| l.split_whitespace().nth(4)?.parse().ok()).filter(|i| *i != 0).collect()
}

/// Names of programs and files need not be UTF-8.
fn text(path: &Path) -> Option<String> {
    Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())
}

#[cfg(test)]
mod tests;
