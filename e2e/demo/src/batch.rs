//! The controller: a claim that would straddle becomes a pair, and a batch lies on one node, with the reason why.

use std::time::Duration;

use anyhow::{Result, ensure};
use vnpu_e2e_stack::{Fleet, Stack};

use crate::shell::{Shell, note, promise};

/// Where the controller's admin server will be.
pub(crate) fn address(stack: &Stack) -> String {
    format!("http://{}", stack.cluster.controller_admin(0))
}

/// The pods of the batch and their nodes.
const NODES: &str =
    "kubectl get pods -l job-name=train -o custom-columns=POD:.metadata.name,NODE:.spec.nodeName";

/// What became of the claim that was refused before.
const CONSTRAINTS: &str =
    "kubectl get resourceclaim two-chips -o jsonpath='{.spec.devices.constraints}{\"\\n\"}'";

/// Shows both.
///
/// # Errors
/// When a command does not answer as promised.
pub(crate) fn show(stack: &Stack, shell: &mut Shell) -> Result<()> {
    eprintln!("  starting the controller, and four simulated nodes on two leaf switches");
    stack.start_controller(0, None)?;
    let fleet = Fleet { name: "demo".to_owned(), nodes: 4, modules: 4, per_leaf: 2, per_superpod: 2 };
    fleet.create(&stack.cluster)?;
    pair(shell)?;
    batch(stack, shell)
}

fn pair(shell: &mut Shell) -> Result<()> {
    shell.step("The two chips that were refused, once more: now the controller runs");
    shell.run("kubectl create -f e2e/demo/manifests/two-chips.yaml")?;
    let constraints = shell.run(CONSTRAINTS)?;
    promise(&constraints, r#""matchAttribute":"vnpu.dev/module""#)?;
    note("it has put in what was missing: the two chips are a pair of one module");
    shell.took();
    Ok(())
}

fn batch(stack: &Stack, shell: &mut Shell) -> Result<()> {
    shell.step("A Job of four pods, a module each, on four nodes with four modules each");
    shell.run("kubectl apply -f e2e/demo/manifests/batch.yaml")?;
    stack.cluster.wait_for("the batch to be bound", Duration::from_secs(60), || {
        let nodes = shell.silently(NODES)?;
        Ok(nodes.lines().count() == 5 && !nodes.contains("<none>"))
    })?;
    let table = shell.run(NODES)?;
    let mut nodes: Vec<&str> =
        table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    nodes.dedup();
    ensure!(nodes.len() == 1, "the batch lies on {nodes:?}");
    note(
        "all four on one node, by the stock scheduler: the planner nominated it for them and let them go together",
    );
    shell.took();

    shell.step("Why there, and what the nodes look like");
    let why = shell
        .run("kubectl vnpu why $(kubectl get pods -l job-name=train -o name | head -n 1 | cut -d/ -f2)")?;
    promise(&why, "4 pods")?;
    let drawn = shell.run("kubectl vnpu get nodes --ascii")?;
    promise(&drawn, "## ## ## ##")?;
    shell.run("kubectl delete -f e2e/demo/manifests/batch.yaml --wait=false")?;
    shell.took();
    Ok(())
}
