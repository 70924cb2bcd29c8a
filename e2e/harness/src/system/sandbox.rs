//! The node's namespaces (mounts, network, processes). All its processes are children of one thread of ours
//! and descendants of one init: kill that, and the kernel removes every process, mount and interface.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::mount::{MountFlags, mount};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;

use super::mounts;
use super::record::ProcessId;

type Job = Box<dyn FnOnce() + Send>;

/// Where a cluster's processes run: a set of namespaces, or (without root) simply beside us.
#[derive(Debug)]
pub(crate) struct Sandbox {
    jobs: Mutex<Sender<Job>>,
    init: Option<ProcessId>,
    detached: bool,
}

impl Sandbox {
    /// Makes the namespaces. `init` is the program that becomes their first process; `scratch` a directory
    /// for its files. The namespaces die with this process, however it dies, unless they are `detached` and
    /// [`Sandbox::let_go`] has been called.
    ///
    /// # Errors
    /// Without root, or where the kernel or a surrounding container forbids namespaces.
    pub(crate) fn start(init: &Path, scratch: &Path, detached: bool) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let (init, scratch) = (init.to_owned(), scratch.to_owned());
        std::thread::Builder::new().name("vnpu-sandbox".into()).spawn(move || {
            match enter(&init, &scratch) {
                Ok(mut child) => {
                    let _ = ready.send(Ok(child.id().cast_signed()));
                    while let Ok(job) = queue.recv() {
                        job();
                    }
                    // The queue has ended with the last owner: a detached node's last deed is to let go.
                    if !detached {
                        let _ = child.kill();
                    }
                    let _ = child.try_wait();
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })?;
        let init = started.recv().map_err(|_| anyhow!("the sandbox's thread died"))??;
        // Looked up here: the sandbox's thread sees only the new namespace's /proc, which counts anew.
        let init = ProcessId::of(init).context("the node's init died at once")?;
        Ok(Self { jobs: Mutex::new(jobs), init: Some(init), detached })
    }

    /// A place without namespaces: processes run beside us and, unless `detached`, die with us. The thread
    /// is needed here too, because the kernel ties "with us" to the thread that started a process.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn host(detached: bool) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new().name("vnpu-spawner".into()).spawn(move || {
            while let Ok(job) = queue.recv() {
                job();
            }
        })?;
        Ok(Self { jobs: Mutex::new(jobs), init: None, detached })
    }

    /// Lets the namespaces outlive this process from now on.
    ///
    /// # Errors
    /// When their init is gone or does not hear.
    pub(crate) fn let_go(&self) -> Result<()> {
        let Some(init) = &self.init else { return Ok(()) };
        let pid = rustix::process::Pid::from_raw(init.pid).context("the node's init has no number")?;
        rustix::process::kill_process(pid, Signal::USR1).context("telling the node's init to stay")?;
        // Until it has heard, our end would still be its end.
        let name = format!("/proc/{}/comm", init.pid);
        let begun = Instant::now();
        while std::fs::read_to_string(&name).is_ok_and(|name| name.trim() != "vnpu-stays") {
            if begun.elapsed() > Duration::from_secs(20) {
                bail!("the node's init does not answer");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The first process of the namespaces, where there are any.
    pub(crate) fn init(&self) -> Option<&ProcessId> {
        self.init.as_ref()
    }

    /// Runs `work` with the node's mounts and network. It must not start threads (the kernel refuses them
    /// to a thread whose children are born into another PID namespace).
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (reply, answer) = mpsc::channel();
        let jobs = self.jobs.lock().map_err(|_| anyhow!("the sandbox's queue is poisoned"))?;
        jobs.send(Box::new(move || {
            let _ = reply.send(work());
        }))
        .map_err(|_| anyhow!("the node's sandbox is gone"))?;
        drop(jobs);
        answer.recv().map_err(|_| anyhow!("work in the node's sandbox panicked"))
    }

    /// Starts `command` inside.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub(crate) fn spawn(&self, mut command: Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        if self.init.is_none() && !self.detached {
            // SAFETY: one system call, no allocation.
            unsafe {
                command
                    .pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
            }
        }
        self.run(move || command.spawn())?.with_context(|| format!("starting {program} on the node"))
    }

    /// Runs `command` inside and collects its output.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub(crate) fn output(&self, mut command: Command) -> Result<std::process::Output> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Only the start happens on the sandbox's thread: a long command must not hold up others.
        let child = self.spawn(command)?;
        child.wait_with_output().with_context(|| format!("running {program} on the node"))
    }
}

/// Takes the calling thread into new namespaces and starts their init.
fn enter(init: &Path, scratch: &Path) -> Result<Child> {
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWPID;
    // SAFETY: `UnshareFlags::FILES` is not among the flags, so descriptors stay shared by all threads.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .context("making namespaces for the node: root is needed, and a container must be privileged")?;
    mounts::separate()?;
    let mut command = Command::new(init);
    command.arg("init").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    // SAFETY: the closure makes three system calls and neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            // Out of the terminal's session: Ctrl-C is for the owner, whose end is ours.
            let _ = rustix::process::setsid();
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // Only a member of the new PID namespace can mount its /proc.
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            Ok(mount("proc", "/proc", "proc", flags, None::<&std::ffi::CStr>)?)
        });
    }
    let child = command.spawn().context("starting the node's init")?;
    mounts::cover_settings(scratch)?;
    Ok(child)
}
