//! What can go wrong with CDI files: a spec that readers would refuse, and a directory that cannot be written.

use std::io;
use std::path::{Path, PathBuf};

/// A rule of the CDI specification that a spec breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("CDI {what} {value:?} is invalid: {rule}")]
pub struct Invalid {
    /// Which part of the spec.
    pub what: &'static str,
    /// The offending text, shortened to 120 characters.
    pub value: String,
    /// The rule.
    pub rule: &'static str,
}

impl Invalid {
    pub(crate) fn new(what: &'static str, value: &str, rule: &'static str) -> Self {
        Self { what, value: value.chars().take(120).collect(), rule }
    }
}

/// Why a CDI file could not be written, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// Readers would refuse the spec; a defect of the caller.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The identifier would leave the directory or is no legal file name.
    #[error("{0:?} cannot be part of a CDI file name: use letters, digits, '-', '_' and '.'")]
    Name(String),
    /// The directory, or the filesystem that it is on, cannot be written.
    #[error("CDI directory {path} is not writable: {source}; check --cdi-dir, its mount and its permissions")]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Something else stands where the directory should be.
    #[error("CDI directory {0} is no directory: remove what stands there, or correct --cdi-dir")]
    NoDirectory(PathBuf),
    /// No space or no inodes are left.
    #[error("CDI directory {path} is full: {source}; free space on its filesystem")]
    Full {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Anything else that the system refused.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl CdiError {
    /// The system refused something in `path`: told apart as full, not writable, or anything else.
    pub fn from_system(path: &Path, source: io::Error) -> Self {
        Self::io("use", path, source)
    }

    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, source },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NotWritable { path, source }
            }
            io::ErrorKind::AlreadyExists if !path.is_dir() => Self::NoDirectory(path),
            io::ErrorKind::NotADirectory => Self::NoDirectory(match path.parent() {
                // A file in what should be the directory was named.
                Some(above) if above.exists() => above.to_owned(),
                _ => path,
            }),
            _ => Self::Io { operation, path, source },
        }
    }

    /// Whether the same call may succeed later without anybody changing the request.
    pub fn retryable(&self) -> bool {
        !matches!(self, Self::Invalid(_) | Self::Name(_))
    }

    /// A stable low-cardinality word for metrics and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "cdi_invalid",
            Self::Name(_) => "cdi_name",
            Self::NotWritable { .. } => "cdi_not_writable",
            Self::NoDirectory(_) => "cdi_no_directory",
            Self::Full { .. } => "cdi_full",
            Self::Io { .. } => "cdi_io",
        }
    }
}
