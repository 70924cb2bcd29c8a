//! `vnpu run`: chip, regions, program, in this order, and everything away again behind it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use vnpu_driver::hardware::Health;
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_driver::share::ComputeMode;

use crate::audit::Audit;
use crate::base::Base;
use crate::child::Chore;
use crate::error::RunError;
use crate::regions::{Note, RunRegions};
use crate::vendors::VendorArguments;
use crate::wish::Wish;
use crate::{child, choose, interposer, node_plugin, vendors};

/// Between looks for dead processes that no process of the run can judge, because they were in another PID
/// namespace, and for what programs spoiled: what is wrong stays so until then.
const TENDING: Duration = Duration::from_secs(3);

/// Options of `vnpu run`.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Device memory that the program may use, such as 4Gi [default: as many percent of the chip's as --cores].
    #[arg(long, value_name = "QUANTITY")]
    memory: Option<Bytes>,
    /// Percent of the chip's compute [default: no share, but what others leave].
    #[arg(long, value_name = "PERCENT")]
    cores: Option<Percent>,
    /// What happens beyond the share [default: hard with --cores, else best-effort].
    #[arg(long, value_name = "MODE")]
    mode: Option<Mode>,
    /// Who goes first among those that are due: the greater number.
    #[arg(long, value_name = "0..10", default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=10))]
    priority: u8,
    /// What others call this run [default: the program's name].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The chip's UUID; needed where there are several.
    #[arg(long, value_name = "UUID")]
    device: Option<String>,
    #[command(flatten)]
    vendors: VendorArguments,
    /// Where libvnpu.so and libvnpu_core.so are [default: beside this program, else /usr/local/lib/vnpu].
    #[arg(long, value_name = "DIR", env = "VNPU_INTERPOSER_DIR")]
    interposer_dir: Option<PathBuf>,
    /// State directory of the node plugin, to see whether it runs here.
    #[arg(long, value_name = "DIR", env = "VNPU_STATE_DIR", default_value = "/var/lib/vnpu")]
    state_dir: PathBuf,
    /// Where the quota's files live while the program runs [default: $XDG_RUNTIME_DIR/vnpu, else /run/vnpu-cli].
    #[arg(long, value_name = "DIR", env = "VNPU_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    program: Vec<OsString>,
}

/// Treatment of compute beyond the share.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Mode {
    /// Never more than the share.
    Hard,
    /// More while nobody else wants the chip.
    Elastic,
    /// No share: what others leave.
    BestEffort,
}

impl From<Mode> for ComputeMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Hard => Self::Hard,
            Mode::Elastic => Self::Elastic,
            Mode::BestEffort => Self::BestEffort,
        }
    }
}

/// Runs the program; its exit code.
pub(crate) fn run(arguments: &RunArguments) -> Result<u8, RunError> {
    let wish = Wish {
        memory: arguments.memory,
        cores: arguments.cores,
        mode: arguments.mode.map(ComputeMode::from),
        priority: arguments.priority,
    };
    wish.check()?;
    let note = note(arguments.name.as_deref(), arguments.program.first())?;
    // First of all: the vendor's library is asked from a thread of its own.
    let blocked = child::block()?;
    refuse_beside_plugin(&arguments.state_dir)?;
    let preload = interposer::find(arguments.interposer_dir.as_deref())?;
    let base = Base::find(arguments.run_dir.as_deref())?;
    let looked = vendors::look(&arguments.vendors, Path::new("/dev"));
    let (vendor, chip) = choose::choose(&looked, arguments.device.as_deref())?;
    for error in &looked.failed {
        eprintln!("vnpu: warning: {error}; the chips of other vendors are used");
    }
    if matches!(chip.health, Health::Unhealthy(_)) {
        eprintln!("vnpu: warning: chip {} is unhealthy: {}", chip.uuid, chip.health);
    }
    let regions = RunRegions::create(&base, chip, &wish, &note)?;
    let claim = regions.claim().clone();
    let backend = Arc::clone(&vendor.backend);
    Audit { chip: chip.clone(), base, claim, lock: regions.lock_path(), backend }.start();
    let tend = || regions.tend();
    let chore = Chore { every: TENDING, work: &tend };
    let result =
        child::run(&arguments.program, &preload, regions.dir(), regions.lock_descriptor(), blocked, &chore);
    regions.remove();
    result
}

fn refuse_beside_plugin(state_dir: &Path) -> Result<(), RunError> {
    let lock = state_dir.join("lock");
    match node_plugin::runs(state_dir) {
        Ok(false) => Ok(()),
        Ok(true) => Err(RunError::PluginRuns { lock }),
        Err(e) => Err(RunError::io("see whether the node plugin runs by", &lock, e)),
    }
}

/// What the run is called: as asked, else as its program is.
fn note(name: Option<&str>, program: Option<&OsString>) -> Result<Note, RunError> {
    let pid = std::process::id();
    if let Some(name) = name {
        let good = (1..=LONGEST_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
        let name = name.to_owned();
        return if good { Ok(Note { name, pid }) } else { Err(RunError::Name { name }) };
    }
    let program = program.map(Path::new).and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let shown = program.chars().map(|c| if c.is_control() { '?' } else { c });
    Ok(Note { name: shown.take(LONGEST_NAME).collect(), pid })
}

/// As long as a label of DNS.
const LONGEST_NAME: usize = 63;
