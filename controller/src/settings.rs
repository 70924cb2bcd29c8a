//! Files that the administrator writes, above all the configuration: read at the start, and again whenever they change.
//! One that cannot be used is refused and the one before it stays; what it means is the document's own business.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub mod folder;

use folder::Folder;

use crate::metrics::Reason;

/// Changes come in bursts: an editor's, or those of a ConfigMap's volume.
const SETTLED: Duration = Duration::from_millis(200);
/// It is read so often without any sign of a change, for folders that give none.
const PERIOD: Duration = Duration::from_secs(60);
/// A longer one is no configuration.
const LONGEST: u64 = 1 << 20;

/// Why a file cannot be used. Its author has to change it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {path}: {message}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        message: String,
    },
    /// It is no YAML.
    #[error("{path} is not YAML: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        message: String,
    },
    /// It is not the document that it should be.
    #[error("{path}: {message}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Which field, what is wrong with it, and what is allowed.
        message: String,
        /// Stable word.
        reason: &'static str,
    },
}

impl SettingsError {
    /// Never: the text has to change.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "config_unreadable",
            Self::Syntax { .. } => "config_syntax",
            Self::Refused { reason, .. } => reason,
        }
    }
}

/// Why a text is not the document that it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is no YAML, in the parser's words.
    Syntax(String),
    /// It says something that cannot be.
    Refused {
        /// What to tell the author.
        message: String,
        /// Stable word.
        reason: &'static str,
    },
}

/// A document that a file may hold.
pub trait Document: Default + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// What it is called in logs.
    const NAME: &'static str;

    /// Reads it strictly: what it does not know is an error.
    ///
    /// # Errors
    /// What cannot be used.
    fn read(text: &str) -> Result<Self, Fault>;
}

/// The YAML in a text.
///
/// # Errors
/// It is none.
pub fn yaml(text: &str) -> Result<Value, Fault> {
    serde_saphyr::from_str(text).map_err(|e| Fault::Syntax(e.to_string()))
}

/// Reads the document in the file.
///
/// # Errors
/// Why it cannot be used.
pub fn read<D: Document>(path: &Path) -> Result<D, SettingsError> {
    parse(path, &text(path)?)
}

fn text(path: &Path) -> Result<String, SettingsError> {
    let unreadable = |message: String| SettingsError::Unreadable { path: path.to_owned(), message };
    let facts = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?;
    if facts.len() > LONGEST {
        return Err(unreadable(format!("it has {} bytes, and {LONGEST} at most make sense", facts.len())));
    }
    std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))
}

fn parse<D: Document>(path: &Path, text: &str) -> Result<D, SettingsError> {
    let path = path.to_owned();
    D::read(text).map_err(|fault| match fault {
        Fault::Syntax(message) => SettingsError::Syntax { path, message },
        Fault::Refused { message, reason } => SettingsError::Refused { path, message, reason },
    })
}

/// What is counted of a file.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// 1 when the file as it is now is the one that is followed.
    pub valid: Gauge,
    /// Readings of a changed file, by reason; `ok` for those that were taken.
    pub readings: Family<Reason, Counter>,
}

/// Follows one file.
#[derive(Debug)]
pub struct Follower<D> {
    path: PathBuf,
    marks: Marks,
    document: watch::Sender<Arc<D>>,
    /// What came of the last reading, so that the same is not said again.
    last: Result<String, SettingsError>,
}

impl<D: Document> Follower<D> {
    /// Reads the file and gives what it says, now and later.
    ///
    /// # Errors
    /// It cannot be used: at the start there is nothing to go on with.
    pub fn begin(path: &Path, marks: Marks) -> Result<(Self, watch::Receiver<Arc<D>>), SettingsError> {
        let text = text(path)?;
        let (document, seen) = watch::channel(Arc::new(parse(path, &text)?));
        marks.valid.set(1);
        Ok((Self { path: path.to_owned(), marks, document, last: Ok(text) }, seen))
    }

    /// Gives the document's default until the file can be used, if it cannot at the start.
    pub fn begin_without(path: &Path, marks: Marks) -> (Self, watch::Receiver<Arc<D>>) {
        let (document, seen) = watch::channel(Arc::default());
        let unread = SettingsError::Unreadable { path: path.to_owned(), message: String::new() };
        marks.valid.set(0);
        (Self { path: path.to_owned(), marks, document, last: Err(unread) }, seen)
    }

    /// Reads the file whenever its folder changes, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        let mut folder = Folder::new(parent.unwrap_or(Path::new(".")));
        // What changed before the folder was watched.
        self.look();
        loop {
            let changed = async {
                // Either is a reason to look.
                let _ = tokio::time::timeout(PERIOD, folder.changed()).await;
                tokio::time::sleep(SETTLED).await;
            };
            if stop.run_until_cancelled(changed).await.is_none() {
                return;
            }
            // What came meanwhile is read now.
            folder.forget();
            self.look();
        }
    }

    /// Reads the file, and takes what it says if that can be used.
    fn look(&mut self) {
        let read = text(&self.path);
        if read == self.last {
            return;
        }
        let document = read.as_deref().map_err(Clone::clone).and_then(|text| parse::<D>(&self.path, text));
        let reason = match document {
            Ok(document) => {
                let changed = self.document.send_if_modified(|now| {
                    let changed = **now != document;
                    if changed {
                        *now = Arc::new(document);
                    }
                    changed
                });
                tracing::info!(path = %self.path.display(), changed, "{} read", D::NAME);
                self.marks.valid.set(1);
                "ok"
            }
            Err(error) => {
                let reason = error.reason();
                tracing::error!(%error, reason, "this {} is refused, the one before it stays in force", D::NAME);
                self.marks.valid.set(0);
                reason
            }
        };
        self.marks.readings.get_or_create(&Reason { reason }).inc();
        self.last = read;
    }
}

#[cfg(test)]
mod tests;
