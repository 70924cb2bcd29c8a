//! A simulated machine for a test, and the demo program on it.

#![allow(dead_code, unreachable_pub)] // every test file uses its part

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use standin_build::Artefacts;
use standin_protocol::{Client, Machine, Reply, Request};
use tempfile::TempDir;

pub fn artefacts() -> &'static Artefacts {
    static BUILT: OnceLock<Artefacts> = OnceLock::new();
    BUILT.get_or_init(|| standin_build::build(false).unwrap())
}

/// How the ACL libraries lie on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cann {
    /// 8.5 to 9.1: `aclrt*Impl` in a library of its own, over the runtime by name.
    V85,
    /// From 9.2 on: `aclrt*Impl` inside the runtime, which binds its own symbols to itself.
    V92,
}

impl Cann {
    pub const ALL: [Self; 2] = [Self::V85, Self::V92];

    pub fn lib(self) -> &'static Path {
        match self {
            Self::V85 => &artefacts().lib,
            Self::V92 => &artefacts().lib92,
        }
    }
}

/// The `key=value` words of a line.
pub fn fields(line: &str) -> BTreeMap<String, String> {
    line.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

pub struct Node {
    root: TempDir,
    driver: Child,
}

impl Node {
    pub fn start(machine: &Machine) -> Self {
        let root = tempfile::tempdir().unwrap();
        let config = root.path().join("machine.yaml");
        std::fs::write(&config, serde_json::to_string(machine).unwrap()).unwrap();
        let mut driver = Command::new(artefacts().device())
            .args(["serve", "--config"])
            .arg(&config)
            .arg("--socket")
            .arg(root.path().join("driver.sock"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(driver.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready"), "{line}");
        let node = Self { root, driver };
        node.nodes(&machine.dies().map(|(_, die)| die.phys_id).collect::<Vec<_>>());
        node
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The device nodes that programs have from now on (files of the names are enough for the runtime).
    pub fn nodes(&self, phys_ids: &[u32]) {
        let dev = self.root().join("dev");
        let _ = std::fs::remove_dir_all(&dev);
        std::fs::create_dir_all(&dev).unwrap();
        for id in phys_ids {
            std::fs::write(dev.join(format!("davinci{id}")), "").unwrap();
        }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(artefacts().bin.join("acl-demo"));
        command
            .args(arguments)
            .env("LD_LIBRARY_PATH", &artefacts().lib)
            .env("STANDIN_DEV", self.root().join("dev"))
            .env("STANDIN_SOCKET", self.root().join("driver.sock"));
        command
    }

    pub fn demo(&self, arguments: &[&str]) -> String {
        self.demo_with(arguments, &[])
    }

    pub fn demo_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let output = self.command(arguments).envs(environment.iter().copied()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn hold(&self, device: u32, bytes: u64) -> Child {
        self.command(&["hold", "--device", &device.to_string(), "--bytes", &bytes.to_string()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Bytes in use on a device, by the driver's books.
    pub fn used(&self, phys_id: u32) -> u64 {
        let mut client = Client::at(self.root().join("driver.sock"));
        match client.call(&Request::MemoryInfo { phys_id }).unwrap() {
            Reply::Memory { free, total } => total - free,
            other => panic!("{other:?}"),
        }
    }

    pub fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "it does not come");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
