//! `kubectl vnpu lint` on files, compared with what it must print. The files lie in `tests/lint`.

// A test may panic; clippy knows that of test functions, not of what they call.
#![allow(clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn lint(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-vnpu"))
        .arg("lint")
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lint"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A program that does not read has closed its end.
    _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("its output")
}

/// All that a person sees of a run.
fn seen(arguments: &[&str]) -> String {
    let output = lint(arguments, "");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "$ kubectl vnpu lint {}\n{}{}exit code {}",
        arguments.join(" "),
        text(&output.stdout),
        text(&output.stderr),
        output.status.code().expect("a code")
    )
}

#[test]
fn claims_are_refused_changed_or_fine() {
    insta::assert_snapshot!(seen(&["-f", "claims.yaml"]));
}

#[test]
fn templates_are_told_what_to_write() {
    insta::assert_snapshot!(seen(&["-f", "templates.yaml"]));
}

#[test]
fn pods_of_workloads_are_judged_too() {
    insta::assert_snapshot!(seen(&["-f", "workloads.yaml"]));
}

#[test]
fn the_configuration_counts() {
    insta::assert_snapshot!(seen(&["-f", "claims.yaml", "-f", "workloads.yaml", "--config", "config.yaml"]));
}

#[test]
fn quotas_on_chips_alone_are_warned_about() {
    insta::assert_snapshot!(seen(&["-f", "quotas.yaml"]));
}

#[test]
fn directories_are_read_by_name() {
    insta::assert_snapshot!(seen(&["-f", "directory"]));
}

#[test]
fn what_cannot_be_read_is_said_and_the_rest_is_judged() {
    insta::assert_snapshot!(seen(&["-f", "broken.yaml", "-f", "absent.yaml", "-f", "directory/deeper"]));
    insta::assert_snapshot!(seen(&["-f", "directory", "--config", "wrong-config.yaml"]));
}

#[test]
fn standard_input_is_read() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lint/quotas.yaml"));
    let output = lint(&["-f", "-"], &text.expect("a file"));
    assert_eq!(output.status.code(), Some(0));
    let out = String::from_utf8(output.stdout).expect("text");
    assert!(out.starts_with("warning: stdin:1: ResourceQuota bank/chips: "), "{out}");
    assert_eq!(lint(&["-f", "-"], "- a\n- b\n").status.code(), Some(2));
    assert_eq!(lint(&["-f", "-"], "").status.code(), Some(0));
    assert_eq!(lint(&[], "").status.code(), Some(2));
}
