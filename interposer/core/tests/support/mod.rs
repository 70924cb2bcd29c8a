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
        let given = std::env::var_os("VNPU_INTERPOSER_DIR").map(PathBuf::from);
        given.unwrap_or_else(|| build_libraries("lib", "core", &[]))
    })
}

/// As [`libraries`], with a back end that ends or stops the process where `VNPU_FAULT` says.
pub fn faulty_libraries() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| build_libraries("faulty", "core-fault", &["--features", "fault"]))
}

fn build_libraries(name: &str, target: &str, options: &[&str]) -> PathBuf {
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
    let core = tmp.join(target);
    run(cargo(&root).args(["-p", "vnpu-core"]).args(options).arg("--target-dir").arg(&core));
    // One directory per test program, since several may do this at the same time.
    let dir = tmp.join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let built = arch::released();
    fs::copy(preload.join(&built).join("libvnpu.so"), dir.join("libvnpu.so")).unwrap();
    fs::copy(core.join(&built).join("libvnpu_core.so"), dir.join("libvnpu_core.so")).unwrap();
    dir
}

/// How the fake ACL libraries lie on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// Before CANN 8.5: `aclrt*Impl` in `libascendcl_impl.so`.
    Old,
    /// CANN 8.5 to 9.1: in `libacl_rt_impl.so`.
    Apart,
    /// From CANN 9.2 on: in `libruntime.so`, which binds its own symbols to itself.
    Inside,
}

impl Layers {
    pub const ALL: [Self; 3] = [Self::Old, Self::Apart, Self::Inside];

    fn build(self, dir: &Path) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake");
        fs::create_dir_all(dir).unwrap();
        let cc = |out: &str, files: &[&str], options: &[&str]| {
            run(arch::compiler()
                .args(["-O1", "-Wall", "-fPIC", "-o"])
                .arg(dir.join(out))
                .args(files.iter().map(|file| source.join(file)))
                .arg("-L")
                .arg(dir)
                .arg(format!("-Wl,-rpath,{}", dir.display()))
                .args(options));
        };
        let library = |out: &str, files: &[&str], below: Option<&str>| {
            let soname = format!("-Wl,-soname,{out}");
            let below = below.map(|below| format!("-l:{below}"));
            let mut options = vec!["-shared", "-Wl,-Bsymbolic", &soname];
            options.extend(below.as_deref());
            cc(out, files, &options);
        };
        match self {
            Self::Inside => {
                library("libruntime.so", &["runtime.c", "impl.c"], None);
                library("libascendcl.so", &["ascendcl.c"], Some("libruntime.so"));
            }
            Self::Old | Self::Apart => {
                let middle = if self == Self::Old { "libascendcl_impl.so" } else { "libacl_rt_impl.so" };
                library("libruntime.so", &["runtime.c"], None);
                library(middle, &["impl.c"], Some("libruntime.so"));
                library("libascendcl.so", &["ascendcl.c"], Some(middle));
            }
        }
        cc("driver", &["driver.c"], &["-ldl", "-lpthread"]);
        cc("linked", &["driver.c"], &["-DLINKED", "-Wl,--no-as-needed", "-lascendcl", "-ldl", "-lpthread"]);
    }
}

/// The directory with the fake runtime's libraries and the drivers `driver` and `linked`.
pub fn fakes() -> &'static Path {
    fakes_of(Layers::Apart)
}

/// As [`fakes`], of one generation of CANN.
pub fn fakes_of(layers: Layers) -> &'static Path {
    static DIRS: [OnceLock<PathBuf>; 3] = [const { OnceLock::new() }; 3];
    DIRS[layers as usize].get_or_init(|| {
        let name = format!("fakes-{}-{layers:?}", std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        layers.build(&dir);
        dir
    })
}

/// Builds `tests/fake/<file>` as `out` in `dir`.
pub fn build_fake(dir: &Path, file: &str, out: &str, options: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake").join(file);
    let mut cc = arch::compiler();
    cc.args(["-O1", "-fPIC", "-w", "-o"]).arg(dir.join(out)).arg(source).args(options).arg("-lpthread");
    run(&mut cc);
}

/// A directory with the vendor's `library` and the program `client`, which one file of `tests/fake` is both.
pub fn library_and_client(file: &str, library: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let soname = format!("-Wl,-soname,{library}");
    build_fake(dir.path(), file, library, &["-shared", "-Wl,-Bsymbolic", &soname]);
    build_fake(dir.path(), file, "client", &["-DCLIENT", "-ldl"]);
    dir
}

/// The `client` in such a directory, in the claims of `node`.
pub fn client(dir: &Path, node: &Node) -> Command {
    let mut command = arch::program(&dir.join("client"), &libraries().join("libvnpu.so"), dir);
    command.env("VNPU_REGION_DIR", node.dir.path());
    command
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

/// As [`share`], of the GPU with this identity.
pub fn gpu_share(uuid: [u8; 16], memory: u64) -> ChipShare {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |from: usize, to: usize| &hex[from..to];
    let parts = [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)];
    ChipShare { uuid: DeviceUuid::new(format!("GPU-{}", parts.join("-"))).unwrap(), ..share(0, memory) }
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
        self.command_on(Layers::Apart, program.as_ref())
    }

    fn command_on(&self, layers: Layers, program: &Path) -> Command {
        let mut command = arch::program(program, &libraries().join("libvnpu.so"), fakes_of(layers));
        command.env("VNPU_REGION_DIR", self.dir.path());
        command
    }

    /// A driver that finds the runtime as `how` says: `linked`, `acl`, `impl` or `rt`.
    pub fn driver(&self, how: &str) -> Driver {
        Driver::start(&mut self.driver_command(how))
    }

    pub fn driver_command(&self, how: &str) -> Command {
        self.driver_on(Layers::Apart, how)
    }

    /// As [`Self::driver_command`], on one generation of CANN.
    pub fn driver_on(&self, layers: Layers, how: &str) -> Command {
        let program = if how == "linked" { "linked" } else { "driver" };
        let mut command = self.command_on(layers, &fakes_of(layers).join(program));
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

    /// Lets the program end by itself, and returns what it wrote on standard error, if that is a pipe.
    pub fn end(self) -> String {
        let mut driver = std::mem::ManuallyDrop::new(self);
        // SAFETY: each field is taken out once, and nothing is dropped twice: the rest has no destructor that matters.
        drop(unsafe { std::ptr::read(&raw const driver.input) });
        let _ = driver.child.wait();
        let mut text = String::new();
        if let Some(mut errors) = driver.child.stderr.take() {
            std::io::Read::read_to_string(&mut errors, &mut text).unwrap();
        }
        text
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
