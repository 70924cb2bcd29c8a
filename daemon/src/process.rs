//! A daemon's heaps, threads and exit codes.

use std::process::ExitCode;
use std::time::Duration;

/// Exit code for a configuration that cannot be used, as of sysexits.h.
pub const BAD_CONFIGURATION: u8 = 78;

/// To be called first, before there are threads. The C library gives every thread a heap of its own, up to eight a
/// core, and keeps what was freed there: on a node with 192 cores that is most of the memory. A daemon's threads wait
/// for disks and for others, not for each other's heaps.
pub fn few_heaps() {
    #[cfg(target_env = "gnu")]
    {
        /// What lies free at the end of a heap beyond this goes back to the system, and larger pieces are never
        /// part of a heap.
        const KEPT: i32 = 128 * 1024;
        // SAFETY: sets numbers of the allocator, under its own lock; threads that run already only keep the heaps that
        // they have.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 2);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
            libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
        }
    }
}

/// Runs a daemon's work on this thread, with at most `blocking` more for calls that block, to the process' end.
pub fn run(blocking: usize, work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(blocking)
        .thread_stack_size(512 * 1024)
        .thread_name("vnpu")
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(work);
            // A call that hangs, of a vendor's library say, must not hold up the end.
            runtime.shutdown_timeout(Duration::from_secs(1));
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
