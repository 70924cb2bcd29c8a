//! Waits for changes in a folder (inotify). What changed is not told: whoever waits looks at what he cares for, so
//! that no sequence of events has to be understood, such as that of a ConfigMap's volume, where a link is swapped.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::io::unix::AsyncFd;

/// After a failure, such as a folder that is gone, it is tried again after so long.
const AGAIN: Duration = Duration::from_secs(5);

/// A folder that is watched.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// None where it cannot be watched now.
    events: Option<AsyncFd<OwnedFd>>,
}

impl Folder {
    /// Watches from now on.
    pub fn new(path: &Path) -> Self {
        let mut folder = Self { path: path.to_owned(), events: None };
        folder.watch();
        folder
    }

    /// Returns when something may have changed.
    pub async fn changed(&mut self) {
        if self.events.is_none() {
            tokio::time::sleep(AGAIN).await;
            self.watch();
            // Whatever happened before this moment was not seen.
            return;
        }
        let Some(events) = &self.events else { return };
        match events.readable().await {
            Ok(mut ready) => {
                let _ = ready.try_io(|events| drain(events.get_ref()));
            }
            Err(error) => {
                tracing::warn!(%error, folder = %self.path.display(), "changes of the folder are not seen");
                self.events = None;
            }
        }
        // A folder that was replaced tells so once and then nothing any more; watching what is there now is cheap.
        self.watch();
    }

    /// Drops what has happened up to now.
    pub fn forget(&self) {
        if let Some(events) = &self.events {
            while drain(events.get_ref()).is_ok_and(|read| read > 0) {}
        }
    }

    fn watch(&mut self) {
        let begun = match self.events.take() {
            Some(events) => Ok(events),
            None => {
                init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(io::Error::from).and_then(register)
            }
        };
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let watched = begun.and_then(|events| {
            add_watch(events.get_ref(), &self.path, flags)?;
            Ok(events)
        });
        match watched {
            Ok(events) => self.events = Some(events),
            Err(error) => {
                tracing::debug!(%error, folder = %self.path.display(), "changes of the folder are not seen now");
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe, and asks for what an OwnedFd is: one open file, always the same"
)]
fn register(events: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(events)
}

fn drain(events: &OwnedFd) -> io::Result<usize> {
    // Room for one event with the longest name, and for many with usual ones.
    let mut buffer = [0_u8; 4096];
    Ok(rustix::io::read(events, &mut buffer)?)
}
