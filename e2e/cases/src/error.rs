//! What can be wrong with a case as a file. What is wrong with the product is a judgement, no error.

use std::path::PathBuf;

/// A case that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// The file or directory is not readable.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The content is not what the format asks for.
    #[error("{path}: {what}")]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what is expected.
        what: String,
    },
}

impl CaseError {
    /// Whether trying again may help: files of the repository do not change by themselves.
    pub fn retryable(&self) -> bool {
        false
    }

    /// A stable word for the kind of error.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "case_unreadable",
            Self::Form { .. } => "case_malformed",
        }
    }
}
