//! The signals that end a daemon, sent to this process: a test of its own program, because a signal is everybody's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests may

use std::process::{Command, ExitCode};
use std::time::Duration;

use vnpu_daemon::{Signals, few_heaps, run};

fn signal(name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &std::process::id().to_string()]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn a_daemon_ends_its_work_when_it_is_told_to_and_not_before() {
    few_heaps();
    let code = run(2, async {
        let mut signals = Signals::new()?;
        let early = tokio::time::timeout(Duration::from_millis(50), signals.next()).await;
        assert!(early.is_err(), "nobody sent a signal");
        for name in ["TERM", "INT", "TERM"] {
            signal(name);
            tokio::time::timeout(Duration::from_secs(20), signals.next()).await?;
        }
        Ok(())
    });
    assert_eq!(code, ExitCode::SUCCESS);
    let code = run(2, async { anyhow::bail!("the disk is full") });
    assert_eq!(code, ExitCode::FAILURE);
}
