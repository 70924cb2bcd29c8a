//! What the interposer's end-to-end tests share: both libraries, a fake runtime and driver compiled once, and
//! processes that run under them.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(dead_code, unreachable_pub)]

#[path = "arch.rs"]
pub mod arch;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;
use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_driver::share::{ChipShare, ClaimShares, ComputeMode, OnFailure, Overhead};
use vnpu_quota_agent::Agent;

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
/// `ACL_ERROR_RT_MEMORY_ALLOCATION`.
pub const OUT_OF_MEMORY: &str = "207001";

fn run(command: &mut Command) {
    // Cargo's own search path may hold other libraries of the same names, and the linker looks there too.
    let output =
        command.env_remove("LD_LIBRARY_PATH").output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// The directory with `libvnpu.so` and `libvnpu_core.so`: from `VNPU_INTERPOSER_DIR`, else built here.
pub fn libraries() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        if let Some(dir) = std::env::var_os("VNPU_INTERPOSER_DIR") {
            return PathBuf::from(dir);
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let cargo = |directory: &Path| {
            let mut command = Command::new(env!("CARGO"));
            command.args(["build", "--release"]).env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
            arch::cargo_target(&mut command);
            command.current_dir(directory);
            command
        };
        let preload = tmp.join("preload");
        // From its own directory, where its own cargo settings are.
        run(cargo(&root.join("interposer/preload")).arg("--target-dir").arg(&preload));
        let core = tmp.join("core");
        run(cargo(&root).args(["-p", "vnpu-core"]).arg("--target-dir").arg(&core));
        // One directory per test program, since several may do this at the same time.
        let dir = tmp.join(format!("lib-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let built = arch::released();
        fs::copy(preload.join(&built).join("libvnpu.so"), dir.join("libvnpu.so")).unwrap();
        fs::copy(core.join(&built).join("libvnpu_core.so"), dir.join("libvnpu_core.so")).unwrap();
        dir
    })
}

/// The directory with the fake runtime's libraries and the drivers `driver` and `linked`.
pub fn fakes() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake");
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fakes-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let cc = |out: &str, file: &str, options: &[&str]| {
            run(arch::compiler()
                .args(["-O1", "-Wall", "-fPIC", "-o"])
                .arg(dir.join(out))
                .arg(source.join(file))
                .arg("-L")
                .arg(&dir)
                .arg(format!("-Wl,-rpath,{}", dir.display()))
                .args(options));
        };
        cc("libruntime.so", "runtime.c", &["-shared", "-Wl,-Bsymbolic", "-Wl,-soname,libruntime.so"]);
        cc(
            "libacl_rt_impl.so",
            "impl.c",
            &["-shared", "-Wl,-Bsymbolic", "-Wl,-soname,libacl_rt_impl.so", "-lruntime"],
        );
        cc(
            "libascendcl.so",
            "ascendcl.c",
            &["-shared", "-Wl,-Bsymbolic", "-Wl,-soname,libascendcl.so", "-lacl_rt_impl"],
        );
        cc("driver", "driver.c", &["-ldl", "-lpthread"]);
        cc("linked", "driver.c", &["-DLINKED", "-Wl,--no-as-needed", "-lascendcl", "-ldl", "-lpthread"]);
        dir
    })
}

/// A runtime directory with claims.
pub struct Node {
    pub dir: TempDir,
    pub agent: Agent,
}

pub fn uid(n: u32) -> ClaimUid {
    ClaimUid::new(format!("{n:08x}-0000-4000-8000-000000000000")).unwrap()
}

pub fn share(chip: u32, memory: u64) -> ChipShare {
    ChipShare {
        uuid: DeviceUuid::new(format!("CHIP-{chip}")).unwrap(),
        phys_id: chip,
        memory: Bytes(memory),
        cores: Percent(10),
        mode: ComputeMode::Hard,
        priority: 5,
        on_failure: OnFailure::Closed,
        overhead: Overhead::Charge,
    }
}

impl Node {
    /// With no claim.
    pub fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::open(dir.path()).unwrap();
        Self { dir, agent }
    }

    /// With claim 1 that has `memory` of chip 0.
    pub fn with_quota(memory: u64) -> Self {
        let node = Self::empty();
        node.claim(1, vec![share(0, memory)]);
        node
    }

    pub fn claim(&self, n: u32, chips: Vec<ChipShare>) {
        self.agent.create(&ClaimShares { claim: uid(n), chips }).unwrap();
    }

    pub fn file(&self, n: u32, name: &str) -> PathBuf {
        self.dir.path().join("claims").join(uid(n).as_str()).join(name)
    }

    /// What the ledger of claim `n` says of its first chip.
    pub fn used(&self, n: u32) -> u64 {
        let usage = self.agent.usage(&uid(n)).unwrap();
        usage.chips[0].used.0 + usage.chips[0].reserved.0
    }

    /// A command under the interposer with this node's claims.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = arch::program(program.as_ref(), &libraries().join("libvnpu.so"), fakes());
        command.env("VNPU_REGION_DIR", self.dir.path());
        command
    }

    /// A driver that finds the runtime as `how` says: `linked`, `acl`, `impl` or `rt`.
    pub fn driver(&self, how: &str) -> Driver {
        Driver::start(&mut self.driver_command(how))
    }

    pub fn driver_command(&self, how: &str) -> Command {
        let program = if how == "linked" { "linked" } else { "driver" };
        let mut command = self.command(fakes().join(program));
        command.arg(how);
        command
    }
}

/// A running driver.
pub struct Driver {
    pub child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Driver {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// Sends a command and returns the answer.
    pub fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.answer()
    }

    pub fn send(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
    }

    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Free and total bytes that the program sees.
    pub fn info(&mut self) -> (u64, u64) {
        let answer = self.ask("info");
        let numbers: Vec<u64> = answer.split(' ').map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers[0], 0, "{answer}");
        (numbers[1], numbers[2])
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
