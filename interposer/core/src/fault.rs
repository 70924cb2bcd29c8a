//! With the feature `fault`: `VNPU_FAULT=<step>[:<count>[:stop]]` ends this process with SIGKILL, or stops it, when it
//! comes to that step ([`Mark`]) for the `count`th time, the first if nothing is said.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use vnpu_quota_abi::mark::{Mark, on_mark};

struct Fault {
    at: Mark,
    count: u32,
    signal: i32,
}

static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
static MET: AtomicU32 = AtomicU32::new(0);

fn fault() -> Option<Fault> {
    let text = std::env::var("VNPU_FAULT").ok()?;
    let mut words = text.split(':');
    let name = words.next()?;
    let at = Mark::INTERPOSER.iter().copied().find(|mark| mark.name() == name)?;
    let count = words.next().and_then(|word| word.parse().ok()).unwrap_or(1);
    let signal = if words.next() == Some("stop") { libc::SIGSTOP } else { libc::SIGKILL };
    Some(Fault { at, count, signal })
}

/// From now on what the environment says happens.
pub(crate) fn arm() {
    if FAULT.get_or_init(fault).is_some() {
        on_mark(|mark| {
            let Some(Some(fault)) = FAULT.get() else { return };
            if mark == fault.at && MET.fetch_add(1, Ordering::Relaxed) + 1 == fault.count {
                // SAFETY: a signal to this process, which it cannot handle.
                unsafe { libc::kill(libc::getpid(), fault.signal) };
            }
        });
    }
}
