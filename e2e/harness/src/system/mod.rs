//! The operating system's side of a cluster: namespaces, network link, cgroups, processes, and the record
//! of what was made, by which everything is found and removed again.

mod cgroup;
mod guardian;
mod link;
mod mounts;
mod process;
mod record;
mod sandbox;

pub(crate) use cgroup::Cgroups;
pub(crate) use guardian::Guardian;
pub(crate) use link::Link;
pub(crate) use process::Component;
pub use process::ProcessSpec;
pub(crate) use record::{ProcessId, Record, RunDirectory};
pub use record::{clean_stale, runs_root};
pub(crate) use sandbox::Sandbox;

/// A random identifier of six hexadecimal digits, short because interface and socket names hold it.
pub(crate) fn random_id() -> anyhow::Result<String> {
    use std::io::Read;
    let mut bytes = [0_u8; 3];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Whether this process has root's powers.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
