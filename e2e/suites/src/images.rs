//! Images beyond the demo's: one with more tools, one with an old C library (glibc 2.31), one with musl.
//! The foreign ones are made of the distribution's own packages, fetched once by apt into the
//! cache beside the cluster's binaries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use vnpu_e2e_binaries::cache_root;
use vnpu_harness::{ImageConfig, RootFs};

use crate::context::Context;

/// The base image with both `acl-demo` programs, both `cuda-demo` programs and `umount`.
pub(crate) const TOOLS: &str = "vnpu.dev/tools:latest";
/// A shell and the usual programs with glibc 2.31.
pub(crate) const OLD: &str = "vnpu.dev/glibc-2.31:latest";
/// One program with musl, and its loader.
pub(crate) const MUSL: &str = vnpu_e2e_stack::MUSL_IMAGE;

/// Version of the C library in [`OLD`].
const OLD_VERSION: &str = "2.31";

/// Where the driver's libraries are mounted, as CANN's images have it.
const DRIVER: &str =
    "LD_LIBRARY_PATH=/usr/local/Ascend/driver/lib64/driver:/usr/local/Ascend/driver/lib64/common";

/// Imports [`TOOLS`] unless it is there.
pub(crate) fn tools(context: &Context) -> Result<()> {
    let bin = &context.artefacts.standins.bin;
    let mut root = RootFs::base()?;
    root.program(&bin.join("acl-demo"), "bin/acl-demo")?;
    // What it links is the vendor's: it comes with the driver's mounts.
    root.file(&bin.join("acl-demo-linked"), "bin/acl-demo-linked")?;
    root.file(&bin.join("cuda-demo"), "bin/cuda-demo")?;
    root.file(&bin.join("cuda-demo-linked"), "bin/cuda-demo-linked")?;
    let umount = ["/usr/bin/umount", "/bin/umount"].map(Path::new);
    let umount = umount.iter().find(|p| p.is_file()).context("the host has no umount")?;
    root.program(umount, "bin/umount")?;
    import(context, TOOLS, &root)
}

/// Imports [`OLD`]; the case is not run where its packages cannot be had.
pub(crate) fn old(context: &Context) -> Result<Option<()>> {
    let packages =
        ["libc6", "dash", "coreutils", "grep", "libpcre3", "libselinux1", "libpcre2-8-0", "libgcc-s1"];
    let Some(unpacked) = unpacked(context, &packages)? else { return Ok(None) };
    let mut root = RootFs::new();
    for directory in ["proc", "sys", "dev", "etc", "run", "usr", "var"] {
        root.directory(directory, 0o755);
    }
    root.directory("tmp", 0o1777);
    for part in ["bin", "lib", "lib64", "usr/bin", "usr/lib"] {
        tree(&mut root, &unpacked, Path::new(part))?;
    }
    root.symlink("bin/sh", "dash");
    root.file(&context.artefacts.standins.bin.join("acl-demo"), "bin/acl-demo")?;
    import(context, OLD, &root).map(Some)
}

/// Imports [`MUSL`]; the case is not run where its packages cannot be had.
pub(crate) fn musl(context: &Context) -> Result<Option<()>> {
    let Some(unpacked) = unpacked(context, &["musl", "musl-dev"])? else { return Ok(None) };
    let machine = std::env::consts::ARCH;
    let development = unpacked.join(format!("usr/lib/{machine}-linux-musl"));
    let library = unpacked.join(format!("lib/{machine}-linux-musl/libc.so"));
    let loader = format!("lib/ld-musl-{machine}.so.1");
    let directory = context.cluster.directory();
    let (source, program) = (directory.join("musl.c"), directory.join("musl-program"));
    fs::write(&source, MUSL_PROGRAM)?;
    // Without musl-gcc, which would be one more thing to install: start files, program, musl as the C library.
    let output = Command::new("cc")
        .args(["-O1", "-fPIE", "-pie", "-nostdlib", "-nostartfiles", "-fno-stack-protector", "-o"])
        .arg(&program)
        .arg(development.join("Scrt1.o"))
        .arg(development.join("crti.o"))
        .arg(&source)
        // By name, as programs are linked against musl: it takes `libc.so` for itself.
        .arg(format!("-L{}", unpacked.join(format!("lib/{machine}-linux-musl")).display()))
        .arg("-l:libc.so")
        .arg(development.join("crtn.o"))
        .arg(format!("-Wl,-dynamic-linker,/{loader}"))
        .output()
        .context("running cc")?;
    ensure!(output.status.success(), "the musl program: {}", String::from_utf8_lossy(&output.stderr));
    let mut root = RootFs::new();
    for directory in ["proc", "sys", "dev", "etc", "run", "tmp"] {
        root.directory(directory, 0o755);
    }
    root.file(&library, &loader)?;
    root.file(&program, "bin/probe")?;
    import(context, MUSL, &root).map(Some)
}

/// Says what it sees of itself: which loader, whether our library is in it, and whether `dlsym` works; with the
/// argument `tick` it lives on and counts the seconds aloud. It declares what it calls, so that no headers are needed.
const MUSL_PROGRAM: &str = r#"
int puts(const char *); int printf(const char *, ...); void *fopen(const char *, const char *);
char *fgets(char *, int, void *); char *strstr(const char *, const char *); int strcmp(const char *, const char *);
void *dlsym(void *, const char *); unsigned sleep(unsigned); char *getenv(const char *);
int fflush(void *);
int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "tick")) for (int n = 0;; n++) { printf("tick %d\n", n); fflush(0); sleep(1); }
    char line[512]; int musl = 0, ours = 0;
    void *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps)) { musl |= !!strstr(line, "ld-musl"); ours |= !!strstr(line, "libvnpu"); }
    void *preload = fopen("/etc/ld.so.preload", "r");
    printf("probe musl=%d ours=%d dlsym=%d preload=%d variable=%d\n", musl, ours, dlsym(0, "puts") != 0,
           preload != 0 && fgets(line, sizeof line, preload) && strstr(line, "libvnpu.so"), getenv("LD_PRELOAD") != 0);
    return 0;
}
"#;

fn import(context: &Context, name: &str, root: &RootFs) -> Result<()> {
    let environment = vec!["PATH=/bin:/usr/bin".to_owned(), DRIVER.to_owned()];
    context.cluster.import_image(name, root, &ImageConfig { entrypoint: Vec::new(), environment })
}

/// Adds everything below `part` of `from`, but no documentation.
fn tree(root: &mut RootFs, from: &Path, part: &Path) -> Result<()> {
    let directory = from.join(part);
    if !directory.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(&directory)? {
        let entry = entry?;
        let inside = part.join(entry.file_name());
        let name = inside.to_str().context("a name that is not UTF-8")?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            // Character sets are most of the C library's package, and nobody here needs them.
            if !name.ends_with("gconv") {
                tree(root, from, &inside)?;
            }
        } else if kind.is_symlink() {
            root.symlink(name, &fs::read_link(entry.path())?.to_string_lossy());
        } else {
            root.file(&entry.path(), name)?;
        }
    }
    Ok(())
}

/// The packages of the release with the old C library, unpacked in the cache; where they cannot be had `None`,
/// and the case is noted as not run.
fn unpacked(context: &Context, packages: &[&str]) -> Result<Option<PathBuf>> {
    let ready = cache_root()?.join(format!("glibc-{OLD_VERSION}-{}", packages.join("-")));
    if ready.is_dir() {
        return Ok(Some(ready));
    }
    match fetch(&ready, packages) {
        Ok(()) => Ok(Some(ready)),
        Err(error) => {
            context.not_run(&format!("{} cannot be had: {error:#}", packages.join(", ")));
            Ok(None)
        }
    }
}

fn fetch(ready: &Path, packages: &[&str]) -> Result<()> {
    let system = fs::read_to_string("/etc/os-release").context("which system is this")?;
    let (release, keyring) = if system.lines().any(|l| l == "ID=debian") {
        ("bullseye", "/usr/share/keyrings/debian-archive-keyring.gpg")
    } else if system.lines().any(|l| l == "ID=ubuntu") {
        ("focal", "/usr/share/keyrings/ubuntu-archive-keyring.gpg")
    } else {
        bail!("this is neither Debian nor Ubuntu");
    };
    let work = ready.with_extension(format!("partial-{}", std::process::id()));
    let outcome = fetch_into(&work, release, keyring, packages).and_then(|()| {
        // Another run may have been faster: what is there is as good.
        if ready.is_dir() { Ok(()) } else { Ok(fs::rename(work.join("root"), ready)?) }
    });
    drop(fs::remove_dir_all(&work));
    outcome
}

/// With an apt of its own: sources, lists and archives apart from the system's, its configuration of mirrors and
/// proxies kept, signatures checked.
fn fetch_into(work: &Path, release: &str, keyring: &str, packages: &[&str]) -> Result<()> {
    for directory in ["lists/partial", "cache/archives/partial", "debs", "root"] {
        fs::create_dir_all(work.join(directory))?;
    }
    let mirror = mirror()?;
    let source = format!("deb [signed-by={keyring}] {mirror} {release} main universe\n");
    let source = if release == "bullseye" { source.replace(" universe", "") } else { source };
    fs::write(work.join("sources.list"), source)?;
    fs::write(work.join("status"), "")?;
    let set = |name: &str, value: &str| format!("{name}={value}");
    let below = |name: &str, path: &str| set(name, &work.join(path).display().to_string());
    let options = [
        below("Dir::Etc::sourcelist", "sources.list"),
        set("Dir::Etc::sourceparts", "/dev/null"),
        set("Dir::Etc::preferences", "/dev/null"),
        set("Dir::Etc::preferencesparts", "/dev/null"),
        below("Dir::State::lists", "lists"),
        below("Dir::State::status", "status"),
        below("Dir::Cache", "cache"),
        set("APT::Sandbox::User", "root"),
        set("Acquire::Languages", "none"),
    ];
    let apt = |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new("apt-get");
        command.current_dir(work.join("debs")).arg("-qq").args(arguments);
        for option in &options {
            command.arg("-o").arg(option);
        }
        said(&mut command)
    };
    println!("        fetching {} of {release}", packages.join(", "));
    apt(&["update"])?;
    let mut download = vec!["download"];
    download.extend(packages);
    apt(&download)?;
    for package in fs::read_dir(work.join("debs"))? {
        said(Command::new("dpkg-deb").arg("-x").arg(package?.path()).arg(work.join("root")))?;
    }
    Ok(())
}

/// Where this machine gets its distribution's packages from.
fn mirror() -> Result<String> {
    let format = "$(REPO_URI) $(COMPONENT) $(CREATED_BY)";
    // The distribution's own, not its security updates' and not a vendor's.
    let known = || -> Result<Option<String>> {
        let output = Command::new("apt-get").args(["indextargets", "--format", format]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|l| l.ends_with(" main Packages") && !l.contains("security"));
        Ok(line.and_then(|l| l.split(' ').next()).map(str::to_owned))
    };
    if let Some(mirror) = known()? {
        return Ok(mirror);
    }
    // A machine that is new has no lists yet, and then apt tells nothing.
    said(Command::new("apt-get").args(["-qq", "update"]))?;
    known()?.context("apt knows no mirror of the distribution")
}

fn said(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
