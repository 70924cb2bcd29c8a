//! Quotas that change while a pod uses them. What of an annotation can be given is tested on the decision itself; here
//! it reaches a running process.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::case::Case;
use crate::context::Context;
use crate::pods::{GIB, Sleeper, sh, share};

pub(crate) const CASES: &[Case] = &[Case {
    name: "live/a_running_process_gets_another_quota",
    about: "compute and memory of a pod follow its claim's annotations, nothing is restarted, and the node's restart changes nothing",
    run: a_running_process_gets_another_quota,
}];

/// How long the way from the API server to the node's regions may take on a machine that has much else to do.
const SOON: Duration = Duration::from_secs(20);

fn annotate(context: &Context, annotations: &[&str]) -> Result<()> {
    let mut arguments = vec!["annotate", "resourceclaim", "npu", "--overwrite"];
    arguments.extend(annotations);
    context.kubectl(&arguments).map(drop)
}

/// Waits until a program in the pod sees so much memory.
fn sees(context: &Context, gib: u64) -> Result<()> {
    let mut total = 0;
    let waited = context.cluster.wait_for("another quota of memory", SOON, || {
        total = sh(context, "main", "acl-demo info")?.number("device ", "total")?;
        Ok(total == gib * GIB)
    });
    waited.with_context(|| format!("wanted {gib} GiB, the program sees {total} bytes"))
}

/// The mean of the last three seconds that the busy program told, after four more than it had told before: one may lie
/// across a change.
fn shares(context: &Context) -> Result<f64> {
    let script = "n=$(grep -c busy /tmp/busy); i=0; \
        until [ $(grep -c busy /tmp/busy) -ge $((n+4)) ]; do sleep 0.2; i=$((i+1)); [ $i -lt 150 ]; done; tail -n3 /tmp/busy";
    let said = sh(context, "main", script)?.out;
    let words = said.split_whitespace().filter_map(|word| word.strip_prefix("share="));
    let shares: Vec<f64> = words.map(str::parse).collect::<Result<_, _>>()?;
    ensure!(shares.len() == 3, "the program told {said:?}");
    Ok(shares.iter().sum::<f64>() / 3.0)
}

fn a_running_process_gets_another_quota(context: &mut Context) -> Result<()> {
    Sleeper::start(context, &[share("npu", "4Gi", 40)], &[Sleeper::default()])?;
    annotate(context, &["vnpu.dev/live=true"])?;
    let container = context.container_id("main")?;
    sh(context, "main", "acl-demo busy --seconds 600 > /tmp/busy 2>&1 < /dev/null &")?;
    let before = shares(context)?;

    annotate(context, &["vnpu.dev/cores=10", "vnpu.dev/memory=2Gi"])?;
    sees(context, 2)?;
    let less = shares(context)?;
    annotate(context, &["vnpu.dev/cores=90"])?;
    context.cluster.wait_for("the status to tell the new mode", SOON, || {
        let path = "jsonpath={.status.devices[0].data.chips[0].quota.mode}";
        Ok(context.kubectl(&["get", "resourceclaim", "npu", "-o", path])? == "elastic")
    })?;
    let more = shares(context)?;
    println!("        of 40 % it got {before:.1} %, of 10 % {less:.1} %, of 90 %, alone, {more:.1} %");
    ensure!((15.0..43.0).contains(&before), "40 % got {before} %");
    ensure!((3.0..13.0).contains(&less), "40 % that became 10 % got {less} %");
    // A machine that has no time for the pod gives it less than all.
    ensure!(more > 1.2 * less && more > 20.0, "10 % that became elastic got {more} %, alone on its chip");

    // The node forgets nothing, and asks for nothing, when its plugin is killed.
    let machine = context.machine()?;
    context.cluster.kill9_process(&machine.handle.plugin())?;
    sees(context, 2)?;
    context.cluster.relaunch_process(&machine.handle.plugin())?;
    context.stack.wait_published(&machine)?;
    sees(context, 2)?;

    annotate(context, &["vnpu.dev/memory-", "vnpu.dev/cores-"])?;
    sees(context, 4)?;
    ensure!(context.container_id("main")? == container, "the container was started anew");
    Ok(())
}
