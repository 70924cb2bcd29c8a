//! Health files between the looks: whether one of them says something else now. They are read, as often as it takes:
//! attributes below `/sys` tell nobody of their changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::files::{Files, Mute};
use crate::heard::Heard;

/// Between two readings of a file.
const PERIOD: Duration = Duration::from_millis(400);

/// What is read, and who is told.
#[derive(Default)]
struct Watched {
    files: Vec<PathBuf>,
    heard: Option<Heard>,
}

/// Reads the files that the newest look named, from the first listener on and until it is dropped.
#[derive(Default)]
pub(crate) struct Watch(Arc<Mutex<Watched>>);

type Words = BTreeMap<PathBuf, Result<String, Mute>>;

fn lock(watched: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// These are the files from now on; each stands there once.
    pub(crate) fn follow(&self, files: Vec<PathBuf>) {
        lock(&self.0).files = files;
    }

    /// Tells `heard` from now on. `deadline` is how long one file may take.
    pub(crate) fn listen(&self, heard: Heard, deadline: Duration) {
        if lock(&self.0).heard.replace(heard).is_some() {
            return;
        }
        let watched = Arc::downgrade(&self.0);
        let started =
            thread::Builder::new().name("health-files".to_owned()).spawn(move || run(&watched, deadline));
        if let Err(error) = started {
            tracing::warn!(%error, "health files are read at every look only: no thread can be started");
        }
    }
}

fn run(watched: &Weak<Mutex<Watched>>, deadline: Duration) {
    // Of its own: a file that hangs here must not hold up a look.
    let files = Files::new(deadline);
    let mut before = Words::new();
    loop {
        thread::sleep(PERIOD);
        let Some(paths) = watched.upgrade().map(|watched| lock(&watched).files.clone()) else { return };
        let now: Words = paths.into_iter().map(|path| (path.clone(), files.value(&path))).collect();
        if now == before {
            continue;
        }
        before = now;
        // Outside the lock: it may take others.
        let heard = watched.upgrade().and_then(|watched| lock(&watched).heard.clone());
        if let Some(heard) = heard {
            heard.tell();
        }
    }
}
