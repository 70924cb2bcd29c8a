//! A root file system in memory: single files, programs with the libraries they load, and the base that
//! demo pods and tests stand on. How it becomes an image is in `archive`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Programs of the base image. Those that the host lacks are left out: none of them is essential.
const BASE_PROGRAMS: &[&str] = &[
    "basename", "cat", "chmod", "cp", "cut", "date", "dd", "dirname", "echo", "env", "false", "grep", "head",
    "id", "ln", "ls", "mkdir", "mv", "od", "printf", "pwd", "readlink", "rm", "sed", "seq", "sleep", "sort",
    "stat", "tail", "tee", "test", "timeout", "touch", "tr", "true", "uname", "uniq", "wc", "xargs",
];

/// Libraries that programs load by name at run time, or that test binaries need though no base program does.
const BASE_LIBRARIES: &[&str] =
    &["libgcc_s.so.1", "libstdc++.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"];

#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Symlink { target: String },
}

/// A root file system under construction. Paths are given as they will be in the container.
#[derive(Debug, Clone, Default)]
pub struct RootFs {
    pub(crate) entries: BTreeMap<String, Entry>,
}

impl RootFs {
    /// An empty root.
    pub fn new() -> Self {
        Self::default()
    }

    /// The host's C library, dash as `/bin/sh`, and the usual small programs: what demo pods run in. It
    /// has the host's glibc, so dynamically linked binaries built on the host run in it.
    ///
    /// # Errors
    /// When the host's libc6 or dash cannot be found.
    pub fn base() -> Result<Self> {
        let mut root = Self::new();
        for directory in ["etc", "proc", "sys", "dev", "usr", "root", "var", "run", "opt"] {
            root.directory(directory, 0o755);
        }
        root.directory("tmp", 0o1777);
        root.text(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/false\n",
        );
        root.text("etc/group", "root:x:0:\nnogroup:x:65534:\n");
        root.text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
        root.symlink("usr/bin", "../bin");
        let shell = find_program("dash")
            .or_else(|| find_program("bash"))
            .context("the host has neither dash nor bash")?;
        root.program(&shell, "bin/sh")?;
        for name in BASE_PROGRAMS {
            if let Some(path) = find_program(name) {
                root.program(&path, &format!("bin/{name}"))?;
            }
        }
        // The programs have brought the C library along: the other libraries lie beside it.
        let beside = root.entries.keys().find_map(|p| p.strip_suffix("libc.so.6").map(str::to_owned));
        let beside = beside.context("no program of the host is linked against glibc")?;
        for name in BASE_LIBRARIES {
            let host = format!("/{beside}{name}");
            if Path::new(&host).exists() {
                root.program(Path::new(&host), &format!("{beside}{name}"))?;
            }
        }
        Ok(root)
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str, mode: u32) -> &mut Self {
        self.put(path, Entry::Directory { mode })
    }

    /// Adds a text file, readable by all.
    pub fn text(&mut self, path: &str, content: &str) -> &mut Self {
        self.put(path, Entry::File { mode: 0o644, content: content.as_bytes().to_vec() })
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.put(path, Entry::Symlink { target: target.to_owned() })
    }

    /// Adds a copy of a host's file, with its permissions.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(&mut self, host: &Path, path: &str) -> Result<&mut Self> {
        let content = std::fs::read(host).with_context(|| format!("reading {}", host.display()))?;
        let mode = std::fs::metadata(host)?.permissions().mode() & 0o7777;
        Ok(self.put(path, Entry::File { mode, content }))
    }

    /// Adds a program or library together with every library it is linked against, at the places where
    /// the dynamic linker finds them on the host.
    ///
    /// # Errors
    /// When a file cannot be read or a library is missing on the host.
    pub fn program(&mut self, host: &Path, path: &str) -> Result<&mut Self> {
        for library in linked_libraries(host)? {
            let inside = library.trim_start_matches('/').to_owned();
            if !self.entries.contains_key(&inside) {
                self.file(Path::new(&library), &inside)?;
            }
        }
        self.file(host, path)
    }

    fn put(&mut self, path: &str, entry: Entry) -> &mut Self {
        let path = path.trim_start_matches('/');
        // Parents first: an archive that names a file before its directory is unpacked with odd modes.
        for (at, _) in path.match_indices('/') {
            if let Some(parent) = path.get(..at) {
                self.entries.entry(parent.to_owned()).or_insert(Entry::Directory { mode: 0o755 });
            }
        }
        self.entries.insert(path.to_owned(), entry);
        self
    }
}

/// Where a program lies on the host.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].iter().map(|d| Path::new(d).join(name)).find(|p| p.is_file())
}

/// Absolute paths of what `ldd` says `program` loads; empty for a static one.
fn linked_libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output().context("running ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if text.contains("not a dynamic") || said.contains("not a dynamic") || text.contains("statically") {
            return Ok(Vec::new());
        }
        bail!("ldd {}: {}", program.display(), said.trim());
    }
    let mut libraries = Vec::new();
    for line in text.lines() {
        // "libc.so.6 => /lib/…/libc.so.6 (0x…)" or "/lib64/ld-linux-x86-64.so.2 (0x…)".
        if line.contains("not found") {
            bail!("{} needs a library that the host lacks: {}", program.display(), line.trim());
        }
        libraries.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned));
    }
    Ok(libraries)
}
