//! Why the checkpoint could not be opened, read or written.

use std::io;
use std::path::{Path, PathBuf};

use vnpu_driver::record::RecordError;

/// Why the checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No space or no inodes are left for the log.
    #[error("state directory {path} is full: {source}; free space there, claims wait until then")]
    Full {
        /// The state directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("cannot {operation} {path}: {source}; check --state-dir, its mount and its permissions")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The log's format is newer than this program.
    #[error(
        "checkpoint {path} has format {found}, this program reads format {known}: run the newer version again, \
         or drain the node and remove the file; nothing was changed"
    )]
    NewerFormat {
        /// The log.
        path: PathBuf,
        /// Format found.
        found: u32,
        /// Format of this program.
        known: u32,
    },
    /// A record is newer than this program.
    #[error("checkpoint {path}: {source}; nothing was changed")]
    NewerRecord {
        /// The log.
        path: PathBuf,
        /// What the record's reader says.
        source: RecordError,
    },
    /// A flush failed, and with it went what others had written meanwhile.
    #[error("checkpoint {path}: a flush failed and what was not on the disk is undone; it is tried again")]
    SetBack {
        /// The log.
        path: PathBuf,
    },
    /// What the log says is not known any more.
    #[error("the checkpoint cannot be used any more: restart the plugin")]
    Broken,
}

impl StoreError {
    pub(super) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { path: path.parent().unwrap_or(path).to_owned(), source }
            }
            _ => Self::Io { operation, path: path.to_owned(), source },
        }
    }

    /// Whether the same call may succeed later.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Io { .. } | Self::SetBack { .. })
    }

    /// Stable word for metrics and events.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Full { .. } => "state_full",
            Self::Io { .. } | Self::SetBack { .. } => "state_io",
            Self::NewerFormat { .. } | Self::NewerRecord { .. } => "state_newer",
            Self::Broken => "state_broken",
        }
    }
}
