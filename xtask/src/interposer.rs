//! `xtask interposer`: builds both halves of vNPU-Core, for this machine or another architecture, checks what they ask
//! of the process they are loaded into, and places them side by side, as they lie on a node.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use vnpu_e2e_binaries::repo_root;

use crate::cross::Cross;
use crate::shell::{cargo_program, command, finish, has, not_run, output, target};

/// The oldest C library whose processes must be able to load us.
const OLDEST_GLIBC: (u32, u32) = (2, 17);

/// The architecture that is built beside the machine's own; `xtask` itself may run on either.
const OTHER: &str =
    if cfg!(target_arch = "aarch64") { "x86_64-unknown-linux-gnu" } else { "aarch64-unknown-linux-gnu" };

/// The interposer's tests that are about a file, and those that run programs of the architecture in an emulator: what
/// depends on its instructions, and not on the speed or the system calls of the machine below.
const FILES: &[&str] = &["files"];
const PROGRAMS: &[&str] = &["forwarding", "memory", "chips"];

/// Of these, what the emulator (QEMU 7.2) does not do as a kernel: it wipes nothing in a forked child, shows its own
/// account of a process instead of the program's, and gives the program no environment but its own.
const NOT_EMULATED: &[&str] = &[
    "a_forked_child_has_its_own_slot_and_never_frees_its_parents_bytes",
    "a_program_that_closes_all_its_files_keeps_its_bytes",
    "a_missing_back_end_refuses_memory_in_a_claim_and_nothing_outside",
];

/// Builds and checks for this machine; returns the directory with `libvnpu.so` and `libvnpu_core.so`.
pub(crate) fn build() -> Result<PathBuf> {
    build_for(None)
}

fn build_for(cross: Option<&Cross>) -> Result<PathBuf> {
    let preload_target = target().join("preload");
    let arguments = ["build", "--quiet", "--release"];
    // From its own directory, where its own cargo settings are.
    let mut preload = command(&cargo_program(), &arguments);
    preload.current_dir(repo_root().join("interposer/preload")).arg("--target-dir").arg(&preload_target);
    let mut core = command(&cargo_program(), &arguments);
    core.args(["--package", "vnpu-core"]);
    for build in [&mut preload, &mut core] {
        if let Some(cross) = cross {
            cross.build(build);
        }
        finish(build)?;
    }
    let (release, place_name) = match cross {
        Some(cross) => (Path::new(cross.target).join("release"), format!("interposer-{}", cross.target)),
        None => (PathBuf::from("release"), "interposer".to_owned()),
    };
    let preload = preload_target.join(&release).join("libvnpu.so");
    let core = target().join(&release).join("libvnpu_core.so");
    check_preload(cross, &preload)?;
    report_versions(cross, &core)?;
    let directory = target().join(place_name);
    std::fs::create_dir_all(&directory)?;
    place(&preload, &directory.join("libvnpu.so"))?;
    place(&core, &directory.join("libvnpu_core.so"))?;
    Ok(directory)
}

/// Builds, checks, and says where they are; for another architecture with the interposer's tests of the files, and of
/// what can be run of it here.
pub(crate) fn run(wanted: Option<&str>) -> Result<()> {
    let Some(wanted) = wanted else {
        println!("interposer: {}", build()?.display());
        return Ok(());
    };
    let cross = Cross::find(wanted)?;
    let directory = build_for(Some(&cross))?;
    println!("interposer for {wanted}: {}", directory.display());
    let test = |tests: &[&str]| {
        let mut command = command(&cargo_program(), &["test", "--quiet", "--package", "vnpu-core"]);
        for test in tests {
            command.args(["--test", test]);
        }
        command.arg("--");
        for test in NOT_EMULATED {
            command.args(["--skip", test]);
        }
        finish(command.env("VNPU_INTERPOSER_DIR", &directory).env("VNPU_TEST_TARGET", wanted))
    };
    test(FILES)?;
    let emulator = format!("qemu-{}", cross.machine);
    if !has(&emulator) {
        return not_run(format!("the files are checked; no {emulator} here (Debian: qemu-user) to run them"));
    }
    test(PROGRAMS)
}

/// The other architecture, as a step.
pub(crate) fn other() -> Result<()> {
    run(Some(OTHER))
}

/// For this machine, as a step.
pub(crate) fn own() -> Result<()> {
    run(None)
}

/// The front end is loaded into every process of the container, whatever its C library: it must need no
/// library, no symbol version, and must do nothing at start.
fn check_preload(cross: Option<&Cross>, library: &Path) -> Result<()> {
    let path = library.to_string_lossy();
    let dynamic = output(&tool(cross, "readelf"), &["-dW", &path])?;
    for (tag, problem) in [
        ("(NEEDED)", "needs another library, so some processes cannot load it"),
        ("(INIT_ARRAY)", "runs something at the start of every process"),
    ] {
        if let Some(line) = dynamic.lines().find(|l| l.contains(tag)) {
            bail!("{path} {problem}: {}", line.trim());
        }
    }
    let defined = defined(cross, library)?;
    // Which families exist is checked by the interposer's own tests; these show that the export list has not
    // been lost on the way through the linker.
    for name in ["dlsym", "aclrtMallocImpl", "rtMalloc"] {
        if !defined.iter().any(|d| d == name) {
            bail!("{path} does not define {name}");
        }
    }
    let of_rust = |name: &&String| ["rust_", "_R", "_ZN"].iter().any(|prefix| name.starts_with(prefix));
    if let Some(name) = defined.iter().find(of_rust) {
        bail!("{path} exports {name} of the Rust runtime, which could collide with the program's own");
    }
    let text = output(&tool(cross, "nm"), &["-D", "--undefined-only", &path])?;
    if let Some(symbol) = text.lines().find(|line| line.contains("@GLIBC_")) {
        bail!("{path} asks for {}: it would not load under musl", symbol.trim());
    }
    Ok(())
}

/// Says which symbols of the back end are newer than the oldest C library we promise. It is loud and no
/// failure: such a library still serves every image that is as new as the machine it was built on, and a
/// release is built on an old one.
fn report_versions(cross: Option<&Cross>, library: &Path) -> Result<()> {
    let mut newer = Vec::new();
    for (symbol, version) in wanted(cross, library)? {
        let Some(number) = version.strip_prefix("GLIBC_") else { continue };
        let mut parts = number.split('.').filter_map(|part| part.parse::<u32>().ok());
        if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) > OLDEST_GLIBC {
            newer.push(format!("{symbol}@{version}"));
        }
    }
    if !newer.is_empty() {
        eprintln!(
            "WARNING: {} built here does not load on glibc {}.{}, because it asks for {}",
            library.display(),
            OLDEST_GLIBC.0,
            OLDEST_GLIBC.1,
            newer.join(", ")
        );
    }
    Ok(())
}

fn tool(cross: Option<&Cross>, name: &str) -> String {
    cross.map_or_else(|| name.to_owned(), |cross| cross.tool(name))
}

/// Names that a library defines for others.
fn defined(cross: Option<&Cross>, library: &Path) -> Result<Vec<String>> {
    let text = output(&tool(cross, "nm"), &["-D", "--defined-only", &library.to_string_lossy()])?;
    Ok(text
        .lines()
        .filter_map(|l| l.split_whitespace().last())
        .map(|n| n.split('@').next().unwrap_or(n).to_owned())
        .collect())
}

/// Symbols with versions that a library cannot do without.
fn wanted(cross: Option<&Cross>, library: &Path) -> Result<Vec<(String, String)>> {
    let text = output(&tool(cross, "nm"), &["-D", "--undefined-only", &library.to_string_lossy()])?;
    // A weak one may be missing.
    let needed = text.lines().filter(|line| !line.trim_start().starts_with("w "));
    let symbols = needed.filter_map(|l| l.split_whitespace().last()?.split_once('@'));
    Ok(symbols.map(|(name, version)| (name.to_owned(), version.trim_start_matches('@').to_owned())).collect())
}

/// Copies through a second name: a process that has the old file mapped keeps it.
fn place(from: &Path, to: &Path) -> Result<()> {
    if std::fs::read(from).ok() == std::fs::read(to).ok() && to.exists() {
        return Ok(());
    }
    let fresh = to.with_extension(format!("so.{}", std::process::id()));
    std::fs::copy(from, &fresh).with_context(|| format!("copying {}", from.display()))?;
    std::fs::rename(&fresh, to).with_context(|| format!("placing {}", to.display()))
}
