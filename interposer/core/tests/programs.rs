//! Programs that have nothing to do with an accelerator, under the interposer: nothing changes for them.

// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::process::{Command, Stdio};

use support::Node;

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
