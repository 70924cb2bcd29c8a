//! A shell that outlives its cluster's owner by a second and removes what the kernel does not: the run
//! directory, the cgroup, the host's end of the link. It acts when the owner dies without having tidied up.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

use super::cgroup::Cgroups;
use super::link::Link;

/// Waits for the end of its input, which is the owner's end. On the way it is told the init's number once
/// there is one; `done` means the owner has tidied up by itself.
const SCRIPT: &str = r#"
run=$1 group=$2 link=$3 init=0
while read -r word value; do
    case $word in
    done) exit 0 ;;
    init) init=$value ;;
    esac
done
[ -f "$run/record.json" ] || exit 0
if [ "$init" != 0 ]; then
    # The link to its program goes before its namespaces do; the number may stay until someone reaps it.
    i=0
    while [ -e "/proc/$init/exe" ] && [ "$i" -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
    ip link del "$link" 2>/dev/null
fi
for tree in /sys/fs/cgroup/"$group" /sys/fs/cgroup/*/"$group"; do
    i=0
    while [ -d "$tree" ] && [ "$i" -lt 50 ]; do
        find "$tree" -depth -type d -exec rmdir {} \; 2>/dev/null
        [ -d "$tree" ] && sleep 0.1
        i=$((i + 1))
    done
done
grep -q " $run/" /proc/self/mountinfo && exit 1
# A dying process may still be writing.
i=0
while [ -d "$run" ] && [ "$i" -lt 20 ]; do
    # The record last: by it the next start finds what an interrupted removal has left.
    find "$run" -mindepth 1 -maxdepth 1 ! -name record.json -exec rm -rf -- {} + 2>/dev/null && rm -rf -- "$run"
    [ -d "$run" ] && sleep 0.1
    i=$((i + 1))
done
"#;

/// The guardian of one cluster.
#[derive(Debug)]
pub(crate) struct Guardian {
    child: Child,
    input: Option<ChildStdin>,
}

impl Guardian {
    /// Starts it.
    ///
    /// # Errors
    /// When `/bin/sh` cannot be started.
    pub(crate) fn start(run: &Path, id: &str) -> Result<Self> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT, "vnpu-guardian"])
            .arg(run)
            .arg(Cgroups::name(id).trim_start_matches('/'))
            .arg(Link::interface(id))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: one system call, no allocation. A session of its own: Ctrl-C must not end the guardian
        // together with its ward.
        unsafe {
            command.pre_exec(|| {
                let _ = rustix::process::setsid();
                Ok(())
            });
        }
        let mut child = command.spawn().context("starting the cluster's guardian")?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    /// Tells it the first process of the node's namespaces, which the kernel kills with the owner.
    ///
    /// # Errors
    /// When the guardian is gone.
    pub(crate) fn watch(&mut self, init: i32) -> Result<()> {
        let input = self.input.as_mut().context("the guardian has been dismissed")?;
        writeln!(input, "init {init}").context("the cluster's guardian is gone")
    }

    /// Tells it that nothing is left to do.
    pub(crate) fn dismiss(&mut self) {
        if let Some(mut input) = self.input.take() {
            let _ = input.write_all(b"done\n");
        }
        let _ = self.child.wait();
    }
}
