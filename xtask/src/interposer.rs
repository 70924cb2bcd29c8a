//! `xtask interposer`: builds both halves of vNPU-Core, checks what they ask of the process they are loaded
//! into, and places them side by side, as they lie on a node.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, output, target};

/// The oldest C library whose processes must be able to load us.
const OLDEST_GLIBC: (u32, u32) = (2, 31);

/// Builds and checks; returns the directory with `libvnpu.so` and `libvnpu_core.so`.
pub(crate) fn build() -> Result<PathBuf> {
    let preload_target = target().join("preload");
    let preload_target_text = preload_target.to_string_lossy().into_owned();
    cargo(&[
        "build",
        "--quiet",
        "--release",
        "--manifest-path",
        "interposer/preload/Cargo.toml",
        "--target-dir",
        &preload_target_text,
    ])?;
    cargo(&["build", "--quiet", "--release", "--package", "vnpu-core"])?;
    let preload = preload_target.join("release/libvnpu.so");
    let core = target().join("release/libvnpu_core.so");
    check_preload(&preload)?;
    report_versions(&core)?;
    let directory = target().join("interposer");
    std::fs::create_dir_all(&directory)?;
    place(&preload, &directory.join("libvnpu.so"))?;
    place(&core, &directory.join("libvnpu_core.so"))?;
    Ok(directory)
}

/// Builds, checks, and says where they are.
pub(crate) fn run() -> Result<()> {
    println!("interposer: {}", build()?.display());
    Ok(())
}

/// The front end is loaded into every process of the container, whatever its C library: it must need no
/// library, no symbol version, and must do nothing at start but what its own initialiser does.
fn check_preload(library: &Path) -> Result<()> {
    let path = library.to_string_lossy();
    let dynamic = output("readelf", &["-dW", &path])?;
    if let Some(line) = dynamic.lines().find(|l| l.contains("(NEEDED)")) {
        bail!("{path} needs another library, so some processes cannot load it: {}", line.trim());
    }
    let defined = defined(library)?;
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
    if let Some((symbol, version)) = wanted(library)?.iter().find(|(_, v)| v.starts_with("GLIBC_")) {
        bail!("{path} asks for {symbol}@{version}: it would not load under musl");
    }
    Ok(())
}

/// Says which symbols of the back end are newer than the oldest C library we promise. It is loud and no
/// failure: such a library still serves every image that is as new as the machine it was built on, and a
/// release is built on an old one.
fn report_versions(library: &Path) -> Result<()> {
    let mut newer = Vec::new();
    for (symbol, version) in wanted(library)? {
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

/// Names that a library defines for others.
fn defined(library: &Path) -> Result<Vec<String>> {
    let text = output("nm", &["-D", "--defined-only", &library.to_string_lossy()])?;
    Ok(text
        .lines()
        .filter_map(|l| l.split_whitespace().last())
        .map(|n| n.split('@').next().unwrap_or(n).to_owned())
        .collect())
}

/// Symbols with versions that a library asks of others.
fn wanted(library: &Path) -> Result<Vec<(String, String)>> {
    let text = output("nm", &["-D", "--undefined-only", &library.to_string_lossy()])?;
    let symbols = text.lines().filter_map(|l| l.split_whitespace().last()?.split_once('@'));
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
