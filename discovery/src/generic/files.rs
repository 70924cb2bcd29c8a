//! Everything that is read from the node, under a deadline: a file may lie on a file system that hangs.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use vnpu_driver::hardware::DriverMount;

use super::glob;
use crate::error::DiscoveryError;
use crate::nodes;
use crate::worker::{CallKey, Late, Worker};

/// The most that is read of a description.
const LONGEST_DESCRIPTION: u64 = 1 << 20;
/// The most that is read of a value.
const LONGEST_VALUE: u64 = 4096;

/// Why a file says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mute {
    /// It is not there.
    Absent,
    /// It cannot be read; the text is for people.
    Unreadable(String),
    /// It does not answer.
    Hangs,
}

impl Mute {
    pub(crate) fn message(&self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::Absent => format!("{path} is not there"),
            Self::Unreadable(why) => format!("{path} cannot be read: {why}"),
            Self::Hangs => format!("{path} does not answer: its file system hangs"),
        }
    }

    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Absent => "file_missing",
            Self::Unreadable(_) => "file_unreadable",
            Self::Hangs => "file_hangs",
        }
    }
}

/// The node's files. One call that hangs is given up after the deadline, and nothing else in its directory is tried
/// before it returned: whole file systems hang, and threads must not pile up.
pub(crate) struct Files {
    worker: Worker<(), u64>,
}

impl Files {
    pub(crate) fn new(deadline: Duration) -> Self {
        Self { worker: Worker::new("files", (), deadline) }
    }

    #[cfg(test)]
    pub(crate) fn hanging(&self) -> usize {
        self.worker.hanging()
    }

    fn call<T: Send + 'static>(
        &self,
        path: &Path,
        call: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, Mute> {
        let mut directory = DefaultHasher::new();
        path.parent().hash(&mut directory);
        let key = CallKey { function: "files", place: Some(directory.finish()) };
        let path = path.to_owned();
        self.worker.call(key, move |()| call(&path)).map_err(|late| match late {
            Late::TimedOut | Late::StillHanging | Late::TooMany => Mute::Hangs,
            Late::NoThread => Mute::Unreadable("no thread can be started".to_owned()),
        })
    }

    /// The whole text of a description.
    pub(crate) fn description(&self, path: &Path) -> Result<String, Mute> {
        let text = self.call(path, |path| read(path, LONGEST_DESCRIPTION))??;
        if text.len() as u64 >= LONGEST_DESCRIPTION {
            return Err(Mute::Unreadable("it is larger than 1 MiB".to_owned()));
        }
        Ok(text)
    }

    /// The first line, without blanks around it.
    pub(crate) fn value(&self, path: &Path) -> Result<String, Mute> {
        let text = self.call(path, |path| read(path, LONGEST_VALUE))??;
        Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    }

    /// Whether a device node is one.
    pub(crate) fn node(&self, path: &Path) -> Result<(), DiscoveryError> {
        let checked = self.call(path, nodes::check);
        checked.unwrap_or_else(|mute| {
            Err(DiscoveryError::DeviceNode { path: path.to_owned(), reason: mute.message(path) })
        })
    }

    /// What exists below the driver root of a path with `*`.
    pub(crate) fn mounts(&self, root: &Path, pattern: &Path) -> Result<Vec<DriverMount>, Mute> {
        let root = root.to_owned();
        self.call(pattern, move |pattern| glob::mounts(&root, pattern))
    }
}

fn read(path: &Path, most: u64) -> Result<String, Mute> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Mute::Absent,
        std::io::ErrorKind::InvalidData => Mute::Unreadable("it is no text".to_owned()),
        _ => Mute::Unreadable(error.to_string()),
    };
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(most).read_to_string(&mut text)).map_err(unreadable)?;
    Ok(text)
}

/// Whether a name may follow `/dev/`: relative, and never out of it.
pub(crate) fn is_node_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !name.chars().any(char::is_control)
}
