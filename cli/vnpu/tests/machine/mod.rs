//! A simulated machine, by default with two chips of 64 GiB, and `vnpu` on it as users call it.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(dead_code, unreachable_pub)]

#[path = "../../../../interposer/core/tests/support/mod.rs"]
pub mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

/// The stand-ins' directories `lib` and `bin`, built once.
pub fn standins() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let output = Command::new(env!("CARGO"))
            .args(["run", "--quiet", "-p", "standin-build"])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
            .env("CARGO_TARGET_DIR", target)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let bin = text.lines().find_map(|l| l.strip_prefix("bin=")).unwrap();
        Path::new(bin).parent().unwrap().to_path_buf()
    })
}

pub fn bin(name: &str) -> PathBuf {
    standins().join("bin").join(name)
}

/// A simulated machine; its driver process ends with it.
pub struct Machine {
    pub dir: TempDir,
    serving: Child,
}

impl Machine {
    /// One with two Ascend chips.
    pub fn start() -> Self {
        Self::of("910C", "65536")
    }

    /// One with a single card of this kind, of so many MiB.
    pub fn of(chip: &str, memory: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("dev")).unwrap();
        let sample = Command::new(bin("standin-device"))
            .args(["sample", "--chip", chip, "--cards", "1", "--memory-mib", memory])
            .output()
            .unwrap();
        let config = dir.path().join("machine.yaml");
        fs::write(&config, sample.stdout).unwrap();
        let device = |command: &str| {
            let mut device = Command::new(bin("standin-device"));
            device.arg(command).arg("--config").arg(&config).arg("--driver-root").arg(&root);
            device
        };
        let prepared = device("prepare").arg("--dev-root").arg(root.join("dev")).output().unwrap();
        assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));
        let serving = device("serve").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let socket = root.join("usr/local/Ascend/driver/lib64/standin.sock");
        while !socket.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { dir, serving }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn runs(&self) -> PathBuf {
        self.dir.path().join("runs")
    }

    /// `vnpu run` with everything of this machine, up to the program.
    pub fn vnpu(&self, options: &[&str]) -> Command {
        self.vnpu_in(self.runs(), options)
    }

    /// The same with this run directory.
    pub fn vnpu_in(&self, runs: impl AsRef<Path>, options: &[&str]) -> Command {
        let runs = runs.as_ref().to_str().unwrap();
        self.vnpu_anywhere(&[options, &["--run-dir", runs]].concat())
    }

    /// The same with a run directory of its own choice.
    pub fn vnpu_anywhere(&self, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vnpu"));
        command
            .arg("run")
            .args(options)
            .arg("--driver-root")
            .arg(self.root())
            .arg("--state-dir")
            .arg(self.dir.path().join("state"))
            .arg("--interposer-dir")
            .arg(support::libraries())
            .arg("--")
            .env("STANDIN_DEV", self.root().join("dev"))
            .env("LD_LIBRARY_PATH", self.libraries())
            .env_remove("LD_PRELOAD")
            .stdin(Stdio::null());
        command
    }

    /// Where programs find the vendors' libraries.
    fn libraries(&self) -> String {
        let gpus = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        ["usr/local/Ascend/driver/lib64/driver", &gpus]
            .map(|l| self.root().join(l).display().to_string())
            .join(":")
    }

    /// The chip's UUIDs, as the error without `--device` lists them.
    pub fn chips(&self) -> Vec<String> {
        let output = self.vnpu(&["--memory", "4Gi"]).arg("true").output().unwrap();
        assert_eq!(output.status.code(), Some(125));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("--device"), "{text}");
        text.lines().filter_map(|l| l.strip_prefix("  ")?.split(' ').next().map(str::to_owned)).collect()
    }

    /// Runs of which something is left; without any, whatever else is left.
    pub fn left_over(&self) -> usize {
        let entries = fs::read_dir(self.runs()).into_iter().flatten();
        let names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        let runs = names.iter().filter(|name| name.starts_with("run-")).count();
        if runs == 0 { names.len() } else { runs }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.serving.kill();
        let _ = self.serving.wait();
    }
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
