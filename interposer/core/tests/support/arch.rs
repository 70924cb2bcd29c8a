//! For which architecture the tests run: this machine's, or another one whose programs run here under an emulator.
//! `VNPU_TEST_TARGET=aarch64-unknown-linux-gnu` asks for the latter.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A target other than this machine's.
#[derive(Debug, Clone)]
pub struct Foreign {
    /// As Rust calls it.
    pub target: String,
    /// As the C compiler's and the emulator's names begin and end: `aarch64`.
    pub machine: String,
}

/// The target that the environment asks for, if it is not this machine.
pub fn foreign() -> Option<Foreign> {
    let target = std::env::var("VNPU_TEST_TARGET").ok()?;
    let machine = target.split('-').next()?.to_owned();
    (machine != std::env::consts::ARCH).then_some(Foreign { target, machine })
}

impl Foreign {
    fn tool(&self, name: &str) -> String {
        format!("{}-linux-gnu-{name}", self.machine)
    }

    /// Where its C library is.
    fn root(&self) -> PathBuf {
        PathBuf::from(format!("/usr/{}-linux-gnu", self.machine))
    }
}

/// The C compiler of the target.
pub fn compiler() -> Command {
    Command::new(foreign().map_or_else(|| "cc".to_owned(), |foreign| foreign.tool("gcc")))
}

/// `nm` or `readelf` of the target.
pub fn binutil(name: &str) -> Command {
    Command::new(foreign().map_or_else(|| name.to_owned(), |foreign| foreign.tool(name)))
}

/// What cargo must be told to build for the target.
pub fn cargo_target(command: &mut Command) {
    let Some(foreign) = foreign() else { return };
    let name = foreign.target.to_uppercase().replace('-', "_");
    command.args(["--target", &foreign.target]);
    command.env(format!("CARGO_TARGET_{name}_LINKER"), foreign.tool("gcc"));
}

/// Where cargo puts what it builds with `--release`, below its target directory.
pub fn released() -> PathBuf {
    foreign().map_or_else(|| PathBuf::from("release"), |foreign| Path::new(&foreign.target).join("release"))
}

/// `program` of the target under `preload`, with its libraries in `libraries`. Of an emulated program this must not be
/// the emulator's environment.
pub fn program(program: &Path, preload: &Path, libraries: &Path) -> Command {
    let Some(foreign) = foreign() else {
        let mut command = Command::new(program);
        command.env("LD_PRELOAD", preload).env("LD_LIBRARY_PATH", libraries);
        return command;
    };
    let mut command = Command::new(format!("qemu-{}", foreign.machine));
    command.arg("-L").arg(foreign.root());
    command.arg("-E").arg(format!("LD_PRELOAD={}", preload.display()));
    command.arg("-E").arg(format!("LD_LIBRARY_PATH={}", libraries.display()));
    command.arg(program);
    command
}
