//! Builds a module into the cache, once, however many processes ask at the same time. An entry is built
//! beside its final name and renamed, so that a directory which exists is complete.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::key::{go_version, key};
use crate::module::{BuildStep, Module};

/// Where the cluster's binaries lie.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl, kubelet.
    pub cluster: PathBuf,
    /// containerd, containerd-shim-runc-v2, ctr, runc, bridge, host-local, loopback, portmap.
    pub runtime: PathBuf,
}

/// The cache directory: `$VNPU_CACHE`, else `$XDG_CACHE_HOME/vnpu-dra`, else `~/.cache/vnpu-dra`.
///
/// # Errors
/// When none of the three variables is set.
pub fn cache_root() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("VNPU_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|d| d.join("vnpu-dra")))
        .or_else(|| set("HOME").map(|d| d.join(".cache").join("vnpu-dra")))
        .context("no cache directory: set HOME, XDG_CACHE_HOME or VNPU_CACHE")
}

/// Builds whatever is missing of what a cluster needs; `progress` gets one line per event. Our own Go helpers
/// are apart ([`Module::Tools`]): a cluster comes up without them.
///
/// # Errors
/// See [`ensure`].
pub fn ensure_all(repo: &Path, progress: &dyn Fn(&str)) -> Result<Binaries> {
    let runtime = ensure(Module::Runtime, repo, progress)?;
    let cluster = ensure(Module::Cluster, repo, progress)?;
    Ok(Binaries { cluster, runtime })
}

/// Returns the cache directory of `module`, building it when it is not there yet. A second caller waits
/// for the first instead of building again.
///
/// # Errors
/// When Go is missing, a build fails, or the cache cannot be written.
pub fn ensure(module: Module, repo: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let source = module.directory(repo);
    let go = go_version(&source)?;
    let root = cache_root()?;
    let entry = root.join(format!("{}-{}", module.name(), key(module, repo, &go)?));
    if entry.is_dir() {
        return Ok(entry);
    }
    fs::create_dir_all(&root).with_context(|| format!("creating {}", root.display()))?;
    let lock_path = root.join(format!("{}.lock", module.name()));
    let lock = File::create(&lock_path).with_context(|| format!("creating {}", lock_path.display()))?;
    if lock.try_lock().is_err() {
        progress(&format!("{}: another process is building it; waiting", module.name()));
        lock.lock().with_context(|| format!("locking {}", lock_path.display()))?;
    }
    if entry.is_dir() {
        return Ok(entry);
    }
    let unfinished = root.join(format!("{}.building", module.name()));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("removing {}", unfinished.display()))?;
    }
    fs::create_dir_all(&unfinished)?;
    for step in module.steps(repo)? {
        build(module, &step, &source, &unfinished, progress)?;
    }
    let server = unfinished.join("server");
    if module == Module::Cluster && server.exists() {
        // etcd's main package is called `server`; nobody would look for it under that name.
        fs::rename(&server, unfinished.join("etcd"))?;
    }
    fs::rename(&unfinished, &entry).with_context(|| format!("finishing {}", entry.display()))?;
    drop_old(module, &root, &entry, progress);
    Ok(entry)
}

/// Runs one `go build` and says every half minute that it is still at it: a cold build takes ten minutes
/// and Go itself prints nothing.
fn build(module: Module, step: &BuildStep, source: &Path, to: &Path, progress: &dyn Fn(&str)) -> Result<()> {
    let begun = Instant::now();
    progress(&format!("{}: building {} (cold: minutes, warm: seconds)", module.name(), step.title));
    let (verb, rest) = step.arguments.split_first().context("empty build step")?;
    let mut child = Command::new("go")
        .arg(verb)
        .arg("-o")
        .arg(format!("{}/", to.display()))
        .args(rest)
        .env("CGO_ENABLED", if step.cgo { "1" } else { "0" })
        // A go.work or flags of the developer's other projects must not leak into a pinned build.
        .env("GOWORK", "off")
        .env("GOFLAGS", "-mod=readonly")
        .current_dir(source)
        .stdin(Stdio::null())
        .spawn()
        .context("starting `go build`")?;
    let mut said = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if said.elapsed() >= Duration::from_secs(30) {
            said = Instant::now();
            progress(&format!(
                "{}: still building {}, {} s",
                module.name(),
                step.title,
                begun.elapsed().as_secs()
            ));
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    if !status.success() {
        let hint = if step.cgo { " (it needs gcc, pkg-config and libseccomp-dev)" } else { "" };
        bail!("building {} failed: {status}{hint}", step.title);
    }
    progress(&format!("{}: built {} in {} s", module.name(), step.title, begun.elapsed().as_secs()));
    Ok(())
}

/// Keeps the two newest other entries of a module (half a gigabyte each): switching between branches stays
/// cheap and the disk does not fill.
fn drop_old(module: Module, root: &Path, keep: &Path, progress: &dyn Fn(&str)) {
    let prefix = format!("{}-", module.name());
    let Ok(entries) = fs::read_dir(root) else { return };
    let mut others: Vec<_> = entries
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix) && e.path() != keep)
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    others.sort();
    let surplus = others.len().saturating_sub(2);
    for (_, path) in others.into_iter().take(surplus) {
        progress(&format!("{}: removing the old {}", module.name(), path.display()));
        let _ = fs::remove_dir_all(&path);
    }
}
