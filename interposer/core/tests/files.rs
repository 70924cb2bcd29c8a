//! What the two libraries are as files: what they need, export and run, since they get into every process.

// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use support::Node;

fn output(program: &str, arguments: &[&str], file: &PathBuf) -> String {
    let output = Command::new(program).args(arguments).arg(file).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn preload() -> PathBuf {
    support::libraries().join("libvnpu.so")
}

fn core() -> PathBuf {
    support::libraries().join("libvnpu_core.so")
}

fn exported(file: &PathBuf) -> BTreeSet<String> {
    output("nm", &["-D", "--defined-only"], file)
        .lines()
        .map(|line| line.split_whitespace().last().unwrap().to_owned())
        .collect()
}

/// Every hooked function: a new one is added here too, so that none is exported by accident.
const EXPORTS: [&str; 70] = [
    "aclmdlRIExecuteAsyncImpl",
    "aclmdlRIExecuteImpl",
    "aclrtDestroyStreamForceImpl",
    "aclrtDestroyStreamImpl",
    "aclrtFreeImpl",
    "aclrtFreePhysicalImpl",
    "aclrtFreeWithDevSyncImpl",
    "aclrtGetMemInfoImpl",
    "aclrtLaunchKernelImpl",
    "aclrtLaunchKernelV2Impl",
    "aclrtLaunchKernelWithArgsArrayImpl",
    "aclrtLaunchKernelWithConfigImpl",
    "aclrtLaunchKernelWithHostArgsImpl",
    "aclrtMallocAlign32Impl",
    "aclrtMallocCachedImpl",
    "aclrtMallocForTaskSchedulerImpl",
    "aclrtMallocImpl",
    "aclrtMallocPhysicalImpl",
    "aclrtMallocWithCfgImpl",
    "aclrtMemAllocManagedImpl",
    "aclrtMemFreeManagedImpl",
    "aclrtMemPoolFreeAsyncImpl",
    "aclrtMemPoolMallocAsyncImpl",
    "aclrtResetDeviceForceImpl",
    "aclrtResetDeviceImpl",
    "aclrtSetDeviceImpl",
    "dlsym",
    "rtAicpuKernelLaunchExWithArgs",
    "rtAicpuKernelLaunchWithFlag",
    "rtDeviceReset",
    "rtDeviceResetForce",
    "rtDvppFree",
    "rtDvppMalloc",
    "rtDvppMallocWithFlag",
    "rtFree",
    "rtFreePhysical",
    "rtFreeWithDevSync",
    "rtKernelLaunch",
    "rtKernelLaunchWithFlag",
    "rtKernelLaunchWithFlagV2",
    "rtKernelLaunchWithHandleV2",
    "rtLaunchKernelByFuncHandleV3",
    "rtMalloc",
    "rtMallocCached",
    "rtMallocPhysical",
    "rtMemAlloc",
    "rtMemAllocManaged",
    "rtMemFreeManaged",
    "rtMemGetInfo",
    "rtMemGetInfoEx",
    "rtMemPoolFreeAsync",
    "rtMemPoolMallocAsync",
    "rtModelExecute",
    "rtModelExecuteSync",
    "rtSetDevice",
    "rtStreamDestroy",
    "rtStreamDestroyForce",
    "rtsDeviceReset",
    "rtsFree",
    "rtsFreePhysical",
    "rtsLaunchKernelWithConfig",
    "rtsLaunchKernelWithDevArgs",
    "rtsLaunchKernelWithHostArgs",
    "rtsMalloc",
    "rtsMallocPhysical",
    "rtsMemGetInfo",
    "rtsModelExecute",
    "rtsModelExecuteAsync",
    "rtsSetDevice",
    "rtsStreamDestroy",
];

#[test]
fn the_preload_exports_the_hooked_functions_and_nothing_else() {
    assert_eq!(exported(&preload()), EXPORTS.iter().map(|s| (*s).to_owned()).collect());
    assert_eq!(exported(&core()), BTreeSet::from(["vnpu_core_entry".to_owned()]));
}

#[test]
fn the_preload_needs_no_library_and_has_no_constructor() {
    let dynamic = output("readelf", &["-dW"], &preload());
    for word in ["NEEDED", "INIT", "FINI", "VERNEED", "TEXTREL"] {
        assert!(!dynamic.contains(word), "{word} in\n{dynamic}");
    }
    let sections = output("readelf", &["-SW"], &preload());
    assert!(!sections.contains("init_array") && !sections.contains("ctors"), "{sections}");
}

#[test]
fn the_preload_refers_to_the_loader_weakly_and_to_few_functions_of_libc() {
    let undefined: BTreeSet<String> = output("nm", &["-D", "--undefined-only"], &preload())
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let allowed = [
        "U __errno_location",
        "U abort",
        "U access",
        "U dl_iterate_phdr",
        "U write",
        "w dlopen",
        "w dlvsym",
        "w secure_getenv",
    ];
    for symbol in &undefined {
        assert!(allowed.contains(&symbol.as_str()), "unexpected: {symbol}");
    }
    assert!(undefined.contains("w dlopen") && undefined.contains("w dlvsym"));
}

#[test]
fn the_core_needs_nothing_but_the_c_library() {
    let dynamic = output("readelf", &["-dW"], &core());
    let needed: Vec<&str> = dynamic
        .lines()
        .filter(|l| l.contains("(NEEDED)"))
        .filter_map(|l| l.split_once('[')?.1.strip_suffix(']'))
        .collect();
    let allowed = [
        "libc.so.6",
        "libgcc_s.so.1",
        "libpthread.so.0",
        "libdl.so.2",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    ];
    for library in needed {
        assert!(allowed.contains(&library), "unexpected: {library}");
    }
}

#[test]
fn programs_that_never_touch_the_runtime_run_unchanged() {
    let node = Node::with_quota(1);
    for (program, arguments) in [
        ("/bin/ls", vec!["-la", "/usr"]),
        ("/bin/sh", vec!["-c", "echo $((1+1)) >&2; exit 7"]),
        ("/usr/bin/env", vec!["true"]),
        ("/usr/bin/python3", vec!["-c", "import ctypes, ssl, json; print(ctypes.CDLL(None).getpid() > 0)"]),
    ] {
        if !std::path::Path::new(program).exists() {
            println!("{program} is not here: not run");
            continue;
        }
        let plain = Command::new(program).args(&arguments).stdin(Stdio::null()).output().unwrap();
        let under = node.command(program).args(&arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!(plain.status, under.status, "{program}");
        assert_eq!(
            String::from_utf8_lossy(&plain.stdout),
            String::from_utf8_lossy(&under.stdout),
            "{program}"
        );
        assert_eq!(
            String::from_utf8_lossy(&plain.stderr),
            String::from_utf8_lossy(&under.stderr),
            "{program}"
        );
    }
    assert_eq!(node.agent.usage(&support::uid(1)).unwrap().live_slots, 0);
}

/// A program that uses `dlsym` in every way, against itself without the interposer.
#[test]
fn dlsym_answers_as_without_us_also_for_next_default_and_failures() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("look.c");
    std::fs::write(
        &source,
        r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
int main(void) {
    void *libm = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
    double (*cosine)(double) = (double (*)(double))dlsym(libm, "cos");
    printf("%.3f\n", cosine(0));
    printf("%d\n", dlsym(RTLD_DEFAULT, "printf") == (void *)printf);
    printf("%d\n", dlsym(RTLD_NEXT, "puts") != NULL);
    printf("%d\n", dlsym(RTLD_DEFAULT, "no_such_function") == NULL);
    const char *error = dlerror();
    printf("%s\n", error != NULL && strstr(error, "no_such_function") != NULL ? "error told" : "no error");
    printf("%d\n", dlsym(libm, "rtMalloc") == NULL);
    error = dlerror();
    printf("%s\n", error != NULL && strstr(error, "rtMalloc") != NULL ? "error told" : "no error");
    return 0;
}
"#,
    )
    .unwrap();
    let program = dir.path().join("look");
    let built = Command::new("cc").arg("-o").arg(&program).arg(&source).arg("-ldl").status().unwrap();
    assert!(built.success());
    let node = Node::with_quota(1);
    let under = node.command(&program).output().unwrap();
    let expected = "1.000\n1\n1\n1\nerror told\n1\nerror told\n";
    assert_eq!(String::from_utf8_lossy(&under.stdout), expected);
    assert_eq!(Command::new(&program).output().unwrap().stdout, under.stdout);
}

/// The C library as a program cannot relocate references to its own indirect functions (`strlen` and its kin).
#[test]
fn the_c_library_itself_runs_as_a_program() {
    let listed = Command::new("ldd").arg("/bin/sh").output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let library = listed.lines().find(|l| l.contains("libc.so.6")).unwrap();
    let library = library.split_whitespace().find(|word| word.starts_with('/')).unwrap();
    let node = Node::with_quota(1);
    let plain = Command::new(library).output().unwrap();
    let under = node.command(library).output().unwrap();
    assert!(under.status.success(), "{}", String::from_utf8_lossy(&under.stderr));
    assert_eq!((plain.stdout, plain.stderr), (under.stdout, under.stderr));
}

/// The loader of musl ignores `/etc/ld.so.preload` but honours `LD_PRELOAD`.
#[test]
fn a_musl_program_runs_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("m.c");
    std::fs::write(
        &source,
        "#include <dlfcn.h>\n#include <stdio.h>\nint main(void){printf(\"%d\\n\", dlsym(RTLD_DEFAULT, \"puts\") != NULL);return 0;}\n",
    )
    .unwrap();
    let program = dir.path().join("m");
    let built = Command::new("musl-gcc").arg("-o").arg(&program).arg(&source).status();
    if !built.is_ok_and(|s| s.success()) {
        println!("musl-gcc is not here: not run");
        return;
    }
    let node = Node::with_quota(1);
    let plain = Command::new(&program).output().unwrap();
    let under = node.command(&program).env_remove("LD_LIBRARY_PATH").output().unwrap();
    assert!(under.status.success(), "{}", String::from_utf8_lossy(&under.stderr));
    assert_eq!((plain.stdout, plain.stderr), (under.stdout, under.stderr));
}

/// Images are older than the machine that builds: a symbol version that is newer than theirs would keep the
/// back end out, and then memory is refused.
#[test]
fn the_core_asks_for_nothing_newer_than_glibc_2_31() {
    let symbols = output("nm", &["-D", "--undefined-only"], &core());
    let newer: Vec<&str> = symbols
        .lines()
        .filter(|line| {
            let version = line.rsplit_once("@GLIBC_").map(|(_, version)| version);
            let mut numbers =
                version.into_iter().flat_map(|v| v.split('.')).map(|n| n.parse::<u32>().unwrap());
            (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) > (2, 31)
        })
        .collect();
    assert!(newer.is_empty(), "{newer:?}");
}
