//! Why `vnpu run` could not run the program. Each error says what to do.

use std::io;
use std::path::{Path, PathBuf};

use vnpu_discovery::DiscoveryError;
use vnpu_driver::quantity::Bytes;
use vnpu_quota_agent::AgentError;

use crate::vendors;
use crate::wish::Word;

/// A failure before or around the program.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("say how much of the chip: --memory, --cores or both")]
    NothingAsked,
    #[error("--cores {wanted} is no share of a chip: say 1 to 100 percent")]
    Cores { wanted: u32 },
    #[error("--mode best-effort has no share of the compute, it gets what others leave: leave out --cores")]
    CoresOfBestEffort,
    #[error("--mode {mode} needs --cores, the share that the mode is about")]
    ModeWithoutCores { mode: Word },
    #[error("--name {name:?} cannot be shown: say 1 to 63 characters, none of them a control character")]
    Name { name: String },
    #[error(
        "the node plugin runs on this machine (it holds {}); shares are given out by Kubernetes here. \
         Stop it first, or claim a share in the cluster", lock.display()
    )]
    PluginRuns { lock: PathBuf },
    #[error("{}", vendors::words(.0))]
    Discovery(Vec<DiscoveryError>),
    #[error("the driver reports no usable chip on this machine{problems}")]
    NoChip { problems: String },
    #[error("there is no chip {wanted}; there are:{known}")]
    UnknownDevice { wanted: String, known: String },
    #[error("this machine has several chips: choose one with --device:{known}")]
    DeviceNeeded { known: String },
    #[error("--memory must be more than 0")]
    NoMemory,
    #[error("--memory {wanted} is more than chip {chip} has ({has})")]
    TooMuchMemory { wanted: Bytes, chip: String, has: Bytes },
    #[error(
        "{asked} is more than chip {chip} has left, {left} of {has}: end one of these runs, or say with --memory how \
         much less will do{others}"
    )]
    MemoryPromised { asked: String, chip: String, left: Bytes, has: Bytes, others: String },
    #[error(
        "--cores {wanted} is more than chip {chip} has left, {left} of 100 percent: end one of these runs, ask for \
         less, or say --mode elastic, of which more may be promised than there is{others}"
    )]
    CoresPromised { wanted: u32, chip: String, left: u32, others: String },
    #[error(
        "{} is not there: build the interposer, or say with --interposer-dir where libvnpu.so and \
         libvnpu_core.so are", path.display()
    )]
    InterposerMissing { path: PathBuf },
    #[error("{} has a character that LD_PRELOAD cannot hold (space or colon): put the interposer elsewhere", path.display())]
    InterposerPath { path: PathBuf },
    #[error(
        "XDG_RUNTIME_DIR is {}, which {problem}: unset it, or say with --run-dir where the quota's files may live",
        dir.display()
    )]
    Session { dir: PathBuf, problem: String },
    #[error(
        "XDG_RUNTIME_DIR is not set and only root may use /run/vnpu-cli: say with --run-dir where the quota's files \
         may live"
    )]
    NoSession,
    #[error("{} {problem}: say with --run-dir where the quota's files may live", dir.display())]
    Base { dir: PathBuf, problem: String },
    #[error(
        "another vnpu run has had {} for itself for too long: is one stopped? Let it go on, or end it", dir.display()
    )]
    Busy { dir: PathBuf },
    #[error("{0}")]
    Regions(#[from] AgentError),
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot start {program}: {source}")]
    Start { program: String, source: io::Error },
    #[error("internal error: {0}; please report it")]
    Internal(&'static str),
}

impl RunError {
    /// As shells and other runners do: 127 not found, 126 not executable, 125 our own failures.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Start { .. } => 126,
            _ => 125,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_path_buf(), source }
    }
}
