//! vnpu-controller: reads the command line, sets up logging and the runtime, and runs the controller.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use vnpu_controller::config::{Args, Settings};
use vnpu_controller::run;
use vnpu_daemon::BAD_CONFIGURATION;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(clippy::print_stderr)] // what the command line is for
fn main() -> ExitCode {
    let prepared = Settings::from_args(Args::parse()).and_then(|settings| {
        let level = vnpu_telemetry::init_logging(settings.log_format, &settings.args.log)?;
        Ok((settings, level))
    });
    let (settings, level) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("vnpu-controller: {error}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    // Everything here waits for others; what computes for long has threads of its own.
    vnpu_daemon::run(8, run::run(settings, level))
}
