//! Proves what users rely on of the command line: each option has its environment variable, and the option wins.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

use std::collections::BTreeSet;
use std::process::{Command, Output};

use clap::Parser as _;
use vnpu_kubelet_plugin::config::Args;

const PLUGIN: &str = env!("CARGO_BIN_EXE_vnpu-kubelet-plugin");
/// All options that take a value.
const OPTIONS: [&str; 18] = [
    "node-name",
    "kubeconfig",
    "kubelet-registry-dir",
    "kubelet-plugins-dir",
    "cdi-dir",
    "state-dir",
    "runtime-dir",
    "interposer-dir",
    "driver-root",
    "dev-root",
    "admin-address",
    "dcmi-library",
    "nvml-library",
    "generic-devices",
    "pod-uid",
    "config",
    "log",
    "log-format",
];
/// Arguments for [`child`], one a line.
const CHILD: &str = "OPTIONS_TEST_ARGUMENTS";

fn variable(option: &str) -> String {
    format!("VNPU_{}", option.replace('-', "_").to_uppercase())
}

fn text(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// An environment is a process's own: this one, started by the test below, says what it makes of its.
#[test]
fn child() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    println!("{:?}", Args::try_parse_from(arguments.lines()).unwrap());
}

/// What a process makes of `arguments`, where the variables of all options are set.
fn parsed(arguments: &[String]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]);
    command.env(CHILD, [&["plugin".to_owned()], arguments].concat().join("\n"));
    command.envs(OPTIONS.map(|option| (variable(option), written("env", option))));
    let said = text(command.output().unwrap());
    // What the test harness says is around it.
    said.lines().find(|line| line.starts_with("Args")).unwrap_or_else(|| panic!("{said}")).to_owned()
}

/// A value for an option that says where it comes from.
fn written(from: &str, option: &str) -> String {
    let of = if option == "generic-devices" { "acme=" } else { "" };
    format!("{of}/{from}/{option}")
}

/// Whether `field` of [`Args`] has `value`, be it optional, a list, or neither.
fn says(parsed: &str, option: &str, value: &str) -> bool {
    let field = option.replace('-', "_");
    let described = format!(" {field}: [GenericSource {{ vendor: \"acme\", file: {value:?} }}]");
    [format!(" {field}: {value:?}"), format!(" {field}: Some({value:?})"), described]
        .iter()
        .any(|words| parsed.contains(words))
}

#[test]
fn every_option_has_its_variable_and_wins_over_it() {
    let by_variables = parsed(&[]);
    for option in OPTIONS {
        assert!(says(&by_variables, option, &format!("/env/{option}")), "--{option}: {by_variables}");
    }
    for given in OPTIONS {
        let one = parsed(&[format!("--{given}"), written("flag", given)]);
        for option in OPTIONS {
            let from = if option == given { "flag" } else { "env" };
            assert!(says(&one, option, &format!("/{from}/{option}")), "--{option}: {one}");
        }
    }
}

#[test]
fn the_help_names_these_options_and_variables_and_no_others() {
    let help = text(Command::new(PLUGIN).env_clear().arg("--help").output().unwrap());
    let words = |start: &str| -> BTreeSet<String> {
        let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
        help.split_whitespace()
            .filter_map(|word| word.trim_start_matches('[').strip_prefix(start))
            .filter_map(|rest| rest.split(ends).next().map(str::to_owned))
            .filter(|word| !word.is_empty())
            .collect()
    };
    let variables = OPTIONS.map(|option| variable(option)["VNPU_".len()..].to_owned());
    assert_eq!(words("VNPU_"), BTreeSet::from(variables), "{help}");
    let without_a_value = ["check", "help", "version"].map(str::to_owned);
    let options = OPTIONS.map(str::to_owned).into_iter().chain(without_a_value);
    assert_eq!(words("--"), options.collect(), "{help}");
}

#[test]
fn the_version_needs_nothing_else() {
    for flag in ["--version", "-V"] {
        let version = text(Command::new(PLUGIN).env_clear().arg(flag).output().unwrap());
        assert_eq!(version, format!("vnpu-kubelet-plugin {}\n", env!("CARGO_PKG_VERSION")));
    }
}
