//! vnpu-kubelet-plugin: reads the command line, sets up logging and the runtime, and runs the plugin.

use std::process::ExitCode;

use clap::Parser as _;
use vnpu_daemon::BAD_CONFIGURATION;
use vnpu_kubelet_plugin::config::{Args, Settings};
use vnpu_kubelet_plugin::{check, run};

#[allow(clippy::print_stdout, clippy::print_stderr)] // what the command line is for
fn main() -> ExitCode {
    vnpu_daemon::few_heaps();
    let settings = match Settings::from_args(Args::parse()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("vnpu-kubelet-plugin: {error}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    if settings.args.check {
        let report = check::check(&settings);
        print!("{}", report.text);
        return if report.good { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let level = match vnpu_telemetry::init_logging(settings.log_format, &settings.args.log) {
        Ok(level) => level,
        Err(error) => {
            eprintln!("vnpu-kubelet-plugin: {error}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    // Work is I/O and fsync on blocking threads; more workers would only cost memory on a node with 192 cores.
    // Each Prepare and each Unprepare that has its turn finds one, and so does each vendor whose library hangs; idle
    // ones end by themselves.
    let threads = settings.concurrency() * 2 + 16;
    vnpu_daemon::run(threads, run::run(settings, level))
}
