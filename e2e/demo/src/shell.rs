//! Commands as a user types them: printed, run by a shell, their output printed indented, their time taken.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, bail};

/// Where and with which variables commands run.
#[derive(Debug)]
pub(crate) struct Shell {
    directory: PathBuf,
    environment: Vec<(String, OsString)>,
    begun: Instant,
}

impl Shell {
    /// Commands run in `directory`, with these variables beside the inherited ones.
    pub(crate) fn new(directory: &Path, environment: Vec<(String, OsString)>) -> Self {
        Self { directory: directory.to_owned(), environment, begun: Instant::now() }
    }

    /// Begins a step: what comes is about this.
    pub(crate) fn step(&mut self, title: &str) {
        println!("\n== {title}");
        self.begun = Instant::now();
    }

    /// Ends a step with how long it took.
    pub(crate) fn took(&self) {
        println!("   ({:.1} s)", self.begun.elapsed().as_secs_f32());
    }

    /// Shows and runs a command that must succeed; what it printed.
    pub(crate) fn run(&self, line: &str) -> Result<String> {
        let (text, good) = self.type_in(line)?;
        if !good {
            bail!("this command should have succeeded: {line}");
        }
        Ok(text)
    }

    /// Shows and runs a command that must be refused; what it printed.
    pub(crate) fn refused(&self, line: &str) -> Result<String> {
        let (text, good) = self.type_in(line)?;
        if good {
            bail!("this command should have been refused: {line}");
        }
        Ok(text)
    }

    /// Runs a command without showing it; what it printed, empty when it failed.
    pub(crate) fn silently(&self, line: &str) -> Result<String> {
        let output = self.command(line).stderr(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(if output.status.success() { text } else { String::new() })
    }

    fn type_in(&self, line: &str) -> Result<(String, bool)> {
        println!("$ {line}");
        // One pipe for both, as a terminal shows them.
        let output = self.command(&format!("exec 2>&1\n{line}")).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for line in text.lines() {
            println!("  {line}");
        }
        Ok((text, output.status.success()))
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(line).current_dir(&self.directory).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // All that the demo talks to is on this machine.
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name);
        }
        command
    }
}

/// A sentence of explanation under a command's output.
pub(crate) fn note(text: &str) {
    println!("  -> {text}");
}

/// Fails unless `text` has `wanted`: a demo must not show something else than it says.
pub(crate) fn promise(text: &str, wanted: &str) -> Result<()> {
    if !text.contains(wanted) {
        bail!("the answer should have had {wanted:?}");
    }
    Ok(())
}

/// `PATH` with these directories in front.
pub(crate) fn path(first: &[&Path]) -> Result<OsString> {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let first = first.iter().map(|directory| directory.to_path_buf());
    Ok(std::env::join_paths(first.chain(std::env::split_paths(&old)))?)
}
