//! Where the vendors' software lies below a root directory: libraries by their names, versions by the files that the
//! installers leave.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::coverage::LIBRARIES;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Software {
    /// Libraries of [`LIBRARIES`], each file once.
    pub(crate) libraries: Vec<PathBuf>,
    /// What the installers' files say: (which part, version, file).
    pub(crate) versions: Vec<(String, String, PathBuf)>,
}

/// Where Ascend's packages are installed, and where NVIDIA's driver may be.
const ASCEND: &str = "usr/local/Ascend";
const NVIDIA: [&str; 8] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/lib/wsl/lib",
    "usr/local/nvidia/lib64",
    "usr/local/cuda/compat",
    "usr/local/lib",
];
const VERSION_FILES: [&str; 5] = [
    "version.info",
    "ascend_toolkit_install.info",
    "ascend_nnrt_install.info",
    "ascend_nnae_install.info",
    "ascend_cann_install.info",
];
/// Large, and without what is looked for.
const SKIPPED: [&str; 8] = ["opp", "python", "include", "doc", "tools", "simulator", "test-ops", "tests"];
const DEEPEST: u32 = 5;
/// Entries that are looked at in all: an installation has fewer that are not skipped.
const MOST: u32 = 100_000;

/// Looks below `root`, and at `extra` directories (those of the environment) beside.
pub(crate) fn search(root: &Path, extra: &[PathBuf]) -> Software {
    let mut walk = Walk { software: Software::default(), seen: BTreeSet::new(), left: MOST };
    for directory in extra {
        walk.directory(directory);
    }
    walk.tree(&root.join(ASCEND), DEEPEST);
    for directory in NVIDIA {
        walk.directory(&root.join(directory));
    }
    walk.software
}

/// The directories that the environment names: of the loader, and of the toolkit's `set_env.sh`.
pub(crate) fn of_environment() -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = Vec::new();
    if let Some(paths) = std::env::var_os("LD_LIBRARY_PATH") {
        out.extend(std::env::split_paths(&paths).filter(|p| !p.as_os_str().is_empty()));
    }
    for name in ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"] {
        if let Some(home) = std::env::var_os(name).filter(|home| !home.is_empty()).map(PathBuf::from) {
            out.extend([home.join("lib64"), home]);
        }
    }
    out
}

struct Walk {
    software: Software,
    // Files behind links, so that each is told once.
    seen: BTreeSet<PathBuf>,
    left: u32,
}

impl Walk {
    /// The files in one directory.
    fn directory(&mut self, directory: &Path) {
        for name in LIBRARIES.iter().map(|(name, _)| *name).chain(VERSION_FILES) {
            self.file(&directory.join(name));
        }
    }

    /// All directories below, without following links: `latest` is one, to what is beside it.
    fn tree(&mut self, directory: &Path, deep: u32) {
        self.directory(directory);
        let Ok(entries) = fs::read_dir(directory) else { return };
        let mut below: Vec<PathBuf> = Vec::new();
        for entry in entries.flatten() {
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            let skipped = SKIPPED.iter().any(|s| entry.file_name() == *s);
            if !skipped && entry.file_type().is_ok_and(|t| t.is_dir()) {
                below.push(entry.path());
            }
        }
        below.sort();
        if deep > 0 {
            below.iter().for_each(|b| self.tree(b, deep - 1));
        }
    }

    fn file(&mut self, path: &Path) {
        let Ok(file) = fs::canonicalize(path) else { return };
        if !self.seen.insert(file) {
            return;
        }
        if path.file_name().is_some_and(|name| VERSION_FILES.iter().any(|v| name == *v)) {
            if let Some((part, version)) = fs::read(path).ok().and_then(|text| version_of(path, &text)) {
                self.software.versions.push((part, version, path.to_owned()));
            }
        } else {
            self.software.libraries.push(path.to_owned());
        }
    }
}

/// The part and version of an installer's file: lines `key=value`, the keys in several spellings.
fn version_of(path: &Path, text: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(text);
    let value = |keys: &[&str]| {
        let mut pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.find(|(key, _)| keys.iter().any(|k| key.trim().eq_ignore_ascii_case(k))).map(|(_, v)| shown(v))
    };
    let version = value(&["version", "driver_version", "firmware_version"]).filter(|v| !v.is_empty())?;
    let part = value(&["package_name"]).filter(|p| !p.is_empty()).unwrap_or_else(|| {
        let directory = path.parent().and_then(Path::file_name).unwrap_or(OsStr::new("?"));
        directory.to_string_lossy().into_owned()
    });
    Some((part, version))
}

/// A word of somebody else's file.
fn shown(text: &str) -> String {
    text.trim().trim_matches('"').chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn software_is_found_where_the_installers_put_it_each_file_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(root, "usr/local/Ascend/driver/version.info", "Version=25.2.0\nascendhal_version=7.35.23\n");
        let toolkit = "usr/local/Ascend/ascend-toolkit/8.5.0/x86_64-linux";
        put(
            root,
            &format!("{toolkit}/ascend_toolkit_install.info"),
            "package_name=Ascend-cann-toolkit\nversion=8.5.0\narch=x86_64\n",
        );
        put(root, &format!("{toolkit}/lib64/libruntime.so"), "x");
        put(root, "usr/local/Ascend/ascend-toolkit/8.5.0/opp/lib/libruntime.so", "a copy for something else");
        std::os::unix::fs::symlink("8.5.0", root.join("usr/local/Ascend/ascend-toolkit/latest")).unwrap();
        put(root, "usr/lib64/libcuda.so.1", "x");
        let extra = root.join(toolkit).join("lib64");
        let found = search(root, &[extra.clone(), extra]);
        let libraries: Vec<_> = found.libraries.iter().map(|l| l.strip_prefix(root).unwrap()).collect();
        let runtime = format!("{toolkit}/lib64/libruntime.so");
        assert_eq!(libraries, [Path::new(&runtime), Path::new("usr/lib64/libcuda.so.1")]);
        let versions: Vec<_> = found.versions.iter().map(|(p, v, _)| (p.as_str(), v.as_str())).collect();
        assert_eq!(versions, [("Ascend-cann-toolkit", "8.5.0"), ("driver", "25.2.0")]);
    }

    #[test]
    fn a_version_file_that_says_nothing_is_left_out() {
        let of = |text: &str| version_of(Path::new("/x/compiler/version.info"), text.as_bytes());
        assert_eq!(of("Version=9.2.0\u{1b}[1m\n"), Some(("compiler".to_owned(), "9.2.0[1m".to_owned())));
        for nothing in ["", "version=", "hello", "=8.5", "\u{fffd}"] {
            assert_eq!(of(nothing), None, "{nothing:?}");
        }
    }
}
