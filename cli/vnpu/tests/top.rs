//! `vnpu top` beside runs on a simulated machine, and on the node plugin's directory.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod machine;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use machine::support::{GIB, Node, share, uid};
use machine::{Machine, bin, text};
use serde_json::Value;

/// A busy run on the first chip, which has said that it is.
struct Busy {
    run: Child,
    // It goes on saying so.
    _output: BufReader<ChildStdout>,
}

impl Busy {
    fn start(machine: &Machine, options: &[&str]) -> Self {
        let chip = machine.chips().remove(0);
        let mut command = machine.vnpu(&[options, &["--device", &chip]].concat());
        command.arg(bin("acl-demo")).args(["busy", "--micros", "1000", "--seconds", "30"]);
        let mut run = command.stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        let mut output = BufReader::new(run.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.contains("share="), "{line}");
        Self { run, _output: output }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // The program with it.
        let group = format!("-{}", self.run.id());
        let _ = Command::new("kill").args(["-9", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.run.wait();
    }
}

/// `vnpu top` that asks no plugin, and looks at `runs` and `node`.
fn top(runs: &Path, node: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vnpu"));
    command.arg("top").args(options).arg("--run-dir").arg(runs).arg("--runtime-dir").arg(node);
    command.args(["--admin-address", ""]);
    command
}

fn json(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn two_busy_runs_are_shown_with_their_quotas_and_what_they_use() {
    let machine = Machine::start();
    let small = Busy::start(&machine, &["--cores", "30", "--name", "small"]);
    let _large = Busy::start(&machine, &["--cores", "60", "--mode", "elastic", "--priority", "7"]);
    let none = machine.dir.path().join("none");
    let shown = json(&mut top(&machine.runs(), &none, &["--once", "--json", "--interval", "2"]));
    let claims = shown["claims"].as_array().unwrap();
    assert_eq!(claims.len(), 2, "{shown:#}");
    let of = |name: &str| claims.iter().find(|c| c["name"] == name).unwrap();
    let (first, second) = (of("small"), of("acl-demo"));
    assert_eq!(
        (&first["cores"], &first["mode"], &first["kind"]),
        (&30.into(), &"hard".into(), &"run".into())
    );
    assert_eq!(
        (&second["cores"], &second["mode"], &second["priority"]),
        (&60.into(), &"elastic".into(), &7.into())
    );
    assert_eq!(first["pid"], small.run.id());
    assert_eq!(first["chip"], machine.chips()[0].as_str());
    assert_eq!(second["memory"], 39_320_u64 << 20);
    assert_eq!(shown["problems"].as_array().unwrap().len(), 0);
    for claim in [first, second] {
        let number = |key: &str| claim[key].as_f64().unwrap();
        assert!(number("launches") > 10.0 && number("processes") == 1.0, "{claim:#}");
        assert!((5.0..95.0).contains(&number("share")), "{claim:#}");
    }
    assert!(first["throttled"].as_f64().unwrap() > 10.0, "{first:#}");
    assert!(first["share"].as_f64().unwrap() < 34.0, "{first:#}");

    let table = text(&top(&machine.runs(), &none, &["--once", "--interval", "0.2"]).output().unwrap());
    let mut lines = table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    assert_eq!(lines.next().unwrap()[..3], ["NAME", "CHIP", "MEMORY"]);
    assert_eq!(lines.next().unwrap()[0], "acl-demo");
    assert!(!table.contains('\x1b'), "it is no terminal: {table:?}");
}

#[test]
fn claims_of_the_node_are_shown_by_their_uid_and_nothing_is_swept() {
    let node = Node::with_quota(4 * GIB);
    node.claim(2, vec![share(0, GIB), share(1, GIB)]);
    let orphan = node.dir.path().join("devices/ORPHAN");
    std::fs::write(&orphan, "").unwrap();
    std::fs::write(node.file(2, "usage"), "cut").unwrap();
    let none = node.dir.path().join("none");
    let shown = json(&mut top(&none, node.dir.path(), &["--once", "--json", "--interval", "0.1"]));
    let claims = shown["claims"].as_array().unwrap();
    assert_eq!(claims.len(), 1, "{shown:#}");
    assert_eq!((&claims[0]["name"], &claims[0]["kind"]), (&uid(1).as_str().into(), &"claim".into()));
    assert_eq!((&claims[0]["memory"], &claims[0]["used"]), (&(4 * GIB).into(), &0.into()));
    let problem = shown["problems"][0].as_str().unwrap();
    assert!(problem.contains("usage cannot be read: its size"), "{problem}");
    assert!(orphan.exists());
}

#[test]
fn an_empty_machine_is_said_to_be_so_and_wrong_options_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let run = |options: &[&str]| {
        let output = top(&dir.path().join("a"), &dir.path().join("b"), options).output().unwrap();
        (output.status.code(), text(&output))
    };
    let (code, words) = run(&["--once", "--interval", "0.1"]);
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    assert_eq!(words, format!("no runs or claims in {} and {}\n", a.display(), b.display()));
    assert_eq!(code, Some(0));
    assert!(!a.exists() && !b.exists(), "looking makes nothing");
    for (interval, words) in
        [("0", "0.1 to 3600"), ("-1", "0.1 to 3600"), ("soon", "no number"), ("nan", "0.1 to")]
    {
        let (code, said) = run(&["--once", &format!("--interval={interval}")]);
        assert!(code == Some(2) && said.contains(words), "{interval}: {said}");
    }
}

#[test]
fn it_ends_quietly_with_its_reader() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = top(&dir.path().join("a"), &dir.path().join("b"), &["--interval", "0.1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), ""));
}

/// Both ends of a terminal of so many columns: ours and the program's.
fn terminal(columns: u16) -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    let size = libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let nothing = std::ptr::null_mut();
    // SAFETY: two places for descriptors, no name, no settings, a valid size.
    let code =
        unsafe { libc::openpty(&raw mut ours, &raw mut theirs, nothing, std::ptr::null(), &raw const size) };
    assert_eq!(code, 0);
    // Else the program would keep our end open, and wait for somebody to read from it when this test has failed.
    // SAFETY: sets a flag of a descriptor that was opened above.
    assert_eq!(unsafe { libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC) }, 0);
    // SAFETY: opened above, and nobody else's.
    unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

#[test]
fn on_a_terminal_it_draws_again_in_place_and_within_its_width() {
    let node = Node::with_quota(4 * GIB);
    let (mut ours, theirs) = terminal(40);
    let mut command = top(&node.dir.path().join("none"), node.dir.path(), &["--interval", "0.1"]);
    let mut child = command.stdout(theirs).spawn().unwrap();
    // The descriptor of the command is ours to close: the reading would not end.
    drop(command);
    let mut drawn = String::new();
    while drawn.matches("\x1b[J").count() < 2 {
        let mut bytes = [0; 1024];
        let size = ours.read(&mut bytes).unwrap();
        drawn.push_str(std::str::from_utf8(&bytes[..size]).unwrap());
        assert!(drawn.len() < 5000, "{drawn:?}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(drawn.starts_with("\x1b[HNAME"), "{drawn:?}");
    let first = drawn.split("\x1b[J").next().unwrap();
    for line in first.trim_start_matches("\x1b[H").lines() {
        let line = line.trim_end_matches("\x1b[K");
        assert!(line.chars().count() <= 40 && !line.contains('\x1b'), "{line:?}");
    }
    assert!(first.contains(&uid(1).as_str()[..7]) && first.contains('…'), "{first:?}");
}
