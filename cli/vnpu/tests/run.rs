//! `vnpu run` as users call it, on a simulated machine with two chips of 64 GiB.

// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod machine;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use machine::{Machine, bin, support, text};

#[test]
fn the_demo_fills_its_quota_to_the_byte_by_every_way_and_leaves_nothing() {
    let machine = Machine::start();
    let chip = machine.chips().remove(1);
    for (kind, granted) in
        [("align32", 4_294_967_296_u64), ("rt", 4_294_967_296), ("physical", 4_294_967_296)]
    {
        let output = machine
            .vnpu(&["--memory", "4Gi", "--device", &chip])
            .arg(bin("acl-demo"))
            .args(["fill", "--device", "1", "--kind", kind, "--chunk", "1Gi"])
            .output()
            .unwrap();
        let text = text(&output);
        assert!(output.status.success(), "{kind}: {text}");
        for round in ["first", "again"] {
            let line = format!(
                "fill round={round} granted={granted} allocations=4 code=207001 total=4294967296 free=0"
            );
            assert!(text.contains(&line), "{kind}: {text}");
        }
    }
    assert_eq!(machine.left_over(), 0);
}

/// The chip of a machine that has one GPU alone needs no name.
#[test]
fn a_gpu_is_found_and_held_to_by_programs_of_cuda() {
    let machine = Machine::of("H100", "81920");
    for via in ["dlsym", "link", "proc"] {
        let demo = if via == "link" { "cuda-demo-linked" } else { "cuda-demo" };
        let output = machine
            .vnpu(&["--memory", "4Gi"])
            .arg(bin(demo))
            .args(["fill", "--via", via, "--chunk", "1Gi"])
            .output()
            .unwrap();
        let text = text(&output);
        assert!(output.status.success(), "{via}: {text}");
        let line = "granted=4294967296 allocations=4 code=2 total=4294967296 free=0";
        assert_eq!(text.matches(line).count(), 2, "{via}: {text}");
    }
    let more = machine.vnpu(&["--memory", "81Gi"]).arg("true").output().unwrap();
    assert!(text(&more).contains("--memory 81Gi is more than chip GPU-"), "{}", text(&more));
    let absent =
        machine.vnpu(&["--memory", "4Gi", "--nvml-library", "/nonexistent"]).arg("true").output().unwrap();
    assert!(text(&absent).contains("no NVML library found"), "{}", text(&absent));
    assert_eq!(machine.left_over(), 0);
}

#[test]
fn a_program_linked_against_the_runtime_and_one_that_forks_are_held_too() {
    let machine = Machine::start();
    let chip = machine.chips().remove(0);
    let run = |program: &str, arguments: &[&str]| {
        text(
            &machine
                .vnpu(&["--memory", "2Gi", "--device", &chip])
                .arg(bin(program))
                .args(arguments)
                .output()
                .unwrap(),
        )
    };
    let linked = run("acl-demo-linked", &["fill", "--via", "link", "--kind", "align32", "--chunk", "512Mi"]);
    assert!(
        linked.contains("granted=2147483648 allocations=4 code=207001 total=2147483648 free=0"),
        "{linked}"
    );
    let forked = run("acl-demo", &["fork", "--kind", "align32", "--bytes", "1Gi"]);
    assert!(!forked.contains("failed"), "{forked}");
    let forked = run("acl-demo", &["fork", "--kind", "align32", "--bytes", "1536Mi"]);
    assert!(forked.contains("code=207001"), "parent and child together are over: {forked}");
}

#[test]
fn exit_codes_and_signals_pass_through() {
    let machine = Machine::start();
    let chip = machine.chips().remove(0);
    let run = |program: &[&str]| {
        let mut command = machine.vnpu(&["--memory", "1Gi", "--device", &chip]);
        command.args(program).stderr(Stdio::null()).status().unwrap().code()
    };
    assert_eq!(run(&["sh", "-c", "exit 42"]), Some(42));
    assert_eq!(run(&["sh", "-c", "kill -SEGV $$"]), Some(128 + libc::SIGSEGV));
    assert_eq!(run(&["/nonexistent/program"]), Some(127));
    assert_eq!(run(&["/etc/passwd"]), Some(126));

    let mut child = machine
        .vnpu(&["--memory", "1Gi", "--device", &chip])
        .args(["sh", "-c", "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.05; done"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    // SAFETY: signals a child of this test.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("got it\n", Some(9)));
    assert_eq!(machine.left_over(), 0);
}

#[test]
fn a_parent_that_ignores_its_children_does_not_make_it_wait_for_ever() {
    let machine = Machine::start();
    let chip = machine.chips().remove(0);
    let mut command = machine.vnpu(&["--memory", "1Gi", "--device", &chip]);
    command.args(["grep", "SigIgn", "/proc/self/status"]);
    // SAFETY: async-signal-safe, and about the child only.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            Ok(())
        });
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let ignored = text(&output);
    let ignored = u64::from_str_radix(ignored.trim().rsplit_once('\t').unwrap().1, 16).unwrap();
    assert_ne!(ignored & 1 << (libc::SIGCHLD - 1), 0, "the program gets what the parent wanted");
}

#[test]
fn a_relative_run_directory_holds_a_program_that_goes_elsewhere() {
    let machine = Machine::start();
    let chip = machine.chips().remove(0);
    let output = machine
        .vnpu_in("runs", &["--memory", "1Gi", "--device", &chip])
        .current_dir(machine.dir.path())
        .args(["sh", "-c", "cd / && exec \"$0\" fill --kind align32 --chunk 512Mi"])
        .arg(bin("acl-demo"))
        .output()
        .unwrap();
    assert!(text(&output).contains("granted=1073741824"), "{}", text(&output));
    assert_eq!(machine.left_over(), 0);
}

#[test]
fn without_an_option_its_files_are_in_the_session_of_the_user() {
    let machine = Machine::start();
    let chip = machine.chips().remove(0);
    let session = machine.dir.path().join("session");
    let run = || {
        let mut command = machine.vnpu_anywhere(&["--memory", "1Gi", "--device", &chip]);
        command.args(["sh", "-c", "echo $VNPU_REGION_DIR"]).env("XDG_RUNTIME_DIR", &session);
        command.output().unwrap()
    };
    let refused = run();
    assert_eq!(refused.status.code(), Some(125));
    let words = format!("XDG_RUNTIME_DIR is {}, which cannot be used", session.display());
    assert!(text(&refused).contains(&words), "{}", text(&refused));
    fs::create_dir(&session).unwrap();
    let used = run();
    assert!(used.status.success(), "{}", text(&used));
    let start = session.join("vnpu/run-");
    assert!(text(&used).starts_with(start.to_str().unwrap()), "{}", text(&used));
    assert_eq!(fs::read_dir(session.join("vnpu")).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_killed_run_is_swept_by_the_next_once_its_program_is_gone() {
    let machine = Machine::start();
    let chip = machine.chips().remove(0);
    let mut run = machine
        .vnpu(&["--memory", "1Gi", "--device", &chip])
        .args(["sh", "-c", "echo $$; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let program: i32 = line.trim().parse().unwrap();
    run.kill().unwrap();
    assert_eq!(run.wait().unwrap().signal(), Some(libc::SIGKILL));
    let next = || {
        let mut next = machine.vnpu(&["--memory", "1Gi", "--device", &chip]);
        next.arg("true");
        assert!(next.status().unwrap().success());
    };
    next();
    assert_eq!(machine.left_over(), 1, "its program lives");
    // SAFETY: ends a process that this test started.
    unsafe { libc::kill(program, libc::SIGKILL) };
    while Path::new(&format!("/proc/{program}/fd/0")).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    next();
    assert_eq!(machine.left_over(), 0);
}

#[test]
fn it_refuses_beside_the_node_plugin() {
    let machine = Machine::start();
    let chip = machine.chips().remove(0);
    let state = machine.dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let plugin = File::create(state.join("lock")).unwrap();
    plugin.lock_shared().unwrap();
    let run = || machine.vnpu(&["--memory", "1Gi", "--device", &chip]).arg("true").output().unwrap();
    let refused = run();
    assert_eq!(refused.status.code(), Some(125));
    assert!(text(&refused).contains("the node plugin runs on this machine"), "{}", text(&refused));
    drop(plugin);
    assert!(run().status.success());
}

#[test]
fn wrong_wishes_are_answered_with_what_to_do() {
    let machine = Machine::start();
    let chip = machine.chips().remove(0);
    let ask = |options: &[&str]| {
        let output = machine.vnpu(options).arg("true").output().unwrap();
        assert!(!output.status.success(), "{options:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(ask(&["--memory", "65Gi", "--device", &chip]).contains("is more than chip"));
    assert!(ask(&["--memory", "0", "--device", &chip]).contains("more than 0"));
    assert!(ask(&["--memory", "4Gx", "--device", &chip]).contains("--memory"));
    assert!(ask(&["--memory", "4Gi", "--device", "nope"]).contains("there is no chip nope"));
    assert!(ask(&["--device", &chip]).contains("--memory, --cores or both"));
    for cores in ["0", "101"] {
        assert!(ask(&["--cores", cores, "--device", &chip]).contains("say 1 to 100 percent"));
    }
    for cores in ["--cores=-1", "--cores=1.5", "--cores=half", "--cores=30%"] {
        let answer = ask(&[cores, "--device", &chip]);
        assert!(answer.contains("--cores"), "{cores}: {answer}");
    }
    assert!(ask(&["--memory", "4Gi", "--mode", "hard"]).contains("--mode hard needs --cores"));
    assert!(ask(&["--cores", "5", "--mode", "best-effort"]).contains("leave out --cores"));
    assert!(ask(&["--cores", "5", "--mode", "soft"]).contains("possible values: hard, elastic, best-effort"));
    assert!(ask(&["--cores", "5", "--priority", "11"]).contains("0..=10"));
    assert!(ask(&["--cores", "5", "--name", ""]).contains("1 to 63 characters"));
    let open = machine.dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let refused =
        machine.vnpu_in(&open, &["--memory", "1Gi", "--device", &chip]).arg("true").output().unwrap();
    assert!(text(&refused).contains("can be written by others"), "{}", text(&refused));
    let none = Command::new(env!("CARGO_BIN_EXE_vnpu"))
        .args(["run", "--memory", "4Gi", "--driver-root", "/nonexistent", "--state-dir", "/nonexistent"])
        .arg("--interposer-dir")
        .arg(support::libraries())
        .args(["--", "true"])
        .output()
        .unwrap();
    for library in ["no DCMI library found", "no NVML library found"] {
        assert!(text(&none).contains(library), "{}", text(&none));
    }
    let none = Command::new(env!("CARGO_BIN_EXE_vnpu"))
        .args(["run", "--memory", "4Gi", "--interposer-dir", "/nonexistent", "--state-dir", "/nonexistent"])
        .args(["--", "true"])
        .output()
        .unwrap();
    assert!(text(&none).contains("/nonexistent/libvnpu.so is not there"), "{}", text(&none));
}

/// Whoever throws our library out is not held, but found: by the lock that all of a run inherit.
#[test]
fn a_process_that_goes_around_the_quota_is_told() {
    let machine = Machine::start();
    let chip = machine.chips().remove(1);
    let mut child = machine
        .vnpu(&["--memory", "2Gi", "--device", &chip])
        // A failure ends, too.
        .args(["timeout", "60", "env", "-u", "LD_PRELOAD"])
        .arg(bin("acl-demo"))
        .args(["hold", "--device", "1", "--bytes", "3Gi"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let told = lines.find_map(|line| line.ok().filter(|line| line.contains("outside its quota"))).unwrap();
    assert!(told.contains("has 3221225472 bytes of the chip"), "{told}");
    let pid: i32 =
        told.split_whitespace().skip_while(|word| *word != "process").nth(1).unwrap().parse().unwrap();
    // SAFETY: a signal to the program that the test started.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    assert!(child.wait().unwrap().code().is_some());
    assert_eq!(machine.left_over(), 0);
}
