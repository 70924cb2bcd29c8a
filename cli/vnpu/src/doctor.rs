//! `vnpu doctor`: what is installed on this machine, and whether this version fits it. It changes nothing.

mod checks;
mod coverage;
mod library;
mod machine;
mod places;
mod report;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use crate::error::RunError;
use crate::vendors::VendorArguments;
use report::Report;

/// Options of `vnpu doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// The root directory of an unpacked container image, to be looked at too.
    #[arg(long, value_name = "DIR")]
    image_root: Option<PathBuf>,
    #[command(flatten)]
    vendors: VendorArguments,
    /// Where the device nodes are.
    #[arg(long, value_name = "DIR", env = "VNPU_DEV_ROOT", default_value = "/dev")]
    dev_root: PathBuf,
    /// Where libvnpu.so and libvnpu_core.so are [default: beside this program, else /usr/local/lib/vnpu].
    #[arg(long, value_name = "DIR", env = "VNPU_INTERPOSER_DIR")]
    interposer_dir: Option<PathBuf>,
    /// State directory of the node plugin, to see whether it runs here.
    #[arg(long, value_name = "DIR", env = "VNPU_STATE_DIR", default_value = "/var/lib/vnpu")]
    state_dir: PathBuf,
    /// Where runs have their files [default: $XDG_RUNTIME_DIR/vnpu, else /run/vnpu-cli].
    #[arg(long, value_name = "DIR", env = "VNPU_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// Where the node plugin has the claims' files.
    #[arg(long, value_name = "DIR", env = "VNPU_RUNTIME_DIR", default_value = "/run/vnpu")]
    runtime_dir: PathBuf,
    /// Address of the node plugin's admin server; empty to ask nobody.
    #[arg(long, value_name = "ADDRESS", env = "VNPU_ADMIN_ADDRESS", default_value = "127.0.0.1:8090")]
    admin_address: String,
}

/// Looks at everything and reports; the exit code says what came of it.
pub(crate) fn doctor(arguments: &DoctorArguments) -> Result<u8, RunError> {
    let mut report = Report::new();
    let ours = checks::interposer(arguments, &mut report);
    machine::driver(arguments, &mut report);
    checks::vendor_software(arguments, ours.as_ref(), &mut report);
    checks::preload(arguments, ours.as_ref(), &mut report);
    if let Some(root) = &arguments.image_root {
        checks::image(root, ours.as_ref(), &mut report);
    }
    machine::plugin(arguments, &mut report);
    machine::regions(arguments, &mut report);
    let text = if arguments.json { report.json() } else { report.text() };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(RunError::io("write to", "standard output".as_ref(), e))
        }
        _ => Ok(report.exit_code()),
    }
}
