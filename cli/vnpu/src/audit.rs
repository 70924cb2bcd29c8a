//! While the program of `vnpu run` runs: the ledgers of its chip beside the vendor's numbers, as the node plugin compares
//! them. Overhead is put on processes, and what is outside this run's quota is said once on standard error.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vnpu_discovery::Backend;
use vnpu_driver::hardware::{Chip, ProcessMemory};
use vnpu_driver::id::ClaimUid;
use vnpu_quota_agent::{Agent, ChipAudit, ClaimAudit, Limits, Promise, Verdict, Watch};

use crate::base::Base;

/// Between two comparisons, as the node plugin's `agentSeconds`.
const PERIOD: Duration = Duration::from_secs(5);

/// What one run's comparisons need.
pub(crate) struct Audit {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) chip: Chip,
    pub(crate) base: Base,
    pub(crate) claim: ClaimUid,
    /// The run's lock, which its processes inherit: who has it open is of this run.
    pub(crate) lock: PathBuf,
}

impl Audit {
    /// Compares from now on, in a thread that ends with the process: the vendor's library may take its time, and signals
    /// must not wait for it. Without a thread there is no comparison.
    pub(crate) fn start(self) {
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let _ = thread.spawn(move || {
            let mut rounds = Rounds::default();
            loop {
                std::thread::sleep(PERIOD);
                for line in self.round(&mut rounds).into_iter().flatten() {
                    eprintln!("vnpu: warning: {line}");
                }
            }
        });
    }

    /// One comparison; `None` while another run is at the regions, or the vendor does not answer.
    fn round(&self, rounds: &mut Rounds) -> Option<Vec<String>> {
        let agent = || self.base.node().exists().then(|| Agent::open(self.base.node()).ok()).flatten();
        let books = {
            let _turn = self.base.try_turn()?;
            agent()?.books(&self.chip.uuid)
        };
        let processes = self.backend.processes(&self.chip).ok()?;
        let audit = {
            let _turn = self.base.try_turn()?;
            let promise = |_: &ClaimUid| Promise::default();
            agent()?.audit(
                &self.chip.uuid,
                &processes,
                &books,
                &Limits::default(),
                &promise,
                &mut rounds.watch,
            )
        };
        let lock = inode(&self.lock)?;
        Some(rounds.judge(&self.claim, &audit, |process| has_open(process.pid, lock)))
    }
}

/// What is remembered between comparisons.
#[derive(Default)]
struct Rounds {
    watch: Watch,
    /// Comparisons in a row in which a process of the run was in no ledger.
    outside: BTreeMap<u32, u32>,
}

impl Rounds {
    /// What is to be said of `claim`; `is_ours` knows the run's processes that are in no ledger.
    fn judge(
        &mut self,
        claim: &ClaimUid,
        audit: &ChipAudit,
        is_ours: impl Fn(&ProcessMemory) -> bool,
    ) -> Vec<String> {
        let own = audit.claims.iter().find(|found| found.claim == *claim);
        let mut lines: Vec<String> = own.and_then(words).into_iter().collect();
        let ours = audit.strangers.iter().map(|(process, _)| process).filter(|process| is_ours(process));
        let mut outside = BTreeMap::new();
        for process in ours {
            let seen = self.outside.get(&process.pid).copied().unwrap_or(0).saturating_add(1);
            outside.insert(process.pid, seen);
            if seen == Limits::default().rounds {
                lines.push(format!(
                    "process {} of this run has {} bytes of the chip outside its quota: vnpu does not hold it (is it static, or \
                     does it load the runtime in a way of its own?)",
                    process.pid, process.bytes.0
                ));
            }
        }
        self.outside = outside;
        lines
    }
}

/// What a judgement says that has just begun to be so.
fn words(audit: &ClaimAudit) -> Option<String> {
    if !audit.judgement.begun {
        return None;
    }
    let pids: Vec<String> =
        audit.judgement.verdict.offenders().iter().map(|process| process.pid.to_string()).collect();
    let pids = pids.join(", ");
    match &audit.judgement.verdict {
        Verdict::Within => None,
        Verdict::Breach { allowed, .. } => Some(format!(
            "this run has more of the chip than its quota and overhead allow ({} bytes); process {pids} has most of it",
            allowed.0
        )),
        Verdict::Bypass { .. } => {
            Some(format!("processes of this run use the chip outside its quota: {pids}"))
        }
    }
}

/// Device and number of a file.
fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Whether a process has a file open.
fn has_open(pid: u32, file: (u64, u64)) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.map(|entry| entry.path()).any(|path| inode(&path) == Some(file))
}

#[cfg(test)]
mod tests {
    use vnpu_driver::quantity::Bytes;
    use vnpu_quota_agent::Home;

    use super::*;

    #[test]
    fn who_is_outside_for_long_enough_is_told_once() {
        let claim = ClaimUid::new("00000001-0000-4000-8000-000000000000").unwrap();
        let stranger = |pid| (ProcessMemory { pid, bytes: Bytes(7) }, Home::default());
        let audit = ChipAudit { strangers: vec![stranger(3), stranger(4)], ..ChipAudit::default() };
        let mut rounds = Rounds::default();
        let mut told = || rounds.judge(&claim, &audit, |process| process.pid == 3);
        assert_eq!((told().len(), told().len()), (0, 0), "it may just be starting");
        let lines = told();
        assert!(
            lines.len() == 1 && lines[0].contains("process 3 ") && lines[0].contains("7 bytes"),
            "{lines:?}"
        );
        assert_eq!(told(), Vec::<String>::new());
    }

    #[test]
    fn an_inherited_file_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = fs::File::create(&path).unwrap();
        let wanted = inode(&path).unwrap();
        assert!(has_open(std::process::id(), wanted));
        drop(file);
        assert!(!has_open(std::process::id(), wanted) && !has_open(u32::MAX, wanted));
    }
}
