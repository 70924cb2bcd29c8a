//! What a user is told: where leaves come from, why a pod lies where it lies, what a recording says afterwards.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vnpu_e2e_stack::Fleet;

use crate::batches::{PATIENCE, clear, create_pods, job, member, modules_template, wait_bound};
use crate::case::Case;
use crate::context::Context;
use crate::simulated::{apply, text};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "explained/labels_become_leaves",
        about: "a label of another system becomes vnpu.dev/leaf and the devices' attribute; one that somebody set stays",
        run: labels_become_leaves,
    },
    Case {
        name: "explained/why_and_get_nodes",
        about: "kubectl vnpu says why a pod lies where it lies, why another waits, and draws the nodes",
        run: why_and_get_nodes,
    },
    Case {
        name: "explained/replayed",
        about: "what the controller recorded is decided again, byte for byte",
        run: replayed,
    },
];

fn labels_become_leaves(context: &mut Context) -> Result<()> {
    const LABEL: &str = "network.topology.nvidia.com/leaf";
    context.controller()?;
    context.machine()?;
    let node = context.cluster.node()?.to_owned();
    let label =
        |argument: &str| context.cluster.kubectl_ok(&["label", "node", &node, "--overwrite", argument]);
    let leaf = || -> Result<String> {
        let object = context.cluster.kubectl_json(&["get", "node", &node])?;
        Ok(text(&object, "/metadata/labels/vnpu.dev~1leaf").to_owned())
    };
    label(&format!("{LABEL}=switch-7"))?;
    context.cluster.wait_for("the leaf", PATIENCE, || Ok(leaf()? == "switch-7"))?;
    context.cluster.wait_for("the devices' attribute", PATIENCE, || {
        let devices = context.stack.devices(&node)?;
        Ok(!devices.is_empty()
            && devices.iter().all(|(_, d)| text(d, "/attributes/leaf/string") == "switch-7"))
    })?;
    // Somebody knows better: it stays, and is told.
    label("vnpu.dev/leaf=hand-made")?;
    label(&format!("{LABEL}=switch-8"))?;
    context.cluster.wait_for("the disagreement to be told", PATIENCE, || {
        let of_node = format!("--field-selector=reason=TopologyDisagreement,involvedObject.name={node}");
        let events = context.cluster.kubectl_json(&["get", "events", "-A", &of_node])?;
        let told =
            |event: &Value| ["hand-made", "switch-8"].iter().all(|w| text(event, "/message").contains(w));
        Ok(events.get("items").and_then(Value::as_array).is_some_and(|items| items.iter().any(told)))
    })?;
    // A node is left alone for 10 s after a write: only then it shows that nothing comes.
    let told = Instant::now();
    while told.elapsed() < Duration::from_secs(12) {
        ensure!(leaf()? == "hand-made", "the label was overwritten: {}", leaf()?);
        std::thread::sleep(Duration::from_millis(500));
    }
    label("vnpu.dev/leaf-")?;
    context.cluster.wait_for("the leaf to be ours again", PATIENCE, || Ok(leaf()? == "switch-8"))?;
    // With its source gone, the label goes.
    label(&format!("{LABEL}-"))?;
    context.cluster.wait_for("the label to go", PATIENCE, || Ok(leaf()?.is_empty()))
}

/// What `kubectl vnpu` prints.
pub(super) fn vnpu(context: &Context, arguments: &[&str]) -> Result<String> {
    let output = Command::new(&context.stack.artefacts.kubectl_vnpu)
        .args(arguments)
        .env("KUBECONFIG", context.cluster.kubeconfig())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

fn why_and_get_nodes(context: &mut Context) -> Result<()> {
    let address = format!("http://{}", context.controller()?.admin_address);
    let fleet = Fleet { name: "why".to_owned(), nodes: 2, modules: 4, per_leaf: 2, per_superpod: 1 };
    fleet.create(&context.cluster)?;
    apply(context, vec![modules_template("two-modules", 2)])?;
    apply(context, vec![job(&fleet, "here", 2, "two-modules", json!({}))])?;
    let bound = wait_bound(context, "job=here", 2)?;
    let pod = bound.keys().next().context("no pod")?;
    let namespace = context.namespace.clone();
    let why = |pod: &str| vnpu(context, &["why", pod, "-n", &namespace, "--controller", &address]);
    let placed = why(pod)?;
    println!("        {}", placed.lines().next().unwrap_or_default());
    for word in [
        format!("Job {namespace}/here"),
        "2 x npu-module.vnpu.dev".to_owned(),
        bound.values().next().cloned().unwrap_or_default(),
    ] {
        ensure!(placed.contains(&word), "{word:?} is not in\n{placed}");
    }
    // One of three pods too many: they wait together, and are told why.
    let members = (0..3).map(|n| member(&fleet, "late", 3, &format!("late-{n}"), "two-modules", &json!({})));
    create_pods(context, members.collect())?;
    let mut waits = String::new();
    context.cluster.wait_for("an explanation", PATIENCE, || {
        waits = why("late-0")?;
        Ok(waits.contains("3 pods"))
    })?;
    let answer = waits.lines().next().unwrap_or_default();
    println!("        {answer}");
    // What they need, and what of it is there: two of three.
    for words in ["needs room for 3 pods, each 2 modules", "4 whole modules, room for 2 of 3 pods"] {
        ensure!(answer.contains(words), "{words:?} is not in the first line of\n{waits}");
    }
    let nodes = vnpu(context, &["get", "nodes", "--ascii"])?;
    let full = bound.values().next().context("no node")?;
    let line = nodes.lines().find(|line| line.starts_with(full.as_str())).context("the node is not drawn")?;
    println!("        {line}");
    ensure!(line.contains("## ## ## ##"), "{nodes}");
    clear(context)?;
    fleet.remove(&context.cluster)
}

fn replayed(context: &mut Context) -> Result<()> {
    context.controller()?;
    let directory = context.cluster.directory().join("controllers/record-0");
    // Equal leaves, so that ties are recorded too; and batches that wait before they are placed.
    let fleet = Fleet { name: "replayed".to_owned(), nodes: 4, modules: 2, per_leaf: 1, per_superpod: 2 };
    fleet.create(&context.cluster)?;
    apply(context, vec![modules_template("two-modules", 2)])?;
    for batch in ["first", "second", "third"] {
        let name = |rank| format!("{batch}-{rank}");
        let members = (0..2).map(|rank| member(&fleet, batch, 2, &name(rank), "two-modules", &json!({})));
        create_pods(context, members.collect())?;
        if batch == "third" {
            context.kubectl(&[
                "delete",
                "pods",
                "-l",
                "vnpu.dev/batch=first",
                "--grace-period=0",
                "--force",
            ])?;
        }
        wait_bound(context, &format!("vnpu.dev/batch={batch}"), 2)?;
    }
    clear(context)?;
    fleet.remove(&context.cluster)?;
    // What was told last may not be on disk yet.
    std::thread::sleep(Duration::from_secs(2));
    let mut files: Vec<_> = std::fs::read_dir(&directory)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut told = String::new();
    for file in &files {
        let output = Command::new(&context.stack.artefacts.simulator).arg("replay").arg(file).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        println!("        {}", complained.lines().chain(said.lines()).last().unwrap_or_default());
        ensure!(output.status.success(), "{}: {complained}", file.display());
        // What is decided again is compared with what stands in the recording, and so all of it has to stand there.
        let recorded = std::fs::read_to_string(file)?;
        let recorded = recorded.lines().filter(|line| line.starts_with(r#"{"decided":"#)).count();
        let again = said.lines().filter(|line| !line.starts_with(' ')).count();
        ensure!(
            recorded == again,
            "{}: {recorded} decisions are recorded, {again} are made again",
            file.display()
        );
        told.push_str(&said);
    }
    for batch in ["first", "second", "third"] {
        let placed = format!("batch {}/{batch} placed: 2 pods placed", context.namespace);
        ensure!(told.contains(&placed), "{placed:?} was not decided again:\n{told}");
    }
    Ok(())
}
