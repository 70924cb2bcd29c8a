//! Places where the crash sweep kills the process. Without the feature `failpoints` nothing of this is compiled.

/// Ends the process with SIGKILL when `VNPU_CRASH_AT` names this place: `name`, or `name:3` for the third time
/// that it is reached.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static CHOSEN: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static SEEN: AtomicU32 = AtomicU32::new(0);
    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var("VNPU_CRASH_AT").ok()?;
        match text.rsplit_once(':') {
            Some((name, count)) => Some((name.to_owned(), count.parse().ok()?)),
            None => Some((text, 1)),
        }
    });
    if let Some((place, count)) = chosen
        && place == name
        && SEEN.fetch_add(1, Ordering::Relaxed) + 1 == *count
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // Signals to oneself arrive before kill returns, but the compiler does not know.
        std::process::abort();
    }
}

/// Names of all places, for the sweep.
pub const PLACES: [&str; 16] = [
    "prepare.started.before",
    "prepare.started.after",
    "prepare.regions.after",
    "prepare.cdi.after",
    "prepare.completed.before",
    "prepare.completed.after",
    "unprepare.started.before",
    "unprepare.started.after",
    "unprepare.cdi.after",
    "unprepare.regions.after",
    "unprepare.done.before",
    "unprepare.done.after",
    "log.write.half",
    "log.write.after",
    "log.compact.written",
    "log.compact.renamed",
];

/// A place where the crash sweep may kill the process.
#[macro_export]
macro_rules! crash_at {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoints::hit($name);
    };
}
