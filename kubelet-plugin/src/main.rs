//! vnpu-kubelet-plugin: reads the command line, sets up logging and the runtime, and runs the plugin.

use std::process::ExitCode;

use clap::Parser as _;
use vnpu_kubelet_plugin::config::{Args, Settings};
use vnpu_kubelet_plugin::{check, run};

/// Exit code for a configuration that cannot be used, as of sysexits.h.
const BAD_CONFIGURATION: u8 = 78;

#[allow(clippy::print_stdout, clippy::print_stderr)] // what the command line is for
fn main() -> ExitCode {
    few_heaps();
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
    // Each Prepare and each Unprepare that has its turn finds one, and discovery does; idle ones end by themselves.
    let threads = settings.concurrency() * 2 + 8;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(threads)
        .thread_stack_size(512 * 1024)
        .thread_name("vnpu")
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run::run(settings, level));
            // A vendor library that hangs must not hold up the end.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            result
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The C library gives every thread a heap of its own, up to eight a core, and keeps what was freed there: on a
/// node with 192 cores that is most of the memory. Threads here wait for disks, not for each other's heaps.
fn few_heaps() {
    #[cfg(target_env = "gnu")]
    {
        /// What lies free at the end of a heap beyond this goes back to the system, and larger pieces are never
        /// part of a heap.
        const KEPT: i32 = 128 * 1024;
        // SAFETY: sets numbers of the allocator; no other thread runs yet.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 2);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
            libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
        }
    }
}
