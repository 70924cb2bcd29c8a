//! `xtask crash`: kills the node plugin at every failpoint and at random moments, and its agent at each of its steps, and
//! judges what each kill leaves. The failpoints are compiled in for this alone.

use anyhow::Result;

use crate::shell::{cargo_program, command, finish};

/// Kills in `make test`: every place is met several times, in well under a minute.
const SHORT: u32 = 60;

/// The short form.
pub(crate) fn short() -> Result<()> {
    run(SHORT)
}

/// Every place once, then `kills` at random.
pub(crate) fn run(kills: u32) -> Result<()> {
    // The features of the whole workspace: its dependencies are not compiled once more for this.
    let arguments = [
        "test",
        "--quiet",
        "--workspace",
        "--features",
        "vnpu-kubelet-plugin/failpoints,vnpu-quota-agent/fault",
        "--test",
        "crash",
        "--test",
        "sweep",
        "--test",
        "killed",
        "--",
        "--nocapture",
    ];
    finish(command(&cargo_program(), &arguments).env("VNPU_SWEEP_KILLS", kills.to_string()))
}
