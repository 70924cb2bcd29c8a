//! The regions of all runs in one base directory. Runs on one chip share that chip's region, so the regions of all
//! runs are of one agent, whose directory is `node`; each run has a directory that shows its own claim only.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vnpu_driver::hardware::Chip;
use vnpu_driver::id::ClaimUid;
use vnpu_driver::share::ClaimShares;
use vnpu_quota_agent::{Agent, Reader};

use crate::base::{Base, Turn, make_private};
use crate::error::RunError;
use crate::wish::{Neighbour, Wish};

const PREFIX: &str = "run-";
const LOCK: &str = "lock";
const NOTE: &str = "run.json";

/// What a run says of itself to others of the same user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// For people; need not be unique.
    pub(crate) name: String,
    /// The process of `vnpu run`.
    pub(crate) pid: u32,
}

/// The regions of this run. Its lock is inherited by the program and all it starts, so that the run is known to go
/// on for as long as one of them lives, also when we are killed.
#[derive(Debug)]
pub(crate) struct RunRegions {
    base: Base,
    claim: ClaimUid,
    dir: PathBuf,
    lock: File,
}

impl RunRegions {
    /// Gives this run what `wish` asks of `chip`, if the other runs leave it. What runs that are over have left is
    /// removed first.
    pub(crate) fn create(base: &Base, chip: &Chip, wish: &Wish, note: &Note) -> Result<Self, RunError> {
        base.make()?;
        let turn = base.turn()?;
        sweep(base, &turn);
        let share = wish.grant(chip, &neighbours(base, &turn))?;
        let claim = ClaimUid::new(uuid::Uuid::new_v4().to_string())
            .map_err(|_| RunError::Internal("a random UUID is no claim UID"))?;
        let dir = base.dir().join(format!("{PREFIX}{claim}"));
        let shares = ClaimShares { claim: claim.clone(), chips: vec![share] };
        match Self::make(base, &dir, &shares, note) {
            Ok(lock) => Ok(Self { base: base.clone(), claim, dir, lock }),
            Err(error) => {
                // Its lock is gone: to be removed like any other that is over.
                sweep(base, &turn);
                Err(error)
            }
        }
    }

    fn make(base: &Base, dir: &Path, shares: &ClaimShares, note: &Note) -> Result<File, RunError> {
        make_private(&base.node(), true)?;
        make_private(dir, false)?;
        let path = dir.join(LOCK);
        let lock = File::create(&path).map_err(|e| RunError::io("make", &path, e))?;
        lock.lock_shared().map_err(|e| RunError::io("lock", &path, e))?;
        let path = dir.join(NOTE);
        let text = serde_json::to_string(note).map_err(|_| RunError::Internal("a run has no words"))?;
        fs::write(&path, text).map_err(|e| RunError::io("write", &path, e))?;
        Agent::open(base.node())?.create(shares)?;
        // What a container of the claim sees; relative, as the base may be mounted elsewhere.
        let claims = dir.join("claims");
        make_private(&claims, false)?;
        let uid = shares.claim.as_str();
        let link = |to: PathBuf, at: PathBuf| symlink(to, &at).map_err(|e| RunError::io("make", &at, e));
        link(Path::new("../../node/claims").join(uid), claims.join(uid))?;
        link(PathBuf::from("../node/devices"), dir.join("devices"))?;
        Ok(lock)
    }

    /// Gives back what dead processes held, in all runs, and brings right what programs spoiled. Not while another
    /// run is at it.
    pub(crate) fn tend(&self) {
        let Some(_turn) = self.base.try_turn() else { return };
        // What cannot be done now is tried again; the program must not notice.
        if self.base.node().exists() {
            let _ = Agent::open(self.base.node()).and_then(|agent| agent.reap());
        }
    }

    /// The claim that stands for this run.
    pub(crate) fn claim(&self) -> &ClaimUid {
        &self.claim
    }

    /// The file whose descriptor the program inherits.
    pub(crate) fn lock_path(&self) -> PathBuf {
        self.dir.join(LOCK)
    }

    /// The directory for the interposer.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The descriptor that the program must inherit.
    pub(crate) fn lock_descriptor(&self) -> RawFd {
        self.lock.as_raw_fd()
    }

    /// Removes the regions unless processes of the run are left; then a later run does.
    pub(crate) fn remove(self) {
        let Self { base, claim: _, dir: _, lock } = self;
        drop(lock);
        if let Ok(turn) = base.turn() {
            sweep(&base, &turn);
        }
    }
}

/// The runs in `base`, with the note of each where it can be read, sorted.
pub(crate) fn runs(base: &Path) -> io::Result<Vec<(ClaimUid, Option<Note>)>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(base)? {
        let entry = entry?;
        let name = entry.file_name();
        let uid = name.to_str().and_then(|name| ClaimUid::new(name.strip_prefix(PREFIX)?).ok());
        if let Some(uid) = uid {
            let note = fs::read(entry.path().join(NOTE)).ok();
            out.push((uid, note.and_then(|text| serde_json::from_slice(&text).ok())));
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

/// What the runs have of their chips. One whose quota cannot be read is left out, with a word about it.
fn neighbours(base: &Base, _turn: &Turn) -> Vec<Neighbour> {
    let reader = Reader::new(base.node());
    let mut out = Vec::new();
    for (uid, note) in runs(base.dir()).unwrap_or_default() {
        let reading = match reader.read(&uid) {
            Ok(Some(reading)) => reading,
            Ok(None) => continue,
            Err(error) => {
                eprintln!("vnpu: warning: what another run has is not counted: {error}");
                continue;
            }
        };
        let pid = note.as_ref().map(|note| note.pid);
        let name = note.map_or_else(|| uid.to_string(), |note| note.name);
        for (chip, terms) in reading.usage.chips.iter().zip(&reading.terms) {
            out.push(Neighbour {
                name: name.clone(),
                pid,
                chip: chip.uuid.clone(),
                memory: chip.quota,
                cores: terms.cores,
                mode: terms.mode,
            });
        }
    }
    out
}

/// Removes what runs have left that are over beyond doubt; any other is left to a later run.
fn sweep(base: &Base, _turn: &Turn) {
    let reader = Reader::new(base.node());
    let (Ok(runs), Ok(claims)) = (runs(base.dir()), reader.claims()) else { return };
    let dir = |uid: &ClaimUid| base.dir().join(format!("{PREFIX}{uid}"));
    // A claim without a run's directory is of a removal that did not come to its end.
    let orphans = claims.into_iter().filter(|uid| !runs.iter().any(|(run, _)| run == uid));
    let unlocked = runs.iter().map(|(uid, _)| uid).filter(|uid| is_unlocked(&dir(uid))).cloned();
    let over: Vec<ClaimUid> = unlocked.chain(orphans).collect();
    if !over.is_empty() && base.node().exists() {
        // A program that closed the inherited lock, and even its slot's, still has the ledger mapped; the agent's
        // own rule says who lives.
        let Ok((agent, report)) = Agent::open(base.node()).and_then(|a| a.reap().map(|r| (a, r))) else {
            return;
        };
        for uid in over {
            let unreadable = report.unreadable.iter().any(|(unreadable, _)| *unreadable == uid);
            let gone = match reader.read(&uid) {
                Ok(reading) => reading.is_none_or(|reading| reading.occupied == 0),
                Err(_) => false,
            };
            // Its claim first: what is left of a removal that fails is found again by the directory.
            if gone && !unreadable && agent.remove(&uid).is_ok() {
                let _ = fs::remove_dir_all(dir(&uid));
            }
        }
    } else {
        for uid in over {
            let _ = fs::remove_dir_all(dir(&uid));
        }
    }
    // Each fails as long as there is something in it.
    for empty in ["claims", "devices"] {
        let _ = fs::remove_dir(base.node().join(empty));
    }
    let _ = fs::remove_dir(base.node());
}

/// Whether no process of the run has its lock any more.
fn is_unlocked(dir: &Path) -> bool {
    match File::open(dir.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        // Of a removal that did not come to its end, or of a run that did not come to its beginning.
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests;
