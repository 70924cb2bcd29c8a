//! `xtask standins`: the stand-in vendor libraries and programs, built and placed by their own build crate.

use anyhow::Result;

use crate::shell::cargo;

/// Builds them into `<target>/standins`.
pub(crate) fn run() -> Result<()> {
    cargo(&["run", "--quiet", "--package", "standin-build"])
}
