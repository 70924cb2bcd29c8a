//! A simulated machine with GPUs for a test, and the demo program on it.

#![allow(dead_code, unreachable_pub)] // every test file uses its part

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use standin_build::Artefacts;
use standin_protocol::{Client, Machine, Reply, Request, gpu_number};
use tempfile::TempDir;

pub fn artefacts() -> &'static Artefacts {
    static BUILT: OnceLock<Artefacts> = OnceLock::new();
    BUILT.get_or_init(|| standin_build::build(false).unwrap())
}

/// The `key=value` words of a line.
pub fn fields(line: &str) -> BTreeMap<String, String> {
    line.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The lines that begin with this word.
pub fn lines(out: &str, word: &str) -> Vec<BTreeMap<String, String>> {
    out.lines().filter(|line| line.starts_with(word)).map(fields).collect()
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
        node.nodes(&machine.gpus().map(|gpu| gpu.minor).collect::<Vec<_>>());
        node
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The device nodes that programs have from now on (files of the names are enough for the libraries).
    pub fn nodes(&self, minors: &[u32]) {
        let dev = self.root().join("dev");
        let _ = std::fs::remove_dir_all(&dev);
        std::fs::create_dir_all(&dev).unwrap();
        for minor in minors {
            std::fs::write(dev.join(format!("nvidia{minor}")), "").unwrap();
        }
    }

    /// Changes the machine, and waits until the driver has it.
    pub fn change(&self, machine: &Machine) {
        let fresh = self.root().join("fresh");
        std::fs::write(&fresh, serde_json::to_string(machine).unwrap()).unwrap();
        std::fs::rename(fresh, self.root().join("machine.yaml")).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }

    /// What the libraries need to find the machine.
    pub fn environment(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("LD_LIBRARY_PATH", artefacts().lib.clone()),
            ("STANDIN_DEV", self.root().join("dev")),
            ("STANDIN_SOCKET", self.root().join("driver.sock")),
        ]
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(artefacts().bin.join("cuda-demo"));
        command.args(arguments).envs(self.environment()).env_remove("CUDA_VISIBLE_DEVICES");
        command
    }

    pub fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        self.command(arguments).envs(environment.iter().copied()).output().unwrap()
    }

    pub fn demo(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.run(arguments, &[]).stdout).unwrap()
    }

    pub fn demo_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        String::from_utf8(self.run(arguments, environment).stdout).unwrap()
    }

    /// Starts the demo and reads its first line.
    pub fn start_demo(&self, arguments: &[&str]) -> (Child, String) {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (child, line)
    }

    /// Bytes in use on a GPU, by the driver's books.
    pub fn used(&self, minor: u32) -> u64 {
        let mut client = Client::at(self.root().join("driver.sock"));
        match client.call(&Request::MemoryInfo { phys_id: gpu_number(minor) }).unwrap() {
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
