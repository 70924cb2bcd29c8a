//! Builds the stand-in libraries and programs and puts them side by side: `<target>/standins/{lib,lib92,bin}`.
//! Cargo orders no cdylibs and names no artefacts of other packages, so tests and xtask come here.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// What was built.
#[derive(Debug, Clone)]
pub struct Artefacts {
    /// `<target>/standins`.
    pub root: PathBuf,
    /// `libdcmi.so`, and the ACL libraries as CANN 8.5 to 9.1 has them: `libascendcl.so`, `libacl_rt_impl.so`,
    /// `libruntime.so`.
    pub lib: PathBuf,
    /// `libdcmi.so`, and the ACL libraries as CANN 9.2 has them: `libascendcl.so`, `libruntime.so`.
    pub lib92: PathBuf,
    /// `standin-device`, `acl-demo`, `acl-demo-linked`.
    pub bin: PathBuf,
}

impl Artefacts {
    /// The driver's program.
    pub fn device(&self) -> PathBuf {
        self.bin.join("standin-device")
    }
}

const PACKAGES: [&str; 8] = [
    "standin-device",
    "standin-dcmi",
    "standin-runtime",
    "standin-acl-rt-impl",
    "standin-ascendcl",
    "standin-runtime-92",
    "standin-ascendcl-92",
    "acl-demo",
];
/// The NVIDIA half: packages, libraries as cargo names them and as the loader wants them, programs.
const NVIDIA_PACKAGES: [&str; 3] = ["standin-cuda", "standin-nvml", "cuda-demo"];
const NVIDIA_LIBRARIES: [(&str, &str); 2] =
    [("libcuda.so", "libcuda.so.1"), ("libnvidia_ml.so", "libnvidia-ml.so.1")];
const NVIDIA_PROGRAMS: [&str; 2] = ["cuda-demo", "cuda-demo-linked"];
const LIBRARIES: [&str; 4] = ["libdcmi.so", "libascendcl.so", "libacl_rt_impl.so", "libruntime.so"];
/// As cargo names them, and as the loader wants them.
const LIBRARIES_92: [(&str, &str); 3] = [
    ("libdcmi.so", "libdcmi.so"),
    ("libascendcl_92.so", "libascendcl.so"),
    ("libruntime_92.so", "libruntime.so"),
];
const PROGRAMS: [&str; 3] = ["standin-device", "acl-demo", "acl-demo-linked"];

/// Builds everything with cargo and copies it below the target directory. Quick when nothing changed.
pub fn build(release: bool) -> Result<Artefacts> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).context("no workspace")?;
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => workspace.join(directory),
        None => workspace.join("target"),
    };
    let mut command = Command::new(cargo);
    command.current_dir(workspace).args(["build", "--quiet", "--target-dir"]).arg(&target);
    for package in PACKAGES.iter().chain(&NVIDIA_PACKAGES) {
        command.args(["--package", package]);
    }
    if release {
        command.arg("--release");
    }
    if !command.status().context("cargo does not start")?.success() {
        bail!("the stand-ins do not build, see cargo's messages above");
    }
    let built = target.join(if release { "release" } else { "debug" });
    let root = target.join("standins");
    let artefacts =
        Artefacts { lib: root.join("lib"), lib92: root.join("lib92"), bin: root.join("bin"), root };
    for library in LIBRARIES {
        place(&built.join(library), &artefacts.lib, library)?;
    }
    for (library, name) in NVIDIA_LIBRARIES {
        place(&built.join(library), &artefacts.lib, name)?;
    }
    for (library, name) in LIBRARIES_92 {
        place(&built.join(library), &artefacts.lib92, name)?;
    }
    for program in PROGRAMS.iter().chain(&NVIDIA_PROGRAMS) {
        place(&built.join(program), &artefacts.bin, program)?;
    }
    Ok(artefacts)
}

/// Copies through a second name: a running program keeps its file, and two callers at once do not mix.
fn place(from: &Path, directory: &Path, name: &str) -> Result<()> {
    let to = directory.join(name);
    let same =
        |a: &Path, b: &Path| -> Option<bool> { Some(std::fs::read(a).ok()? == std::fs::read(b).ok()?) };
    if same(from, &to) == Some(true) {
        return Ok(());
    }
    std::fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let fresh = directory.join(format!(".{name}.{}", std::process::id()));
    std::fs::copy(from, &fresh).with_context(|| format!("copy {}", from.display()))?;
    std::fs::rename(&fresh, &to).with_context(|| format!("put {} in place", to.display()))
}
