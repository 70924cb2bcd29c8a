//! What a machine needs beside Rust and Go: checked by looking for the files themselves, installed by apt
//! where that is possible.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use vnpu_e2e_binaries::{Module, go_version, repo_root};

use crate::shell::{finish, has};

/// Debian packages and how to see that what they bring is there, whatever system this is.
const PACKAGES: &[(&str, Probe)] = &[
    ("gcc", Probe::Program("gcc")),
    ("libc6-dev", Probe::Compiles("int main(void) { return 0; }", &["-static"])),
    // For the test that a program of musl, which the interposer does not serve, runs unchanged.
    ("musl-tools", Probe::Program("musl-gcc")),
    ("binutils", Probe::Program("readelf")),
    ("pkg-config", Probe::Program("pkg-config")),
    (
        "libseccomp-dev",
        Probe::Compiles(
            "#include <seccomp.h>\nint main(void) { return !seccomp_version(); }",
            &["-lseccomp"],
        ),
    ),
    ("iproute2", Probe::Program("ip")),
    ("iptables", Probe::Program("iptables")),
    ("libc-bin", Probe::Program("ldd")),
    ("mount", Probe::Program("mount")),
    // Distributions put them in different places; any of them will do.
    ("ca-certificates", Probe::AnyFile(&["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs"])),
];

/// Without these some steps say that they were not run, and everything else goes on.
const OPTIONAL: &[(&str, Probe)] = &[
    // The interposer for the other architecture, and an emulator to run it.
    ("gcc-aarch64-linux-gnu", Probe::Program("aarch64-linux-gnu-gcc")),
    ("libc6-dev-arm64-cross", Probe::File("/usr/aarch64-linux-gnu/lib/libc.so.6")),
    ("qemu-user", Probe::Program("qemu-aarch64")),
    // NVIDIA's Python package as a client of the management queries.
    ("python3-venv", Probe::Runs("python3", &["-c", "import ensurepip, venv"])),
];

#[derive(Debug)]
enum Probe {
    Program(&'static str),
    File(&'static str),
    AnyFile(&'static [&'static str]),
    Compiles(&'static str, &'static [&'static str]),
    Runs(&'static str, &'static [&'static str]),
}

impl Probe {
    fn there(&self) -> bool {
        match self {
            Self::Program(name) => has(name),
            Self::File(path) => Path::new(path).exists(),
            Self::AnyFile(paths) => paths.iter().any(|path| Path::new(path).exists()),
            Self::Compiles(source, arguments) => compiles(source, arguments),
            Self::Runs(program, arguments) => {
                let mut command = Command::new(program);
                command.args(*arguments).stderr(std::process::Stdio::null());
                command.status().is_ok_and(|status| status.success())
            }
        }
    }
}

/// Installs what is missing when we are root on a Debian-like system; otherwise says the line to run.
pub(crate) fn run() -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!("the cluster needs Linux");
    }
    let missing = absent(PACKAGES);
    if !missing.is_empty() {
        install(&missing)?;
    }
    install_optional();
    let go = go_version(&Module::Cluster.directory(&repo_root()))?;
    println!("system packages: all there; {go}");
    Ok(())
}

fn absent(packages: &[(&'static str, Probe)]) -> Vec<&'static str> {
    packages.iter().filter(|(_, probe)| !probe.there()).map(|(name, _)| *name).collect()
}

/// What cannot be installed is said and does no harm.
fn install_optional() {
    let missing = absent(OPTIONAL);
    if missing.is_empty() || !cfg!(target_arch = "x86_64") {
        return;
    }
    if let Err(error) = install(&missing) {
        println!("some steps will not be run. {error:#}");
    }
}

fn install(missing: &[&str]) -> Result<()> {
    let line = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !has("apt-get") {
        bail!(
            "missing here, by their Debian names: {}. Install what your system calls them",
            missing.join(" ")
        );
    }
    if !root {
        bail!("system packages are missing; run this once:\n  sudo {line}");
    }
    println!("installing missing system packages: {line}");
    // The lists may be absent (fresh containers) or old; a failed update is no reason to stop.
    let mut update = Command::new("apt-get");
    let _ = finish(update.args(["update", "-qq"]));
    let mut apt = Command::new("apt-get");
    apt.args(["install", "-y", "-qq", "--no-install-recommends"]).args(missing);
    finish(apt.env("DEBIAN_FRONTEND", "noninteractive"))?;
    let still: Vec<&str> = [PACKAGES, OPTIONAL]
        .into_iter()
        .flatten()
        .filter(|(name, probe)| missing.contains(name) && !probe.there())
        .map(|(name, _)| *name)
        .collect();
    if !still.is_empty() {
        bail!("installed, but still not usable: {}", still.join(" "));
    }
    Ok(())
}

/// Whether gcc compiles and links `source`.
fn compiles(source: &str, arguments: &[&str]) -> bool {
    use std::io::Write;
    let mut command = Command::new("gcc");
    command.args(["-x", "c", "-o", "/dev/null", "-"]).args(arguments);
    command.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(source.as_bytes());
    }
    child.wait().is_ok_and(|status| status.success())
}
