//! What a cluster could leave on a machine beside processes: mounts, network, rules, cgroups, files, settings.
//! A machine is the set of these facts, one line each; two of them are compared.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Directories of which kubelet, containerd, runc or CNI plugins have fixed names, with how deep to look.
const DIRECTORIES: &[(&str, usize)] = &[
    ("/run", 1),
    ("/run/netns", 2),
    ("/run/containerd", 4),
    ("/run/runc", 2),
    ("/run/vnpu", 4),
    ("/var/run/cdi", 1),
    ("/var/lib", 1),
    ("/var/lib/kubelet", 4),
    ("/var/lib/cni", 3),
    ("/var/log", 1),
    ("/var/log/pods", 2),
    ("/var/log/containers", 1),
    ("/etc/cni", 2),
    ("/etc/kubernetes", 2),
    ("/mnt", 1),
    ("/dev/shm", 1),
];

/// Kernel settings that kubelet, containerd or CNI plugins write where they can.
const SETTINGS: &[&str] = &[
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
];

/// The facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine(BTreeSet<String>);

impl Machine {
    /// Looks at this machine and at all that lies in `place`. Names of clusters that are none of `clusters` are
    /// passed over: others may start and stop clusters meanwhile.
    pub(crate) fn look(place: &Path, clusters: &[&str]) -> Self {
        let mut facts = BTreeSet::new();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        facts.extend(mounts.lines().map(|line| format!("mount {line}")));
        // Before the files: iptables makes its lock.
        for program in ["iptables", "ip6tables"] {
            for table in ["filter", "nat", "mangle"] {
                let listed = Command::new(program).args(["-w", "-t", table, "-S"]).output();
                let listed = listed.map(|output| output.stdout).unwrap_or_default();
                let listed = String::from_utf8(listed).unwrap();
                facts.extend(listed.lines().map(|line| format!("rule {program} {table} {line}")));
            }
        }
        let own = |name: &str| clusters.iter().any(|id| name.ends_with(id));
        for name in names("/sys/class/net".as_ref()) {
            if own(&name) || !is_of_a_cluster(&name, "vnpu") {
                facts.insert(format!("interface {name}"));
            }
        }
        // Hierarchies of cgroup v1, or the cgroups themselves on v2.
        for name in names("/sys/fs/cgroup".as_ref()) {
            let mut groups = names(&Path::new("/sys/fs/cgroup").join(&name));
            groups.push(name.clone());
            for group in groups.iter().filter(|group| own(group) || !is_of_a_cluster(group, "vnpu-")) {
                facts.insert(format!("cgroup {name} {group}"));
            }
        }
        for (directory, depth) in DIRECTORIES {
            files(directory.as_ref(), *depth, &mut facts);
        }
        if let Some(home) = std::env::var_os("HOME") {
            files(&Path::new(&home).join(".kube"), 3, &mut facts);
        }
        files(place, 4, &mut facts);
        for name in SETTINGS {
            let value = fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default();
            facts.insert(format!("setting {name} = {}", value.trim()));
        }
        Self(facts)
    }

    /// How this machine differs from what it was: a line for each fact. Of a tree only its top.
    pub(crate) fn differences(&self, before: &Self) -> Vec<String> {
        let tops = |here: &Self, there: &Self, word: &str| -> Vec<String> {
            let facts: BTreeSet<&String> = here.0.difference(&there.0).collect();
            let beneath =
                |fact: &str| fact.rsplit_once('/').is_some_and(|(top, _)| facts.contains(&top.to_owned()));
            facts
                .iter()
                .filter(|f| !f.starts_with("file ") || !beneath(f))
                .map(|f| format!("{word}: {f}"))
                .collect()
        };
        [tops(self, before, "new"), tops(before, self, "gone")].concat()
    }
}

/// Whether `name` is `prefix` and a cluster's identifier.
fn is_of_a_cluster(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|id| id.len() == 6 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The entries of a directory, none when it is none.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// All entries to a depth. Links are not followed: what they lead to is listed by its own name.
fn files(directory: &Path, depth: usize, facts: &mut BTreeSet<String>) {
    for name in names(directory) {
        let path = directory.join(name);
        facts.insert(format!("file {}", path.display()));
        if depth > 1 && fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
            files(&path, depth - 1, facts);
        }
    }
}
