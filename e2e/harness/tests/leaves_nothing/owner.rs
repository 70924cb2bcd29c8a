//! The process that owns a cluster, the place where both keep their files, and the cluster as the test sees it
//! from outside: by its record, its processes and their namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::machine::Machine;
use crate::process::{Process, family};

/// The variable that tells the test which is run as an owner that it is one.
pub(crate) const ONLY_WHEN: &str = "VNPU_TEST_PANICS";

/// The whole life of a cluster's owner, and more.
const LONG: Duration = Duration::from_secs(180);

/// What must run when a pod does. Without one of these the comparison would prove less than it says.
const EXPECTED: &[&str] = &[
    "/etcd ",
    "/kube-apiserver ",
    "/kube-controller-manager ",
    "/kube-scheduler ",
    "/containerd ",
    "/kubelet ",
    "/containerd-shim-runc-v2 ",
    "/pause ",
];

/// One case at a time: each compares the whole machine.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Run directories and temporary files of one case, and the machine before it.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    before: Machine,
}

impl Place {
    /// An empty one. In `/var/lib`, where clusters are by default; its path is short, as sockets need it.
    pub(crate) fn new() -> Self {
        assert!(vnpu_harness::is_root(), "the real node needs root: run this with sudo");
        let directory = tempfile::Builder::new().prefix("vnpu-test-").tempdir_in("/var/lib").unwrap();
        for name in ["runs", "tmp"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let before = Machine::look(directory.path(), &[]);
        Self { directory, before }
    }

    fn runs(&self) -> PathBuf {
        self.directory.path().join("runs")
    }

    /// An old directory without a record.
    pub(crate) fn run_directory(&self, name: &str) -> PathBuf {
        let path = self.runs().join(name);
        fs::create_dir_all(path.join("logs")).unwrap();
        fs::File::open(&path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(120)).unwrap();
        path
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("VNPU_RUNS", self.runs()).env("TMPDIR", self.directory.path().join("tmp"));
        command
    }

    /// Waits until no process of the cluster's lives and no one is in its namespaces.
    #[track_caller]
    pub(crate) fn assert_nothing_runs(&self, cluster: &Seen, patience: Duration) {
        self.assert_none(patience, || self.running(cluster));
    }

    /// Waits until the machine is what it was before, without the cluster's processes.
    #[track_caller]
    pub(crate) fn assert_nothing_remains(&self, cluster: &Seen, patience: Duration) {
        self.assert_none(patience, || {
            let mut remains = self.running(cluster);
            let now = Machine::look(self.directory.path(), &[cluster.id()]);
            remains.extend(now.differences(&self.before));
            remains
        });
    }

    fn running(&self, cluster: &Seen) -> Vec<String> {
        let mut found: BTreeSet<String> =
            cluster.processes.iter().filter(|p| p.lives()).map(Process::line).collect();
        // Those that came later, and any that strayed.
        let run = cluster.directory.to_string_lossy();
        let strayed = Process::all().into_iter().filter(|p| {
            p.pid != std::process::id().cast_signed()
                && (p.command.contains(&*run) || !p.namespaces().is_disjoint(&cluster.namespaces))
        });
        found.extend(strayed.map(|p| p.line()));
        found.into_iter().collect()
    }

    #[track_caller]
    fn assert_none(&self, patience: Duration, remains: impl Fn() -> Vec<String>) {
        let begun = Instant::now();
        loop {
            let left = remains();
            if left.is_empty() {
                return;
            }
            let waited = begun.elapsed();
            assert!(waited < patience, "left behind after {patience:?}:\n  {}", left.join("\n  "));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Place {
    /// What a failed case has left must not be the next one's.
    fn drop(&mut self) {
        let _ = self.command(env!("CARGO_BIN_EXE_vnpu-cluster")).arg("down").output();
    }
}

/// A process that has brought up a cluster.
pub(crate) struct Owner {
    child: Child,
    lines: Receiver<String>,
    said: String,
    runs: PathBuf,
}

impl Owner {
    /// Runs `vnpu-cluster`.
    pub(crate) fn up(place: &Place, arguments: &[&str]) -> Self {
        let mut command = place.command(env!("CARGO_BIN_EXE_vnpu-cluster"));
        command.args(arguments);
        Self::start(command, place)
    }

    /// Runs a test of this program as a process of its own.
    pub(crate) fn that_panics(place: &Place, test: &str) -> Self {
        let mut command = place.command(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--ignored", "--nocapture"]).env(ONLY_WHEN, "1");
        Self::start(command, place)
    }

    fn start(mut command: Command, place: &Place) -> Self {
        // A process group of its own, as a shell makes one: Ctrl-C is for all in it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        // What a shell starts in the background ignores SIGINT, and so do its children: us, where tests run like that.
        // SAFETY: signal(2) may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap();
        let (send, lines) = channel();
        let errors = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || errors.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, lines, said: String::new(), runs: place.runs() }
    }

    /// Waits until it has said `text`.
    #[track_caller]
    pub(crate) fn hear(&mut self, text: &str) {
        loop {
            let Ok(line) = self.lines.recv_timeout(LONG) else {
                panic!("the cluster's owner has not said {text:?}, but:\n{}", self.said);
            };
            self.said.push_str(&line);
            self.said.push('\n');
            if line.contains(text) {
                return;
            }
        }
    }

    /// All that it has said until now.
    pub(crate) fn said(&mut self) -> &str {
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(100)) {
            self.said.push_str(&line);
            self.said.push('\n');
        }
        &self.said
    }

    /// The one cluster in its place.
    pub(crate) fn cluster(&self) -> Seen {
        self.cluster_except("")
    }

    /// The one cluster in its place beside another.
    pub(crate) fn cluster_except(&self, other: &str) -> Seen {
        let found: Vec<PathBuf> = fs::read_dir(&self.runs)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.file_name() != Some(other.as_ref()))
            .collect();
        let [directory] = found.as_slice() else { panic!("not one cluster, but {found:?}") };
        Seen::new(directory, self.child.id().cast_signed())
    }

    pub(crate) fn end_of_input(&mut self) {
        drop(self.child.stdin.take());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        Process::of(self.child.id().cast_signed()).unwrap().signal(signal);
    }

    pub(crate) fn signal_group(&self, signal: Signal) {
        kill_process_group(Pid::from_child(&self.child), signal).unwrap();
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < LONG, "the cluster's owner does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Owner {
    /// A failed case ends its cluster by the end of its owner.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cluster seen from outside while it ran.
pub(crate) struct Seen {
    directory: PathBuf,
    owner: i32,
    processes: Vec<Process>,
    namespaces: BTreeSet<PathBuf>,
}

impl Seen {
    fn new(directory: &Path, owner: i32) -> Self {
        let mut seen = Self {
            directory: directory.to_owned(),
            owner,
            processes: Vec::new(),
            namespaces: BTreeSet::new(),
        };
        seen.look();
        seen
    }

    /// Notes who belongs to it now.
    fn look(&mut self) {
        let record = fs::read(self.directory.join("record.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        // One that was left standing has no living owner; one without a node no init.
        let init = record["init"]["pid"].as_i64().map(|pid| i32::try_from(pid).unwrap());
        let roots: Vec<i32> = std::iter::once(self.owner).chain(init).collect();
        self.processes = family(&roots);
        self.namespaces = self.processes.iter().flat_map(Process::namespaces).collect();
    }

    /// Runs a pod in it, so that there are a shim, a pod's network and its mounts, and looks again.
    pub(crate) fn with_a_pod(mut self) -> Self {
        self.kubectl(&["run", "pod", "--image=registry.k8s.io/pause:3.10.2", "--image-pull-policy=Never"]);
        self.kubectl(&["wait", "--for=condition=Ready", "pod/pod", "--timeout=60s"]);
        self.look();
        let commands: Vec<&str> = self.processes.iter().map(|p| p.command.as_str()).collect();
        for expected in EXPECTED {
            assert!(commands.iter().any(|c| c.contains(expected)), "no {expected}among {commands:#?}");
        }
        // The node's, and more of the pod.
        assert!(self.namespaces.len() > 3, "{:?}", self.namespaces);
        self
    }

    /// The one process whose command line has `text`.
    pub(crate) fn process(&self, text: &str) -> &Process {
        self.processes.iter().find(|p| p.command.contains(text)).unwrap()
    }

    pub(crate) fn id(&self) -> &str {
        self.directory.file_name().unwrap().to_str().unwrap()
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn kubectl(&self, arguments: &[&str]) {
        let mut command = Command::new(vnpu_harness::kubectl().unwrap());
        command.args(arguments).env("KUBECONFIG", self.directory.join("admin.kubeconfig"));
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        let output = command.env("KUBECACHEDIR", self.directory.join("kubectl-cache")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
