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
    /// The thread that writes the log is gone.
    #[error("the checkpoint's writer has ended: restart the plugin")]
    WriterGone,
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

    /// The same error once more, for another caller of the same write.
    pub(super) fn again(&self) -> Self {
        let copy = |e: &io::Error| match e.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(e.kind(), e.to_string()),
        };
        match self {
            Self::Full { path, source } => Self::Full { path: path.clone(), source: copy(source) },
            Self::Io { operation, path, source } => {
                Self::Io { operation, path: path.clone(), source: copy(source) }
            }
            Self::NewerFormat { .. } | Self::NewerRecord { .. } | Self::WriterGone => Self::WriterGone,
        }
    }

    /// Whether the same call may succeed later.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Io { .. })
    }

    /// Stable word for metrics and events.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Full { .. } => "state_full",
            Self::Io { .. } => "state_io",
            Self::NewerFormat { .. } | Self::NewerRecord { .. } => "state_newer",
            Self::WriterGone => "state_writer_gone",
        }
    }
}
