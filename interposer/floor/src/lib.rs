//! For build scripts: makes what is linked on a new machine load on old C libraries too. No second toolchain and
//! no download: the linker only gets other answers to the few questions whose answer changed.
//!
//! glibc 2.34 moved libpthread and libdl into libc and gave their functions a new version; 2.33 made real functions
//! of `stat` and its kin. A library that is linked there asks for those versions and does not load on what is older,
//! though it needs nothing new. So the linker finds libpthread and libdl as they were (stubs with the old versions,
//! which every later glibc still provides), and the `stat` family is linked in as system calls.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Functions that lived in libpthread before 2.34, as far as Rust's standard library and unwinder use them.
const PTHREAD: &[&str] = &[
    "__pthread_key_create",
    "pthread_attr_getguardsize",
    "pthread_attr_getstack",
    "pthread_attr_setguardsize",
    "pthread_attr_setstacksize",
    "pthread_create",
    "pthread_detach",
    "pthread_getattr_np",
    "pthread_getspecific",
    "pthread_join",
    "pthread_key_create",
    "pthread_key_delete",
    "pthread_once",
    "pthread_rwlock_rdlock",
    "pthread_rwlock_unlock",
    "pthread_rwlock_wrlock",
    "pthread_setspecific",
    "pthread_sigmask",
    "sem_destroy",
    "sem_init",
    "sem_post",
    "sem_wait",
];

/// The same, but younger than the first version of x86_64, and the version that brought them.
const PTHREAD_LATER: (&str, &[&str]) = ("GLIBC_2.12", &["pthread_getname_np", "pthread_setname_np"]);

/// Functions that lived in libdl before 2.34.
const DL: &[&str] = &["dladdr", "dlclose", "dlerror", "dlopen", "dlsym", "dlvsym"];

/// What a package links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// A `cdylib`.
    Library,
    /// Programs.
    Programs,
}

/// Called by a build script: lowers the floor of what its package links. Where that is not possible the build goes
/// on and cargo shows why: what comes out then serves images as new as this machine.
pub fn lower(links: Links) {
    println!("cargo::rerun-if-changed=build.rs");
    if let Err(problem) = try_lower(links) {
        println!("cargo::warning=linked for this machine's C library and newer ones only: {problem}");
    }
}

fn try_lower(links: Links) -> Result<(), String> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    if variable("CARGO_CFG_TARGET_OS")? != "linux" || variable("CARGO_CFG_TARGET_ENV")? != "gnu" {
        return Ok(());
    }
    let architecture = variable("CARGO_CFG_TARGET_ARCH")?;
    // The first version that glibc had on the architecture.
    let oldest = match architecture.as_str() {
        "x86_64" => "GLIBC_2.2.5",
        "aarch64" => "GLIBC_2.17",
        other => return Err(format!("the versions of {other} are not known here")),
    };
    let compiler = if variable("TARGET")? == variable("HOST")? {
        "cc".to_owned()
    } else {
        format!("{architecture}-linux-gnu-gcc")
    };
    let out = PathBuf::from(variable("OUT_DIR")?).join("floor");
    fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    let (version, functions) = PTHREAD_LATER;
    // aarch64 came after them: there everything has the first version.
    let later = [(if architecture == "x86_64" { version } else { oldest }, functions)];
    let threads: &[_] = &[&[(oldest, PTHREAD)][..], &later].concat();
    for (name, soname, versions) in
        [("libpthread.so", "libpthread.so.0", threads), ("libdl.so", "libdl.so.2", &[(oldest, DL)][..])]
    {
        let functions = versions.iter().flat_map(|(_, functions)| functions.iter());
        let source: String = functions.map(|f| format!("void {f}(void) {{}}\n")).collect();
        let map = version_script(versions);
        write(&out.join("stub.c"), &source)?;
        write(&out.join("stub.map"), &map)?;
        let arguments = ["-shared", "-nostdlib", "-fPIC", "-fno-builtin", "-w", "stub.c"];
        let mut command = Command::new(&compiler);
        command.current_dir(&out).args(arguments).args(["-Wl,--version-script=stub.map", "-o", name]);
        run(command.arg(format!("-Wl,-soname,{soname}")))?;
    }
    write(&out.join("shim.c"), include_str!("shim.c"))?;
    let mut command = Command::new(&compiler);
    command.current_dir(&out).args(["-c", "-O2", "-fPIC", "-fvisibility=hidden", "-ffunction-sections"]);
    run(command.args(["-fno-stack-protector", "-U_FORTIFY_SOURCE", "shim.c", "-o", "shim.o"]))?;
    let shim = out.join("shim.o");
    // Directories given with -L come before the system's, and rustc passes -lpthread and -ldl itself.
    println!("cargo::rustc-link-search=native={}", out.display());
    match links {
        Links::Library => {
            println!("cargo::rustc-cdylib-link-arg={}", shim.display());
            // Of 2.18, and asked for weakly: under another name nobody has it, and the standard library does without.
            println!("cargo::rustc-cdylib-link-arg=-Wl,--wrap=__cxa_thread_atexit_impl");
        }
        Links::Programs => {
            println!("cargo::rustc-link-arg-bins={}", shim.display());
            println!("cargo::rustc-link-arg-bins=-Wl,--wrap=__libc_start_main");
        }
    }
    Ok(())
}

/// The linker's script that gives each function its version.
fn version_script(versions: &[(&str, &[&str])]) -> String {
    let mut nodes: Vec<(&str, Vec<&str>)> = Vec::new();
    for (version, functions) in versions {
        match nodes.iter_mut().find(|(known, _)| known == version) {
            Some((_, known)) => known.extend(*functions),
            None => nodes.push((version, functions.to_vec())),
        }
    }
    let lines = nodes.iter().enumerate().map(|(i, (version, functions))| {
        let others = if i == 0 { " local: *;" } else { "" };
        format!("{version} {{ global: {};{others} }};\n", functions.join("; "))
    });
    lines.collect()
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).replace('\n', " ")))
}
