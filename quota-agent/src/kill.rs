//! Ends processes that use a chip outside their claim's quota, where the claim's policy says so: only those that are
//! still the ones that were judged, and only in containers that have the claim.

use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use vnpu_driver::id::ClaimUid;

use crate::agent::Agent;
use crate::ledger::OnChip;
use crate::witness::{Evidence, Home, UsageFile, Witness};

/// A process that a verdict is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offender {
    /// The process, and what it has on the chip.
    pub process: OnChip,
    /// Where it runs.
    pub home: Home,
    /// Why it counts as the claim's.
    pub evidence: Evidence,
}

/// Why a process was not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Spared {
    /// It has ended, or another process has its number.
    #[error("it has ended meanwhile")]
    Gone,
    /// It is in another cgroup than when it was judged.
    #[error("it has moved to another cgroup; it is judged again")]
    Moved,
    /// Nothing but its own doing makes it the claim's.
    #[error("it is in no container that has the claim; end it by hand")]
    NotInContainer,
    /// The first process of the machine, or the agent itself.
    #[error("it is a process that the node needs")]
    Protected,
    /// The system refused.
    #[error("the system refuses: {0}")]
    Refused(rustix::io::Errno),
}

impl Spared {
    /// Stable word.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Moved => "moved",
            Self::NotInContainer => "not_in_container",
            Self::Protected => "protected",
            Self::Refused(_) => "refused",
        }
    }
}

/// Whether the process that was judged may be ended, by what is seen of its number now.
fn may_kill(
    offender: &Offender,
    now: Option<&Witness>,
    evidence: Option<Evidence>,
    own_pid: u32,
) -> Result<(), Spared> {
    let pid = offender.process.pid;
    if pid <= 1 || pid == own_pid {
        return Err(Spared::Protected);
    }
    let now = now.filter(|now| now.starttime == offender.process.starttime).ok_or(Spared::Gone)?;
    if now.home.cgroup != offender.home.cgroup {
        return Err(Spared::Moved);
    }
    match evidence {
        Some(Evidence::Mounted | Evidence::Cgroup) if now.home.container.is_some() => Ok(()),
        _ => Err(Spared::NotInContainer),
    }
}

impl Agent {
    /// Ends a process that a verdict on `claim` is about. `pods` are those that the claim is reserved for.
    ///
    /// # Errors
    /// Why it lives on.
    pub fn kill(&self, claim: &ClaimUid, offender: &Offender, pods: &[String]) -> Result<(), Spared> {
        let pid = i32::try_from(offender.process.pid).ok().and_then(Pid::from_raw).ok_or(Spared::Gone)?;
        // Held from before the look: the signal goes to the process that was looked at, or to none.
        let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| Spared::Gone)?;
        let now = Witness::look(Path::new("/proc"), self.aside(), offender.process.pid);
        let usage = UsageFile::of(claim, &self.layout().usage(claim));
        let evidence = now.as_ref().zip(usage).and_then(|(now, usage)| now.evidence(&usage, pods));
        may_kill(offender, now.as_ref(), evidence, std::process::id())?;
        pidfd_send_signal(&handle, Signal::KILL).map_err(Spared::Refused)
    }
}

#[cfg(test)]
mod tests;
