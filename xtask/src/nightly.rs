//! The nightly toolchain, which some checks need and nothing that is shipped.

use anyhow::{Context, Result};

use crate::shell::{command, output};

/// Cargo of the nightly toolchain, by `rustup`.
pub(crate) const CARGO: &[&str] = &["run", "nightly", "cargo"];

/// Whether this machine has one.
pub(crate) fn there() -> bool {
    output("rustup", &["run", "nightly", "rustc", "--version"]).is_ok()
}

/// Whether it has the component, which is asked for if it is not there.
pub(crate) fn has_component(program: &str, component: &[&str]) -> bool {
    let works = || {
        let mut probe = command("rustup", CARGO);
        probe.args([program, "--version"]);
        probe.output().is_ok_and(|output| output.status.success())
    };
    let add = [&["component", "add", "--toolchain", "nightly"], component].concat();
    there() && (works() || output("rustup", &add).is_ok() && works())
}

/// The name of this machine's target.
pub(crate) fn host() -> Result<String> {
    let version = output("rustup", &["run", "nightly", "rustc", "-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}
