//! `vnpu-bench-scheduling`: how fast the stock scheduler binds pods that claim modules, alone and with the planner, in
//! one run: at the clients' default limits and with raised ones. `make bench-scheduling` builds everything and runs it.

mod memory;
mod processor;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};
use vnpu_e2e_stack::{Artefacts, ControllerHandle, FLEET, Fleet, Options, Stack, StackOptions, admin_page};

use processor::Taken;

/// How long one measurement may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Modules of a node, and pods of a batch: each takes one.
const MODULES: u32 = 8;

#[derive(Debug, Parser)]
#[command(
    about = "The rate at which pods with claims are bound: the stock scheduler alone, and with the planner"
)]
struct Arguments {
    /// Numbers of nodes.
    #[arg(long, value_delimiter = ',', default_values_t = [200, 1000])]
    nodes: Vec<u32>,
    /// Pods of each measurement.
    #[arg(long, default_value_t = 304)]
    pods: u32,
    /// Pods where the stock scheduler is alone: it is slow, and its rate is even.
    #[arg(long, default_value_t = 152)]
    stock_pods: u32,
    /// Measure with raised limits only.
    #[arg(long)]
    raised_only: bool,
    /// Measure with the planner only: for a profiler.
    #[arg(long)]
    ours_only: bool,
    /// Measure the controller's memory instead.
    #[arg(long)]
    memory: bool,
    /// Claims that are allocated where the memory is measured.
    #[arg(long, default_value_t = 5000)]
    claims: u32,
}

/// The limits of the scheduler's and the controller-manager's clients, requests per second.
#[derive(Debug, Clone, Copy)]
struct Limits {
    label: &'static str,
    scheduler: u32,
    controllers: u32,
}

/// What Kubernetes sets where nobody says (kube-scheduler 50, kube-controller-manager 20), and what there is to gain.
const LIMITS: [Limits; 2] = [
    Limits { label: "default", scheduler: 50, controllers: 20 },
    Limits { label: "raised", scheduler: 5000, controllers: 2000 },
];

/// One measurement.
struct Measured {
    rate: f64,
    calls: f64,
    nodes_used: usize,
    /// Processors that each part used.
    used: String,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let artefacts = Artefacts::build(true)?;
    if arguments.memory {
        return memory::table(&artefacts, &arguments.nodes, arguments.claims);
    }
    println!(
        "| limits | nodes | stock: pods/s | with the planner: pods/s | ratio | API calls per pod, stock / planner | nodes used, stock / planner (least) |"
    );
    println!("|---|---|---|---|---|---|---|");
    for limits in LIMITS.iter().filter(|l| !arguments.raised_only || l.label == "raised") {
        for nodes in &arguments.nodes {
            // A cluster of its own for each: what one leaves in caches and in etcd is not the next one's.
            let options = Options {
                scheduler_qps: limits.scheduler,
                controller_arguments: vec![
                    format!("--kube-api-qps={}", limits.controllers),
                    format!("--kube-api-burst={}", limits.controllers * 3 / 2),
                ],
                ..Options::default()
            };
            let stack = Stack::start(
                artefacts.clone(),
                StackOptions { cluster: options, ..StackOptions::default() },
            )?;
            row(arguments, &stack, *limits, *nodes)?;
            stack.stop()?;
        }
    }
    Ok(())
}

fn row(arguments: &Arguments, stack: &Stack, limits: Limits, nodes: u32) -> Result<()> {
    let fleet = Fleet { name: "rate".to_owned(), nodes, modules: MODULES, per_leaf: 8, per_superpod: 8 };
    fleet.create(&stack.cluster)?;
    let stock = if arguments.ours_only {
        None
    } else {
        Some(measure(stack, &fleet, "stock", arguments.stock_pods, None)?)
    };
    let controller = stack.start_controller(0, None)?;
    stack.cluster.wait_for("a leader", Duration::from_secs(60), || leads(&controller))?;
    let ours = measure(stack, &fleet, "planned", arguments.pods, Some(&controller.name))?;
    let (rate, calls, used) =
        stock.as_ref().map_or((f64::NAN, f64::NAN, 0), |s| (s.rate, s.calls, s.nodes_used));
    println!(
        "| {} | {nodes} | {rate:.1} | {:.1} | {:.1} | {calls:.1} / {:.1} | {used} / {} ({}) |",
        limits.label,
        ours.rate,
        ours.rate / rate,
        ours.calls,
        ours.nodes_used,
        arguments.pods.div_ceil(MODULES),
    );
    if let Some(stock) = &stock {
        eprintln!("  processors at {nodes} nodes, limits {}, stock: {}", limits.label, stock.used);
    }
    eprintln!("  processors at {nodes} nodes, limits {}, planner: {}", limits.label, ours.used);
    let status = memory::Status::of(stack, &controller)?;
    eprintln!(
        "  controller at {nodes} nodes: {} MB resident, peak {}",
        status.megabytes("VmRSS:"),
        status.megabytes("VmHWM:")
    );
    fleet.remove(&stack.cluster)
}

fn leads(controller: &ControllerHandle) -> Result<bool> {
    Ok(admin_page(&controller.admin_address, "/metrics")?.1.lines().any(|line| line == "vnpu_leader 1"))
}

/// From the first CREATE to the last binding.
fn measure(
    stack: &Stack,
    fleet: &Fleet,
    name: &str,
    pods: u32,
    controller: Option<&str>,
) -> Result<Measured> {
    let cluster = &stack.cluster;
    cluster.kubectl_ok(&["create", "namespace", name])?;
    cluster.wait_for("the namespace's account", Duration::from_secs(30), || {
        Ok(cluster.kubectl(&["get", "serviceaccount", "default", "-n", name])?.status.success())
    })?;
    let template = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
        "metadata": {"name": "one-module", "namespace": name},
        "spec": {"spec": {"devices": {"requests": [
            {"name": "m", "exactly": {"deviceClassName": "npu-module.vnpu.dev"}},
        ]}}},
    });
    cluster.apply(&template.to_string())?;
    let api: Api<Pod> = Api::namespaced(cluster.client()?, name);
    let calls = requests(stack)?;
    let before = Taken::now(stack, controller)?;
    let begun = Instant::now();
    cluster.block_on(async {
        let create = |index: u32| {
            let api = api.clone();
            let pod = pod(fleet, index);
            async move {
                let pod: Pod = serde_json::from_value(pod)?;
                api.create(&PostParams::default(), &pod).await.context("creating a pod")?;
                anyhow::Ok(())
            }
        };
        stream::iter((0..pods).map(create)).buffer_unordered(16).try_collect::<Vec<()>>().await
    })?;
    let mut used = std::collections::BTreeSet::new();
    let mut bound = 0;
    while bound < pods as usize {
        ensure!(begun.elapsed() < PATIENCE, "{bound} of {pods} pods are bound");
        std::thread::sleep(Duration::from_millis(200));
        let list = cluster.block_on(async { api.list(&ListParams::default()).await })?;
        let nodes: Vec<String> = list.into_iter().filter_map(|p| p.spec.and_then(|s| s.node_name)).collect();
        bound = nodes.len();
        used = nodes.into_iter().collect();
    }
    let took = begun.elapsed();
    let processors = Taken::now(stack, controller)?.since(&before, took);
    let calls = (requests(stack)? - calls) / f64::from(pods);
    cluster.kubectl_ok(&["delete", "pods", "--all", "-n", name, "--grace-period=0", "--force"])?;
    cluster.wait_for("no claims", Duration::from_secs(300), || {
        let claims = cluster.kubectl_json(&["get", "resourceclaims", "-n", name])?;
        Ok(claims.get("items").and_then(Value::as_array).is_none_or(Vec::is_empty))
    })?;
    Ok(Measured {
        rate: f64::from(pods) / took.as_secs_f64(),
        calls,
        nodes_used: used.len(),
        used: processors,
    })
}

/// A pod of a batch of as many as a node has modules.
fn pod(fleet: &Fleet, index: u32) -> Value {
    let batch = format!("batch-{}", index / MODULES);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("pod-{index}"), "labels": {"vnpu.dev/batch": batch},
            "annotations": {"vnpu.dev/batch-size": MODULES.to_string()},
        },
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "nodeSelector": {FLEET: fleet.name},
            "tolerations": [{"key": FLEET, "operator": "Exists"}],
            "resourceClaims": [{"name": "m", "resourceClaimTemplateName": "one-module"}],
            "containers": [{
                "name": "main", "image": "vnpu.dev/demo:latest", "imagePullPolicy": "Never",
                "resources": {"claims": [{"name": "m"}], "requests": {"cpu": "100m"}},
            }],
        },
    })
}

/// Requests that the API server has answered, watches and our own polling of pods aside.
fn requests(stack: &Stack) -> Result<f64> {
    let page = stack.cluster.kubectl_ok(&["get", "--raw", "/metrics"])?;
    let counted = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && !line.contains("verb=\"WATCH\"")
            && !line.contains("verb=\"LIST\"")
    };
    let value = |line: &str| line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok());
    Ok(page.lines().filter(counted).filter_map(value).sum())
}
