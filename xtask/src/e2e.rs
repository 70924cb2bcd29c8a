//! `xtask e2e`: end-to-end cases on a fresh cluster. What is needed beside the cluster the suite builds itself.

use anyhow::Result;

use crate::shell::cargo;

/// Runs the suite with its arguments.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut all = vec!["run", "--quiet", "--package", "vnpu-e2e", "--bin", "vnpu-e2e", "--"];
    all.extend(arguments.iter().map(String::as_str));
    cargo(&all)
}
