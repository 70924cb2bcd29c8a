//! The directory in which all runs of one user on one machine meet, and the turn that each takes to change what is
//! there. It is the user's alone, like all that lies in it.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::RunError;

/// How long a run waits for its turn: others have it for milliseconds, unless they are stopped.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// The common directory.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    dir: PathBuf,
}

/// The right to change what is in the directory. The kernel gives it back when the process dies.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: File,
}

impl Base {
    /// The directory that was asked for, else one below `$XDG_RUNTIME_DIR`, else root's own. Absolute: the program
    /// may change its directory before it starts others.
    pub(crate) fn find(configured: Option<&Path>) -> Result<Self, RunError> {
        let session = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
        let dir = choose(configured, session.as_deref().map(Path::new), user() == 0)?;
        Ok(Self { dir })
    }

    /// The directory itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The runtime directory of the agent of all runs, as `/run/vnpu` is that of a node: claims and chips' regions.
    pub(crate) fn node(&self) -> PathBuf {
        self.dir.join("node")
    }

    /// Makes the directory, for this user alone; one that is there must be this user's, or others could take the
    /// turn away or put another directory in its place.
    pub(crate) fn make(&self) -> Result<(), RunError> {
        make_private(&self.dir, true)?;
        self.check()
    }

    /// Whether the directory is this user's alone; one that is not there would be made so.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        let found = match fs::metadata(&self.dir) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(RunError::io("look at", &self.dir, e)),
        };
        let problem = if found.uid() != user() {
            format!("belongs to user {}, not to user {}", found.uid(), user())
        } else if found.mode() & 0o022 != 0 {
            "can be written by others".to_owned()
        } else {
            return Ok(());
        };
        Err(RunError::Base { dir: self.dir.clone(), problem })
    }

    /// Waits for the turn.
    pub(crate) fn turn(&self) -> Result<Turn, RunError> {
        let lock = File::open(&self.dir).map_err(|e| RunError::io("open", &self.dir, e))?;
        let begun = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Turn { _lock: lock }),
                Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => return Err(RunError::Busy { dir: self.dir.clone() }),
                Err(TryLockError::Error(e)) => return Err(RunError::io("lock", &self.dir, e)),
            }
        }
    }

    /// The turn if nobody has it.
    pub(crate) fn try_turn(&self) -> Option<Turn> {
        let lock = File::open(&self.dir).ok()?;
        lock.try_lock().ok().map(|()| Turn { _lock: lock })
    }
}

/// Makes a directory for this user alone: what is below is writable by everybody, as containers need it.
pub(crate) fn make_private(dir: &Path, parents: bool) -> Result<(), RunError> {
    DirBuilder::new().recursive(parents).mode(0o700).create(dir).map_err(|e| RunError::io("make", dir, e))
}

fn user() -> u32 {
    // SAFETY: reads a number of this process.
    unsafe { libc::geteuid() }
}

fn choose(configured: Option<&Path>, session: Option<&Path>, root: bool) -> Result<PathBuf, RunError> {
    match (configured, session) {
        (Some(dir), _) => std::path::absolute(dir).map_err(|e| RunError::io("find", dir, e)),
        (None, Some(dir)) => {
            check_session(dir).map_err(|problem| RunError::Session { dir: dir.to_path_buf(), problem })?;
            Ok(dir.join("vnpu"))
        }
        (None, None) if root => Ok(PathBuf::from("/run/vnpu-cli")),
        (None, None) => Err(RunError::NoSession),
    }
}

/// Who logs in gets this directory made, and who becomes somebody else may keep the variable without the directory,
/// or with somebody else's: it is not for us to make, nor to put a user's files into another's.
fn check_session(dir: &Path) -> Result<(), String> {
    if !dir.is_absolute() {
        return Err("is not absolute".to_owned());
    }
    let found = fs::metadata(dir).map_err(|error| format!("cannot be used ({error})"))?;
    if !found.is_dir() {
        return Err("is no directory".to_owned());
    }
    if found.uid() != user() {
        return Err(format!("belongs to user {}, not to user {}", found.uid(), user()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_where_the_option_says_else_in_the_session_else_in_roots_place() {
        let session = tempfile::tempdir().unwrap();
        let session = session.path();
        let choose = |option: Option<&str>, session, root| choose(option.map(Path::new), session, root);
        for root in [true, false] {
            assert_eq!(choose(Some("/x"), Some(session), root).unwrap(), Path::new("/x"));
            assert_eq!(choose(None, Some(session), root).unwrap(), session.join("vnpu"));
        }
        let here = std::env::current_dir().unwrap();
        assert_eq!(choose(Some("x"), None, false).unwrap(), here.join("x"));
        assert_eq!(choose(None, None, true).unwrap(), Path::new("/run/vnpu-cli"));
        let message = choose(None, None, false).unwrap_err().to_string();
        assert!(message.contains("XDG_RUNTIME_DIR is not set") && message.contains("--run-dir"), "{message}");
    }

    #[test]
    fn a_session_directory_that_cannot_be_used_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let (absent, file, foreign) =
            (dir.path().join("absent"), dir.path().join("file"), dir.path().join("foreign"));
        fs::write(&file, "").unwrap();
        fs::create_dir(&foreign).unwrap();
        let refused = |session: &Path, problem: &str| {
            let message = choose(None, Some(session), true).unwrap_err().to_string();
            let start = format!("XDG_RUNTIME_DIR is {}, which {problem}", session.display());
            assert!(message.starts_with(&start) && message.contains("--run-dir"), "{message}");
            assert!(choose(Some(dir.path()), Some(session), true).is_ok(), "the option needs no session");
        };
        refused(Path::new("run/user"), "is not absolute");
        refused(&absent, "cannot be used (No such file or directory");
        refused(&file, "is no directory");
        assert!(!absent.exists(), "it is not ours to make");
        // Only root can give a directory away.
        if std::os::unix::fs::chown(&foreign, Some(65534), None).is_ok() {
            refused(&foreign, "belongs to user 65534, not to user 0");
        }
    }

    #[test]
    fn a_base_that_is_not_this_users_alone_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base { dir: dir.path().join("below/base") };
        base.make().unwrap();
        base.make().unwrap();
        assert_eq!(fs::metadata(base.dir()).unwrap().permissions().mode() & 0o777, 0o700);
        for mode in [0o770, 0o702, 0o1777] {
            fs::set_permissions(base.dir(), fs::Permissions::from_mode(mode)).unwrap();
            let message = base.make().unwrap_err().to_string();
            assert!(message.contains("can be written by others"), "{mode:o}: {message}");
        }
    }

    #[test]
    fn one_has_the_turn_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base { dir: dir.path().to_path_buf() };
        let turn = base.turn().unwrap();
        assert!(base.try_turn().is_none());
        let waiting = std::thread::spawn({
            let base = base.clone();
            move || base.turn().unwrap()
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(turn);
        drop(waiting.join().unwrap());
        assert!(base.try_turn().is_some());
    }
}
