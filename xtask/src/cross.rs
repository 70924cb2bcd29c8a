//! Building for another architecture: Rust's half of it from rustup, the linker and C library from the system's cross
//! compiler, which Debian has as a package.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{command, finish, has, not_run, output};

/// What it takes to build for a target other than this machine's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cross<'a> {
    /// As Rust calls it.
    pub(crate) target: &'a str,
    /// Its first part, by which compilers and emulators are named.
    pub(crate) machine: &'a str,
}

impl<'a> Cross<'a> {
    /// Looks for both halves, and has rustup bring its own.
    pub(crate) fn find(target: &'a str) -> Result<Self> {
        let machine = target.split('-').next().context("no target has an empty name")?;
        let cross = Self { target, machine };
        let compiler = cross.tool("gcc");
        if !has(&compiler) {
            not_run(format!("no {compiler} here; `cargo xtask deps` installs it or says how"))?;
        }
        let sysroot = output("rustc", &["--print", "sysroot"])?;
        let there = Path::new(sysroot.trim()).join("lib/rustlib").join(target).join("lib");
        if !there.exists() && finish(&mut command("rustup", &["target", "add", target])).is_err() {
            not_run(format!("Rust's libraries for {target} are missing and `rustup target add` failed"))?;
        }
        Ok(cross)
    }

    /// One of the cross compiler's programs.
    pub(crate) fn tool(&self, name: &str) -> String {
        format!("{}-linux-gnu-{name}", self.machine)
    }

    /// Makes a cargo command build for the target.
    pub(crate) fn build(&self, command: &mut Command) {
        let variable = self.target.to_uppercase().replace('-', "_");
        command.args(["--target", self.target]);
        command.env(format!("CARGO_TARGET_{variable}_LINKER"), self.tool("gcc"));
    }
}
