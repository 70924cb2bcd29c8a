//! A node for tests of the whole program: its directories, a simulated driver in a process of its own, and the
//! plugin as users start it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use standin_build::Artefacts;
use standin_protocol::Machine;
use tempfile::TempDir;

/// How long anything may take before the test fails; never reached on a machine that works.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const PLUGIN: &str = env!("CARGO_BIN_EXE_vnpu-kubelet-plugin");

pub fn artefacts() -> &'static Artefacts {
    static BUILT: OnceLock<Artefacts> = OnceLock::new();
    BUILT.get_or_init(|| standin_build::build(false).unwrap())
}

/// A node's directories, its driver's library, and a simulated driver.
pub struct Node {
    pub dir: TempDir,
    driver: Child,
}

impl Node {
    pub fn start(machine: &Machine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["registry", "plugins", "cdi", "state", "run", "interposer", "dev", "usr/local/dcmi"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in ["libvnpu.so", "libvnpu_core.so"] {
            std::fs::write(dir.path().join("interposer").join(name), "").unwrap();
        }
        std::fs::copy(artefacts().lib.join("libdcmi.so"), dir.path().join("usr/local/dcmi/libdcmi.so"))
            .unwrap();
        let config = dir.path().join("machine.yaml");
        std::fs::write(&config, serde_json::to_string(machine).unwrap()).unwrap();
        let mut driver = Command::new(artefacts().device())
            .args(["serve", "--config"])
            .arg(&config)
            .arg("--driver-root")
            .arg(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(driver.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready"), "{line}");
        Self { dir, driver }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The plugin's command line; what `arguments` say again replaces it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut all: Vec<(&str, String)> =
            vec![("--node-name", "node-1".to_owned()), ("--admin-address", String::new())];
        for (flag, name) in [
            ("--kubeconfig", "no-kubeconfig"),
            ("--kubelet-registry-dir", "registry"),
            ("--kubelet-plugins-dir", "plugins"),
            ("--cdi-dir", "cdi"),
            ("--state-dir", "state"),
            ("--runtime-dir", "run"),
            ("--interposer-dir", "interposer"),
            ("--dev-root", "dev"),
        ] {
            all.push((flag, self.path(name).display().to_string()));
        }
        all.push(("--driver-root", self.dir.path().display().to_string()));
        all.retain(|(flag, _)| !arguments.contains(flag));
        let mut command = Command::new(PLUGIN);
        command.args(all.iter().flat_map(|(flag, value)| [*flag, value.as_str()])).args(arguments);
        command
    }

    /// Exit code and everything printed by `--check`, which leaves the directories as they are.
    pub fn check(&self, arguments: &[&str]) -> (i32, String) {
        let before = self.tree();
        let output = self.command(arguments).arg("--check").output().unwrap();
        assert_eq!(self.tree(), before, "--check leaves nothing");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        (output.status.code().unwrap(), text)
    }

    pub fn refused(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let (found, text) = self.check(arguments);
        assert_eq!(found, code, "{arguments:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{arguments:?}: no {word:?} in {text}");
        }
    }

    fn tree(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        for name in ["registry", "plugins", "cdi", "state", "run"] {
            let entries = std::fs::read_dir(self.path(name)).into_iter().flatten();
            files.extend(entries.map(|entry| entry.unwrap().path()));
        }
        files
    }

    pub fn change(&self, machine: &Machine) {
        let fresh = self.path("machine.new");
        std::fs::write(&fresh, serde_json::to_string(machine).unwrap()).unwrap();
        std::fs::rename(&fresh, self.path("machine.yaml")).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The running plugin, killed with the test.
pub struct Running {
    pub plugin: Child,
    admin: String,
}

impl Running {
    pub fn start(node: &Node, arguments: &[&str]) -> Self {
        let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let all = [&["--admin-address", &admin], arguments].concat();
        Self::spawn(node, node.command(&all), admin)
    }

    /// What `command` starts, whose admin server is at `admin`.
    pub fn spawn(node: &Node, mut command: Command, admin: String) -> Self {
        let log = std::fs::File::create(node.path("log")).unwrap();
        let plugin = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Self { plugin, admin }
    }

    /// Status and body together.
    pub fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.admin).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert_eq!(self.plugin.try_wait().unwrap(), None, "the plugin ended");
            assert!(begun.elapsed() < PATIENCE, "it never came to this: {what}; {:?}", self.get("/readyz"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.plugin.kill();
        let _ = self.plugin.wait();
    }
}
