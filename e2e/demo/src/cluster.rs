//! The second part: shares and modules on a real cluster, whose accelerators are stand-ins.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use vnpu_e2e_stack::{Artefacts, Machine, Options, Stack, StackOptions};

use crate::batch;
use crate::shares;
use crate::shell::{Shell, note, path, promise};

/// Devices of all slices, as a table.
const DEVICES: &str = "kubectl get resourceslices -o go-template-file=e2e/demo/manifests/devices.tmpl";

/// What the claims were given.
const CLAIMS: &str = "kubectl get resourceclaims -o custom-columns='\
CLAIM:.metadata.name,\
CHIP:.status.allocation.devices.results[*].device,\
MEMORY:.status.allocation.devices.results[*].consumedCapacity.memory,\
CORES:.status.allocation.devices.results[*].consumedCapacity.cores'";

/// What the node says about a claim's device.
const CONDITIONS: &str = r#"kubectl get resourceclaim tenant-b -o jsonpath='{range .status.devices[*].conditions[*]}{.type}={.status} {.reason}: {.message}{"\n"}{end}'"#;

/// Shows it; `keep` leaves the cluster standing.
///
/// # Errors
/// When the cluster does not come up, or a command does not answer as promised.
pub(crate) fn show(artefacts: Artefacts, keep: bool) -> Result<()> {
    let begun = Instant::now();
    println!(
        "\n#### 2. On a cluster: Kubernetes, containerd and runc are real, the accelerators are stand-ins"
    );
    let options = Options { detached: keep, ..Options::default() };
    let repository = artefacts.repository.clone();
    let vnpu = artefacts.vnpu.parent().context("vnpu lies nowhere")?.to_owned();
    let stack = Stack::start(artefacts, StackOptions { cluster: options, ..StackOptions::default() })?;
    eprintln!("  starting the node's stand-in machine (two Ascend 910C modules) and its node plugin");
    stack.add_real_node(Machine::ascend_910c(2, 65536))?;
    println!("   (cluster, product and node plugin: {:.1} s)", begun.elapsed().as_secs_f32());
    let kubectl = stack.cluster.kubectl_path();
    let directory = kubectl.parent().context("kubectl lies nowhere")?;
    let node = &stack.real().context("the node is gone")?.handle;
    let environment = vec![
        ("PATH".to_owned(), path(&[directory, &vnpu])?),
        // Where the node plugin of a real node has them by default.
        ("VNPU_RUNTIME_DIR".to_owned(), node.runtime.clone().into_os_string()),
        ("VNPU_ADMIN_ADDRESS".to_owned(), node.admin_address.to_string().into()),
        ("VNPU_CONTROLLER".to_owned(), batch::address(&stack).into()),
        ("KUBECONFIG".to_owned(), stack.cluster.kubeconfig().into_os_string()),
        ("KUBECACHEDIR".to_owned(), stack.cluster.directory().join("kubectl-cache").into_os_string()),
    ];
    let mut shell = Shell::new(&repository, environment);
    if let Err(error) = steps(&stack, &mut shell) {
        let pods = stack.cluster.kubectl_ok(&["describe", "pods"]).unwrap_or_default();
        let plugin = stack.real().map(|node| stack.log_tail(&node.handle.plugin())).unwrap_or_default();
        return Err(error.context(format!("the demo stops here\n{pods}\n{plugin}\n")));
    }
    println!();
    if keep {
        println!("The cluster stays, with the pods; two are busy for an hour. To use it:");
        println!("  export KUBECONFIG={}", stack.cluster.kubeconfig().display());
        println!("  {} get pods", kubectl.display());
        println!("`make demo-down` removes it.");
        stack.cluster.leave()?;
    } else {
        let leaving = Instant::now();
        stack.stop()?;
        println!("The cluster is gone again ({:.1} s).", leaving.elapsed().as_secs_f32());
    }
    println!("The second part took {:.1} s.", begun.elapsed().as_secs_f32());
    Ok(())
}

fn steps(stack: &Stack, shell: &mut Shell) -> Result<()> {
    devices(shell)?;
    tenants(stack, shell)?;
    conditions(stack, shell)?;
    modules(shell)?;
    compute(stack, shell)?;
    live(stack, shell)?;
    batch::show(stack, shell)
}

fn devices(shell: &mut Shell) -> Result<()> {
    shell.step("What the node publishes: modules, and the chips they consist of");
    let table = shell.run(DEVICES)?;
    promise(&table, "chip-1-1")?;
    note("a chip may be shared, a module is for one claim; shared counters keep the two apart");
    shell.took();
    Ok(())
}

fn tenants(stack: &Stack, shell: &mut Shell) -> Result<()> {
    shell.step("Two tenants, each with 4Gi of memory and 10 % of a chip");
    shell.run("sed '/^---/,$d' e2e/demo/manifests/tenant-a.yaml")?;
    note("the claim; its pod names it, and its program holds 2 GiB");
    shell.run("kubectl apply -f e2e/demo/manifests/tenant-a.yaml")?;
    shell.run("kubectl wait --for=condition=Ready pod/tenant-a --timeout=60s")?;
    said(stack, shell, "tenant-a")?;
    let before = shell.run("kubectl exec tenant-a -- acl-demo info")?;
    promise(&before, "total=4294967296 free=2147483648")?;
    shell.took();

    shell.step("The second takes all it can get");
    shell.run("kubectl apply -f e2e/demo/manifests/tenant-b.yaml")?;
    shell.run("kubectl wait --for=condition=Ready pod/tenant-b --timeout=60s")?;
    said(stack, shell, "tenant-b")?;
    let greedy = shell.run("kubectl logs tenant-b")?;
    promise(&greedy, "round=first granted=4294967296 allocations=4 code=207001")?;
    promise(&greedy, "holding bytes=4294967296")?;
    note("out of memory (207001) at 4294967296 bytes, its 4 GiB to the byte, on a chip of 64 GiB");
    shell.took();

    shell.step("The first does not notice, though both are on one chip");
    let after = shell.run("kubectl exec tenant-a -- acl-demo info")?;
    promise(&after, before.trim())?;
    promise(&shell.run("kubectl exec tenant-a -- acl-demo fill --chunk 1Gi")?, "granted=2147483648 ")?;
    note("the same figures as before, and the 2 GiB that it had not used are there when it wants them");
    shell.took();
    Ok(())
}

fn conditions(stack: &Stack, shell: &mut Shell) -> Result<()> {
    shell.step("Which chip it was, and what the node says about each share");
    let claims = shell.run(CLAIMS)?;
    let chips: Vec<&str> = claims.lines().skip(1).filter_map(|l| l.split_whitespace().nth(1)).collect();
    anyhow::ensure!(matches!(chips.as_slice(), [a, b] if a == b), "both shares should be of one chip");
    stack.cluster.wait_for("the claim's conditions", Duration::from_secs(60), || {
        Ok(shell.silently(CONDITIONS)?.contains("Attached=True"))
    })?;
    shell.run(CONDITIONS)?;
    note("Attached=True: the interposer is in the container's processes and holds them to the share");
    shell.took();
    Ok(())
}

fn modules(shell: &mut Shell) -> Result<()> {
    shell.step("Two chips without a word about modules: they could be halves of two modules");
    shell.run("sed -n '/^spec/,$p' e2e/demo/manifests/two-chips.yaml")?;
    let refused = shell.refused("kubectl create -f e2e/demo/manifests/two-chips.yaml")?;
    promise(&refused, "matchAttribute: vnpu.dev/module")?;
    note("refused by the API server, whoever asks; the message has the right form");
    shell.took();

    shell.step("The same with that constraint");
    shell.run("kubectl apply -f e2e/demo/manifests/pair.yaml")?;
    shell.run("kubectl wait --for=condition=Ready pod/pair --timeout=60s")?;
    let pair = shell.run(
        r#"kubectl get resourceclaim pair -o jsonpath='{range .status.allocation.devices.results[*]}{.device}{"\n"}{end}'"#,
    )?;
    promise(&pair, "chip-1-0\nchip-1-1")?;
    promise(&shell.run("kubectl logs pair")?, "devices count=2")?;
    note("chips 0 and 1 of module 1: one whole module, since module 0 has tenants");
    shell.took();
    Ok(())
}

fn compute(stack: &Stack, shell: &mut Shell) -> Result<()> {
    shell.step("Two busy pods on one chip, with 30 and 70 % of it");
    shell.run(
        "kubectl delete --now -f e2e/demo/manifests/tenant-a.yaml -f e2e/demo/manifests/tenant-b.yaml",
    )?;
    note("the first two make room: the two that come ask for a whole chip together");
    shell.run("sed -n '/cores/p; /command/p' e2e/demo/manifests/busy.yaml")?;
    shell.run("kubectl apply -f e2e/demo/manifests/busy.yaml")?;
    shell.run("kubectl wait --for=condition=Ready pod/small pod/large --timeout=60s")?;
    let (small, large) = side_by_side(stack, shell)?;
    let claims = shell.run(BUSY_CLAIMS)?;
    let chips: Vec<&str> = claims.lines().skip(1).filter_map(|l| l.split_whitespace().nth(1)).collect();
    anyhow::ensure!(matches!(chips.as_slice(), [a, b] if a == b), "both shares should be of one chip");
    shares::check(small, large)?;
    note(&format!(
        "30 percent got {small:.1}, 70 percent got {large:.1}, of the chip's last {SECONDS} seconds"
    ));
    let table = shell.run("vnpu top --once")?;
    for claim in ["default/small", "default/large"] {
        promise(&table, claim)?;
    }
    note("the same as the node sees it, by what the claims' own regions say");
    shell.took();
    Ok(())
}

fn live(stack: &Stack, shell: &mut Shell) -> Result<()> {
    shell.step("The smaller one gets less while it runs: its claim's annotations say how much");
    shell.run("kubectl annotate resourceclaim small vnpu.dev/cores=10 vnpu.dev/memory=2Gi")?;
    stack.cluster.wait_for("the claim's quota to change", Duration::from_secs(30), || {
        Ok(shell.silently(QUOTA)?.contains("\"cores\":10"))
    })?;
    shell.run(QUOTA)?;
    let (small, large) = side_by_side(stack, shell)?;
    shares::check_lowered(small)?;
    note(&format!(
        "of 10 percent it got {small:.1}; the other one's 70 are a cap of its own, of which it got {large:.1}"
    ));
    promise(&shell.run("kubectl exec small -- acl-demo info")?, "total=2147483648")?;
    promise(&shell.run(CHANGES)?, "the quota is now 2Gi of memory and 10 % of compute")?;
    note(
        "nothing was started anew; vnpu.dev/cores may also be more than was allocated, of what others leave",
    );
    shell.took();
    Ok(())
}

/// What is in force of the smaller claim.
const QUOTA: &str =
    r#"kubectl get resourceclaim small -o jsonpath='{.status.devices[0].data.chips[0].quota}{"\n"}'"#;

/// What its users are told of it.
const CHANGES: &str = "kubectl get events --field-selector reason=QuotaChanged -o custom-columns=CLAIM:.involvedObject.name,MESSAGE:.message";

/// Claims of the busy pods, as of [`CLAIMS`].
const BUSY_CLAIMS: &str = "kubectl get resourceclaims small large -o custom-columns='\
CLAIM:.metadata.name,\
CHIP:.status.allocation.devices.results[*].device,\
CORES:.status.allocation.devices.results[*].consumedCapacity.cores'";

/// Seconds of the pods' lives that are shown and added up.
const SECONDS: usize = 4;

/// What each of the two busy pods got of the chip while both were: waits until both have told some seconds more.
fn side_by_side(stack: &Stack, shell: &Shell) -> Result<(f64, f64)> {
    let said = |pod: &str| shell.silently(&format!("kubectl logs {pod}"));
    let seconds = |said: &str| said.lines().filter(|line| line.starts_with("busy ")).count();
    let before = (seconds(&said("small")?), seconds(&said("large")?));
    // One more than is shown: in the first something may still have been otherwise.
    stack.cluster.wait_for("the busy pods to tell what they get", Duration::from_secs(60), || {
        let now = (seconds(&said("small")?), seconds(&said("large")?));
        Ok(now.0 > before.0 + SECONDS && now.1 > before.1 + SECONDS)
    })?;
    let shown = |pod: &str| shell.run(&format!("kubectl logs --tail={SECONDS} {pod}"));
    let got = |said: String| shares::latest(&said, SECONDS)?.context("it did not tell so many seconds");
    Ok((got(shown("small")?)?, got(shown("large")?)?))
}

/// A Ready pod may not have said anything yet.
fn said(stack: &Stack, shell: &Shell, pod: &str) -> Result<()> {
    stack.cluster.wait_for(&format!("{pod} to hold its memory"), Duration::from_secs(60), || {
        Ok(shell.silently(&format!("kubectl logs {pod}"))?.contains("holding"))
    })
}
