//! Log output: plain lines for people or JSON for collectors, on standard error, with a filter that can be
//! replaced while the daemon runs.

use std::io::IsTerminal as _;
use std::str::FromStr;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line per event.
    #[default]
    Plain,
    /// One JSON object per event.
    Json,
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "plain" => Ok(Self::Plain),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

/// Why logging could not be set up or changed. None of these goes away by trying again.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The format's name is unknown.
    #[error("unknown log format {0:?}: use plain or json")]
    Format(String),
    /// The filter does not parse.
    #[error("log filter {filter:?} is invalid: {message}; write for example info or vnpu=debug,info")]
    Filter {
        /// The text that was given.
        filter: String,
        /// The parser's words.
        message: String,
    },
    /// Another subscriber was installed before.
    #[error("logging was set up twice: {0}")]
    Twice(String),
}

impl LogError {
    /// Never: the text has to change.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// A stable low-cardinality word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Format(_) => "log_format",
            Self::Filter { .. } => "log_filter",
            Self::Twice(_) => "log_twice",
        }
    }
}

/// Changes the filter of a running daemon.
#[derive(Debug, Clone)]
pub struct LevelHandle(reload::Handle<EnvFilter, Registry>);

impl LevelHandle {
    /// Replaces the filter.
    ///
    /// # Errors
    /// A filter that does not parse; the old one stays.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let parsed = parse(filter)?;
        self.0
            .reload(parsed)
            .map_err(|e| LogError::Filter { filter: filter.to_owned(), message: e.to_string() })
    }

    /// The filter that holds now.
    pub fn current(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|e| LogError::Filter { filter: filter.to_owned(), message: e.to_string() })
}

/// Installs the process's logging; to be called once.
///
/// # Errors
/// A filter that does not parse, or logging that was set up before.
pub fn init_logging(format: LogFormat, filter: &str) -> Result<LevelHandle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let installed = match format {
        LogFormat::Plain => {
            let colours = std::io::stderr().is_terminal();
            registry.with(fmt::layer().with_ansi(colours).with_writer(std::io::stderr)).try_init()
        }
        LogFormat::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
        }
    };
    installed.map_err(|e| LogError::Twice(e.to_string()))?;
    Ok(LevelHandle(handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_changes_at_run_time_and_nonsense_leaves_it_alone() {
        let handle = init_logging(LogFormat::Json, "info").unwrap();
        assert_eq!(handle.current(), "info");
        handle.set("vnpu=debug,info").unwrap();
        assert!(handle.current().contains("vnpu=debug"));
        assert_eq!(handle.set("vnpu=[nonsense").unwrap_err().reason(), "log_filter");
        assert!(handle.current().contains("vnpu=debug"));
        assert!(init_logging(LogFormat::Plain, "info").is_err(), "twice");
    }

    #[test]
    fn formats_have_two_names() {
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        assert_eq!("plain".parse::<LogFormat>().unwrap(), LogFormat::Plain);
        assert!("xml".parse::<LogFormat>().unwrap_err().to_string().contains("plain or json"));
    }
}
