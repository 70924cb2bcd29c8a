//! The program: started with our preload, given our signals, waited for.

use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use crate::error::RunError;

/// Signals that are passed on. Those that cannot be caught, and those about us, are not among them.
const FORWARDED: [i32; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGWINCH,
];

/// Something that is done again and again while the program runs.
pub(crate) struct Chore<'a> {
    pub(crate) every: Duration,
    pub(crate) work: &'a dyn Fn(),
}

/// Runs `program` to its end; its exit code, or 128 + the signal that killed it.
pub(crate) fn run(
    program: &[OsString],
    preload: &Path,
    regions: &Path,
    inherited: RawFd,
    blocked: Blocked,
    chore: &Chore<'_>,
) -> Result<u8, RunError> {
    let Some((name, arguments)) = program.split_first() else {
        return Err(RunError::Internal("no program"));
    };
    let Blocked { signals, before, children_ignored } = blocked;
    let mut command = Command::new(name);
    command
        .args(arguments)
        .env("LD_PRELOAD", with_preload(preload, std::env::var_os("LD_PRELOAD").as_deref()))
        .env("VNPU_REGION_DIR", regions);
    // SAFETY: the calls are async-signal-safe and touch nothing but the child's own signals and descriptor.
    unsafe {
        command.pre_exec(move || {
            if children_ignored {
                libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            }
            libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
            libc::fcntl(inherited, libc::F_SETFD, 0);
            Ok(())
        });
    }
    let mut child = command
        .spawn()
        .map_err(|source| RunError::Start { program: name.to_string_lossy().into_owned(), source })?;
    let status = wait(&mut child, &signals, chore)?;
    Ok(code_of(status))
}

/// Our library first, so that what others preload still comes, behind us.
fn with_preload(ours: &Path, others: Option<&OsStr>) -> OsString {
    let mut value = ours.as_os_str().to_owned();
    if let Some(others) = others.filter(|o| !o.is_empty()) {
        value.push(":");
        value.push(others);
    }
    value
}

/// The signals that `run` fetches, and the mask that the program gets.
pub(crate) struct Blocked {
    signals: libc::sigset_t,
    before: libc::sigset_t,
    children_ignored: bool,
}

/// Blocks the forwarded signals and SIGCHLD. To be called before any thread is started: one that does not block
/// them would take them away from `run`. A SIGCHLD that our parent ignored is not ignored by us: the kernel would
/// then keep the program's end from us.
pub(crate) fn block() -> Result<Blocked, RunError> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset fills the set before it is used, sigprocmask fills `before`; no thread runs yet whose
    // handler of SIGCHLD could be lost.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in FORWARDED {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr()) != 0 {
            return Err(RunError::Internal("signals cannot be blocked"));
        }
        let children = libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        Ok(Blocked {
            signals: set.assume_init(),
            before: before.assume_init(),
            children_ignored: children == libc::SIG_IGN,
        })
    }
}

fn wait(child: &mut Child, signals: &libc::sigset_t, chore: &Chore<'_>) -> Result<ExitStatus, RunError> {
    let period = libc::timespec {
        tv_sec: libc::time_t::try_from(chore.every.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(chore.every.subsec_millis()) * 1_000_000,
    };
    let mut done = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => (),
            Err(_) => return Err(RunError::Internal("the program cannot be waited for")),
        }
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: a valid set, a siginfo to fill and a time.
        let signal = unsafe { libc::sigtimedwait(signals, info.as_mut_ptr(), &raw const period) };
        if done.elapsed() >= chore.every {
            (chore.work)();
            done = Instant::now();
        }
        if !FORWARDED.contains(&signal) {
            continue;
        }
        // SAFETY: filled by sigtimedwait, which returned one of the signals.
        let from_kernel = unsafe { info.assume_init() }.si_code > 0;
        // What the terminal sends goes to the whole group: the program has it already.
        if !from_kernel {
            // SAFETY: our own child, which has not been waited for, so that the pid is still its own.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
    }
}

fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(255);
    u8::try_from(code).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chore_is_done_while_the_program_runs() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("done");
        let script = format!("until [ -e {} ]; do sleep 0.02; done; exit 5", file.display());
        let program = ["sh", "-c", &script].map(OsString::from);
        let work = || std::fs::write(&file, "").unwrap();
        let chore = Chore { every: Duration::from_millis(10), work: &work };
        let code = run(&program, Path::new(""), dir.path(), 0, block().unwrap(), &chore);
        assert_eq!(code.unwrap(), 5, "it ends only after the chore");
    }
}
