//! A simulated machine for a test: a driver root of its own, a driver process, a configuration that changes.

#![allow(dead_code, unreachable_pub)] // every test file uses its part

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use standin_build::Artefacts;
use standin_protocol::Machine;
use tempfile::TempDir;
use vnpu_discovery::Backend;
use vnpu_discovery::ascend::{Ascend, AscendOptions};
use vnpu_discovery::nvidia::{Nvidia, NvidiaOptions};
use vnpu_driver::hardware::Inventory;

/// How long anything may take before the test fails; never reached on a machine that works.
const PATIENCE: Duration = Duration::from_secs(60);

fn artefacts() -> &'static Artefacts {
    static BUILT: OnceLock<Artefacts> = OnceLock::new();
    BUILT.get_or_init(|| standin_build::build(!cfg!(debug_assertions)).unwrap())
}

/// Puts `libdcmi.so` where the driver's packages put it, as a file that was not there before.
pub(crate) fn install_dcmi(root: &Path) {
    install(&root.join("usr/local/dcmi"), "libdcmi.so");
}

fn install(directory: &Path, name: &str) {
    std::fs::create_dir_all(directory).unwrap();
    let fresh = directory.join("fresh");
    std::fs::copy(artefacts().lib.join(name), &fresh).unwrap();
    std::fs::rename(fresh, directory.join(name)).unwrap();
}

/// Puts `libnvidia-ml.so.1` where Debian's packages put it, as a file that was not there before.
pub(crate) fn install_nvml(root: &Path) {
    install(&root.join("usr/lib/x86_64-linux-gnu"), "libnvidia-ml.so.1");
}

/// A shared library of a line of C.
pub(crate) fn compile(directory: &Path, name: &str, source: &str) -> PathBuf {
    let (library, file) = (directory.join(name), directory.join("source.c"));
    std::fs::write(&file, source).unwrap();
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&file).status().unwrap();
    assert!(status.success());
    library
}

pub(crate) struct Node {
    root: TempDir,
    driver: Child,
}

impl Node {
    pub(crate) fn start(machine: &Machine) -> Self {
        let root = tempfile::tempdir().unwrap();
        install_dcmi(root.path());
        Self::start_in(root, machine)
    }

    pub(crate) fn start_in(root: TempDir, machine: &Machine) -> Self {
        let config = root.path().join("machine.yaml");
        std::fs::write(&config, serde_json::to_string(machine).unwrap()).unwrap();
        let mut driver = Command::new(artefacts().device())
            .args(["serve", "--config"])
            .arg(&config)
            .arg("--driver-root")
            .arg(root.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(driver.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready"), "{line}");
        Self { root, driver }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Another machine from now on.
    pub(crate) fn change(&self, machine: &Machine) {
        let fresh = self.root().join("machine.new");
        std::fs::write(&fresh, serde_json::to_string(machine).unwrap()).unwrap();
        std::fs::rename(&fresh, self.root().join("machine.yaml")).unwrap();
    }

    pub(crate) fn options(&self) -> AscendOptions {
        AscendOptions {
            driver_root: self.root().to_owned(),
            dev_root: self.root().join("dev"),
            sys_root: self.root().join("sys"),
            deadline: PATIENCE,
            dcmi_library: None,
            // What hardly ever changes changes here.
            believed: Duration::ZERO,
        }
    }

    pub(crate) fn ascend(&self) -> Ascend {
        Ascend::new(self.options())
    }

    /// For calls that are meant to hang.
    pub(crate) fn impatient(&self) -> Ascend {
        Ascend::new(AscendOptions { deadline: Duration::from_millis(500), ..self.options() })
    }

    /// Passes until one shows what is waited for.
    pub(crate) fn until(&self, ascend: &Ascend, enough: impl Fn(&Inventory) -> bool) -> Inventory {
        self.wait(|| ascend.discover().ok().filter(&enough))
    }

    pub(crate) fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "it does not come");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A node with GPUs and their device nodes.
    pub(crate) fn gpus(machine: &Machine) -> Self {
        let root = tempfile::tempdir().unwrap();
        install_nvml(root.path());
        Self::gpus_in(root, machine)
    }

    pub(crate) fn gpus_in(root: TempDir, machine: &Machine) -> Self {
        let dev = root.path().join("dev");
        std::fs::create_dir_all(&dev).unwrap();
        for gpu in machine.gpus() {
            symlink("/dev/null", dev.join(format!("nvidia{}", gpu.minor))).unwrap();
        }
        Self::start_in(root, machine)
    }

    /// The control nodes that there are from now on.
    pub(crate) fn control_nodes(&self, names: &[&str]) {
        let dev = self.root().join("dev");
        for name in ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"] {
            let _ = std::fs::remove_file(dev.join(name));
        }
        for name in names {
            symlink("/dev/null", dev.join(name)).unwrap();
        }
    }

    pub(crate) fn nvidia_options(&self) -> NvidiaOptions {
        NvidiaOptions {
            driver_root: self.root().to_owned(),
            dev_root: self.root().join("dev"),
            sys_root: self.root().join("sys"),
            proc_root: self.root().join("proc"),
            hold: None,
            deadline: PATIENCE,
            nvml_library: None,
            // What hardly ever changes changes here.
            believed: Duration::ZERO,
        }
    }

    pub(crate) fn nvidia(&self) -> Nvidia {
        Nvidia::new(self.nvidia_options())
    }

    /// For calls that are meant to hang.
    pub(crate) fn impatient_nvidia(&self) -> Nvidia {
        Nvidia::new(NvidiaOptions { deadline: Duration::from_millis(1500), ..self.nvidia_options() })
    }

    /// Passes until one shows what is waited for.
    pub(crate) fn until_gpus(&self, nvidia: &Nvidia, enough: impl Fn(&Inventory) -> bool) -> Inventory {
        self.wait(|| nvidia.discover().ok().filter(&enough))
    }

    /// A process that holds memory on a GPU.
    pub(crate) fn hold_gpu(&self, minor: u32, bytes: u64) -> Child {
        Command::new(artefacts().bin.join("cuda-demo"))
            .args(["hold", "--device", &minor.to_string(), "--bytes", &bytes.to_string()])
            .env("LD_LIBRARY_PATH", &artefacts().lib)
            .env("STANDIN_DEV", self.root().join("dev"))
            .env("STANDIN_SOCKET", self.root().join(standin_protocol::SOCKET_BELOW_ROOT))
            .env_remove("CUDA_VISIBLE_DEVICES")
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// A process that holds memory on a device.
    pub(crate) fn hold(&self, device: u32, bytes: u64) -> Child {
        let dev = self.root().join("dev");
        std::fs::create_dir_all(&dev).unwrap();
        for id in 0..=device {
            std::fs::write(dev.join(format!("davinci{id}")), "").unwrap();
        }
        Command::new(artefacts().bin.join("acl-demo"))
            .args(["hold", "--device", &device.to_string(), "--bytes", &bytes.to_string()])
            .env("LD_LIBRARY_PATH", &artefacts().lib)
            .env("STANDIN_DEV", dev)
            .env("STANDIN_SOCKET", self.root().join(standin_protocol::SOCKET_BELOW_ROOT))
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
