//! Runs beside each other on one chip: what each gets, what is not promised twice, and what a killed one leaves.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod machine;

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use machine::{Machine, bin, text};

/// A program under `vnpu run`, on one chip.
struct Tenant {
    run: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Tenant {
    fn start(machine: &Machine, options: &[&str], program: &[&str]) -> Self {
        let chip = machine.chips().remove(0);
        let mut command = machine.vnpu(&[options, &["--device", &chip]].concat());
        command.arg(bin("acl-demo")).args(program).stdout(Stdio::piped()).process_group(0);
        let mut run = command.spawn().unwrap();
        let lines = BufReader::new(run.stdout.take().unwrap()).lines();
        Self { run, lines }
    }

    fn busy(machine: &Machine, options: &[&str], seconds: &str) -> Self {
        Self::start(machine, options, &["busy", "--micros", "1000", "--seconds", seconds])
    }

    /// The share of each second, in percent of the chip.
    fn shares(&mut self) -> Vec<f64> {
        let shares: Vec<f64> = self.lines.by_ref().map(|line| share(&line.unwrap())).collect();
        assert!(self.run.wait().unwrap().success());
        shares
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        // The program with it, whoever has ended already.
        let _ = Command::new("kill")
            .args(["-9", "--", &format!("-{}", self.run.id())])
            .stderr(Stdio::null())
            .status();
        let _ = self.run.wait();
    }
}

fn share(line: &str) -> f64 {
    let word = line.split(' ').find_map(|word| word.strip_prefix("share="));
    word.unwrap_or_else(|| panic!("{line}")).parse().unwrap()
}

/// Without the first second: a run may have saved up a burst.
fn mean(shares: &[f64]) -> f64 {
    shares[1..].iter().sum::<f64>() / (shares.len() - 1) as f64
}

fn running(pid: &str) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

#[test]
fn two_busy_runs_get_the_chip_as_their_shares_say() {
    let machine = Machine::start();
    let mut tenants =
        [["--cores", "30"], ["--cores", "70"]].map(|options| Tenant::busy(&machine, &options, "5"));
    let shares = [tenants[0].shares(), tenants[1].shares()];
    let [small, large] = [mean(&shares[0]), mean(&shares[1])];
    // Without shares it is 50 and 50; a machine that has no time for the tenants gives both less.
    assert!((10.0..34.0).contains(&small) && large < 74.0 && large > 1.3 * small, "{shares:?}");
    assert_eq!(machine.left_over(), 0);
}

#[test]
fn one_with_cores_alone_is_held_to_them_and_has_as_much_of_the_memory() {
    let machine = Machine::start();
    let chip = machine.chips().remove(0);
    let shares = Tenant::busy(&machine, &["--cores", "20"], "4").shares();
    assert!((7.0..22.0).contains(&mean(&shares)), "{shares:?}");
    let mut info = machine.vnpu(&["--cores", "25", "--device", &chip]);
    let info = text(&info.arg(bin("acl-demo")).arg("info").output().unwrap());
    assert!(info.contains("total=17179869184"), "a quarter of 64 GiB: {info}");
}

#[test]
fn one_without_cores_gets_what_those_with_a_share_leave() {
    let machine = Machine::start();
    let mut with = Tenant::busy(&machine, &["--memory", "1Gi", "--cores", "60"], "4");
    let mut without = Tenant::busy(&machine, &["--memory", "1Gi"], "4");
    let (with, without) = (mean(&with.shares()), mean(&without.shares()));
    assert!((25.0..64.0).contains(&with) && (10.0..60.0).contains(&without), "{with} {without}");
}

#[test]
fn what_runs_have_is_not_promised_again_and_the_message_names_them() {
    let machine = Machine::start();
    let chip = machine.chips().remove(0);
    let holder = |name: &str| {
        let options = ["--memory", "40Gi", "--cores", "60", "--name", name];
        let mut tenant = Tenant::start(&machine, &options, &["hold", "--bytes", "1Gi"]);
        tenant.lines.next().unwrap().unwrap();
        tenant
    };
    let first = holder("training");
    let pid = first.run.id();
    let ask = |options: &[&str]| {
        let output = machine.vnpu(&[options, &["--device", &chip]].concat()).arg("true").output().unwrap();
        (output.status.code(), text(&output))
    };
    let (code, message) = ask(&["--memory", "25Gi"]);
    assert_eq!(code, Some(125), "{message}");
    assert!(message.contains(&format!("--memory 25Gi is more than chip {chip} has left, 24Gi of 64Gi")));
    assert!(message.contains(&format!("training (process {pid}): 40Gi, 60 percent hard")), "{message}");
    let (code, message) = ask(&["--memory", "1Gi", "--cores", "41"]);
    assert_eq!(code, Some(125), "{message}");
    assert!(message.contains("40 of 100 percent") && message.contains("training (process"), "{message}");
    for fits in [
        &["--memory", "24Gi", "--cores", "40"][..],
        &["--memory", "1Gi", "--cores", "90", "--mode", "elastic"],
        &["--memory", "24Gi", "--mode", "best-effort"],
    ] {
        assert_eq!(ask(fits).0, Some(0), "{fits:?}");
    }
    let other = machine.chips().remove(1);
    let elsewhere =
        machine.vnpu(&["--memory", "64Gi", "--cores", "100", "--device", &other]).arg("true").status();
    assert!(elsewhere.unwrap().success(), "the other chip is free");
    drop(first);
}

#[test]
fn a_killed_run_gives_its_share_away_and_its_neighbour_does_not_notice() {
    let machine = Machine::start();
    let mut neighbour = Tenant::busy(&machine, &["--cores", "30"], "6");
    let options = ["--cores", "70"];
    let mut killed = Tenant::start(&machine, &options, &["hold", "--bytes", "1Gi"]);
    let line = killed.lines.next().unwrap().unwrap();
    let program = line.split(' ').find_map(|word| word.strip_prefix("pid=")).unwrap().to_owned();
    killed.run.kill().unwrap();
    killed.run.wait().unwrap();
    let chip = machine.chips().remove(0);
    let next = || machine.vnpu(&["--cores", "70", "--device", &chip]).arg("true").output().unwrap();
    let refused = next();
    assert_eq!(refused.status.code(), Some(125), "its program lives: {}", text(&refused));
    assert!(Command::new("kill").args(["-9", &program]).status().unwrap().success());
    while running(&program) {
        std::thread::sleep(Duration::from_millis(5));
    }
    // The driver and the kernel let go of it a moment later.
    let mut tries = 0;
    while !next().status.success() {
        tries += 1;
        assert!(tries < 100, "{}", text(&next()));
        std::thread::sleep(Duration::from_millis(20));
    }
    let shares = neighbour.shares();
    assert!((7.0..34.0).contains(&mean(&shares)), "{shares:?}");
    assert_eq!(machine.left_over(), 0);
}

#[test]
fn many_that_come_at_once_all_get_their_share_and_leave_nothing() {
    let machine = Machine::start();
    let chip = machine.chips().remove(0);
    let start = || {
        let mut command = machine.vnpu(&["--memory", "1Gi", "--cores", "5", "--device", &chip]);
        command.arg(bin("acl-demo")).args(["fill", "--chunk", "512Mi", "--kind", "align32"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let runs: Vec<Child> = (0..20).map(|_| start()).collect();
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success() && text(&output).contains("granted=1073741824"), "{}", text(&output));
    }
    assert_eq!(machine.left_over(), 0);
}

#[test]
fn runs_killed_at_any_moment_leave_nothing_that_the_next_does_not_remove() {
    let machine = Machine::start();
    let chip = machine.chips().remove(0);
    for round in 0..60 {
        let mut run = machine.vnpu(&["--memory", "3Gi", "--cores", "4", "--device", &chip]);
        let mut run = run.arg("true").stderr(Stdio::null()).process_group(0).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(round * 700));
        let group = format!("-{}", run.id());
        let _ = Command::new("kill").args(["-9", "--", &group]).stderr(Stdio::null()).status();
        run.wait().unwrap();
    }
    // All of the chip is there for the next: 60 times 3 GiB and 4 percent were promised.
    let mut whole = machine.vnpu(&["--memory", "64Gi", "--cores", "100", "--device", &chip]);
    let output = whole.arg("true").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(machine.left_over(), 0);
}
