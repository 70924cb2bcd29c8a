//! The node's view of the file system: the host's, with the few directories that kubelet, containerd and the
//! CNI plugins insist on by fixed name replaced by private ones.

use std::ffi::CStr;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    unmount,
};

/// Where a private directory is put together before it covers the host's. Every system has it, and nothing
/// needs it for that moment.
const STAGE: &str = "/mnt";

const NO_DATA: Option<&CStr> = None;

/// Names that are private to the node in each of the host's directories. All else there stays the host's.
const PRIVATE: &[(&str, &[&str])] = &[
    // Device plugin sockets are at a fixed path whatever kubelet's root is; libcni caches results here.
    ("/var/lib", &["kubelet", "cni"]),
    // Links to container logs, made by kubelet without asking.
    ("/var/log", &["containers", "pods"]),
    // The shims' sockets, network namespaces, runc's state, the lock of iptables (whose rules are per
    // network namespace).
    ("/run", &["containerd", "netns", "runc", "nri", "kubelet", "xtables.lock", "vnpu"]),
];

/// Kernel settings that kubelet writes at its start, with the values it wants. Files in their place satisfy
/// it without changing the host.
const SETTINGS: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Cuts the calling thread's mount namespace off from the host's (the host's later mounts still appear, ours
/// never appear there) and makes it shared within, as pods with mount propagation need.
pub(crate) fn separate() -> Result<()> {
    use MountPropagationFlags as P;
    mount_change("/", P::DOWNSTREAM | P::REC).context("making the node's mounts slaves of the host's")?;
    for (directory, names) in PRIVATE {
        privatise(Path::new(directory), names)?;
    }
    mount_change("/", P::SHARED | P::REC).context("making the node's mounts shared among themselves")
}

/// Covers kernel settings; after the namespace's own `/proc` is mounted.
pub(crate) fn cover_settings(scratch: &Path) -> Result<()> {
    for (name, value) in SETTINGS {
        let target = Path::new("/proc/sys").join(name);
        if !target.exists() {
            continue;
        }
        let file = scratch.join(name.replace('/', "."));
        fs::write(&file, format!("{value}\n"))?;
        mount_bind(&file, &target).with_context(|| format!("covering {}", target.display()))?;
    }
    Ok(())
}

/// Replaces `directory` by one that shows all its entries but has its own empty directories for `names`.
fn privatise(directory: &Path, names: &[&str]) -> Result<()> {
    let stage = Path::new(STAGE);
    mount("tmpfs", stage, "tmpfs", MountFlags::empty(), NO_DATA)
        .with_context(|| format!("mounting on {STAGE}"))?;
    let work = || -> Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if names.iter().any(|n| entry.file_name() == *n) {
                continue;
            }
            let (from, to) = (entry.path(), stage.join(entry.file_name()));
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
            } else if kind.is_dir() {
                fs::create_dir(&to)?;
                mount_bind_recursive(&from, &to).with_context(|| format!("binding {}", from.display()))?;
            } else {
                fs::write(&to, "")?;
                // A socket whose owner has just removed it is no loss.
                let _ = mount_bind(&from, &to);
            }
        }
        for name in names.iter().filter(|n| !n.contains('.')) {
            fs::create_dir_all(stage.join(name))?;
        }
        fs::set_permissions(stage, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        mount_bind_recursive(stage, directory).with_context(|| format!("covering {}", directory.display()))
    };
    let done = work();
    unmount(stage, UnmountFlags::DETACH).context("clearing the staging mount")?;
    done
}
