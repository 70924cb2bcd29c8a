//! The controller gone, hanging, or without a planner: what is help is missed, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::batches::{job, modules_template, wait_bound};
use crate::case::Case;
use crate::context::Context;
use crate::controllers::Altered;
use crate::doors::{
    CLAIM_GUARD, POD_GUARD, Wish, allocations, create, create_with, exactly, fleet, on_fleet, part, pod_on,
    use_halves, wait_answering,
};
use crate::simulated::{PATIENCE, apply, claim, list, text, with};
use vnpu_e2e_stack::{FLEET, Fleet};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "admission/without_the_controller",
        about: "with no controller others are not concerned, safe claims pass ungated, the guard refuses the others",
        run: without_the_controller,
    },
    Case {
        name: "admission/a_hanging_controller_holds_up_nobody_else",
        about: "with a controller that hangs pods without claims and others' claims are not delayed, ours by 2 s at most",
        run: a_hanging_controller_holds_up_nobody_else,
    },
    Case {
        name: "gate/without_a_planner",
        about: "where no planner leads, pods are not gated, and all of one controller prefer the same leaf; with one they are",
        run: without_a_planner,
    },
];

const NPU: &str = "npu.vnpu.dev";
const MODULE: &str = "npu-module.vnpu.dev";
/// What kubectl and the API server take at most, on a loaded machine; less than the webhooks' timeout of 2 s.
const PROMPT: Duration = Duration::from_millis(1500);
/// What one webhook call may take of it.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What is none of ours.
fn foreign() -> [Value; 2] {
    let gpus = json!({"devices": {"requests": [exactly("gpu", "gpu.example.com", json!({"count": 2}))]}});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "foreign"},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "main", "image": "example.com/app"}]},
    });
    [claim("foreign", &gpus), pod]
}

/// A pod that uses a claim of another driver. Of what its claim is for a pod says nothing, so the webhook is asked.
fn foreign_user() -> Value {
    let [_, pod] = foreign();
    let source = json!([{"name": "gpu", "resourceClaimName": "foreign"}]);
    with(pod, "/spec", "resourceClaims", source)
}

fn foreign_is_prompt(context: &Context) -> Result<()> {
    for object in foreign() {
        let answer = create_with(context, &object, &["--dry-run=server"])?;
        let took = answer.took;
        answer.stored()?;
        ensure!(took < PROMPT, "{} took {took:.1?}", text(&object, "/kind"));
    }
    Ok(())
}

/// Claims that are safe as they stand, and the chips that they get.
fn safe() -> Vec<(&'static str, Wish, usize)> {
    let pair = json!({
        "requests": [exactly("npu", NPU, json!({"count": 2}))],
        "constraints": [{"requests": ["npu"], "matchAttribute": "vnpu.dev/module"}],
    });
    let memory = exactly("npu", NPU, json!({"capacity": {"requests": {"memory": "8Gi"}}}));
    vec![
        ("one-chip", Wish::requests(json!([exactly("npu", NPU, json!({}))])), 1),
        ("one-share", Wish::requests(json!([exactly("npu", NPU, part("4Gi", "10"))])), 1),
        ("memory-only", Wish::requests(json!([memory])), 1),
        ("pair", Wish::Claim(pair.clone()), 2),
        ("pair-in-a-template", Wish::Template(pair), 2),
        ("modules", Wish::requests(json!([exactly("m", MODULE, json!({"count": 4}))])), 8),
        ("modules-by-name", Wish::Limits(vec![json!({"vnpu.dev/npu-module": "2"})]), 4),
    ]
}

fn without_the_controller(context: &mut Context) -> Result<()> {
    let controller = Altered::of(context)?;
    let wishes = safe();
    let nodes = fleet("orphans", wishes.len())?;
    on_fleet(context, &nodes, || {
        use_halves(context, &nodes)?;
        controller.stop()?;
        foreign_is_prompt(context)?;
        let user = create_with(context, &foreign_user(), &["--dry-run=server"])?;
        ensure!(user.took < PROMPT, "a pod with a claim of another driver took {:.1?}", user.took);
        user.stored()?;
        safe_pass(context, &nodes, &wishes)?;
        unsafe_are_refused(context, &nodes)?;
        controller.start()?;
        wait_answering(context, PATIENCE).map(drop)
    })
}

fn safe_pass(context: &Context, nodes: &Fleet, wishes: &[(&str, Wish, usize)]) -> Result<()> {
    for (index, (name, wish, _)) in wishes.iter().enumerate() {
        for object in wish.objects(nodes, u32::try_from(index)?, name) {
            let object = with(object, "/metadata", "labels", json!({"wish": "safe"}));
            let answer = create(context, &object)?;
            ensure!(answer.took < PROMPT, "{name} took {:.1?}", answer.took);
            let stored = answer.stored().with_context(|| (*name).to_owned())?;
            let untouched = text(&stored, "/metadata/annotations/vnpu.dev~1submitted").is_empty()
                && stored.pointer("/spec/schedulingGates").is_none()
                && stored.pointer("/spec/affinity").is_none();
            ensure!(untouched, "somebody was at {name}: {stored}");
        }
    }
    wait_bound(context, "wish=safe", wishes.len())?;
    let got = allocations(context)?;
    for (name, _, chips) in wishes {
        let claims = got.get(*name).with_context(|| format!("{name} got nothing"))?;
        let devices = claims.iter().flat_map(|c| &c.devices);
        let held: usize = devices.map(|d| if d.starts_with("module") { 2 } else { 1 }).sum();
        ensure!(held == *chips && claims.iter().all(|c| c.straddles.is_empty()), "{name} got {claims:?}");
    }
    Ok(())
}

fn unsafe_are_refused(context: &Context, nodes: &Fleet) -> Result<()> {
    let many = |count: u32| json!([exactly("npu", NPU, json!({"count": count}))]);
    let (a, b) = (exactly("a", NPU, json!({})), exactly("b", NPU, part("4Gi", "10")));
    for (requests, words) in [
        (many(2), "2 chips may be one chip each of two modules"),
        (many(3), "3 chips are no whole modules"),
        (many(4), "ask for 2 of npu-module.vnpu.dev"),
        (json!([a, b]), "two by two"),
    ] {
        let answer = create(context, &claim("refused", &json!({"devices": {"requests": requests}})))?;
        ensure!(answer.took < PROMPT, "took {:.1?}", answer.took);
        answer.refused(CLAIM_GUARD, &[words])?;
    }
    let unit = json!({"deviceclass.resource.kubernetes.io/npu.vnpu.dev": "1"});
    let pod = pod_on(nodes, 0, "refused", Vec::new(), &[unit.clone(), unit]);
    create(context, &pod)?.refused(POD_GUARD, &["2 chips", "vnpu.dev/npu-module"])
}

fn a_hanging_controller_holds_up_nobody_else(context: &mut Context) -> Result<()> {
    let controller = Altered::of(context)?;
    wait_answering(context, PATIENCE)?;
    controller.hang()?;
    foreign_is_prompt(context)?;
    let pair = json!({"devices": {"requests": [exactly("npu", NPU, json!({"count": 2}))]}});
    let chip = json!({"devices": {"requests": [exactly("npu", NPU, json!({}))]}});
    let refused = create(context, &claim("pair", &pair))?;
    refused.refused(CLAIM_GUARD, &["2 chips may be one chip each"])?;
    let made = create(context, &claim("chip", &chip))?;
    let nowhere = fleet("nowhere", 0)?;
    let source = vec![json!({"name": "npu", "resourceClaimName": "chip"})];
    let pod = create(context, &pod_on(&nowhere, 0, "hanging", source, &[json!({})]))?;
    let user = create_with(context, &foreign_user(), &["--dry-run=server"])?;
    println!(
        "        claims {:.1?} and {:.1?}, pod {:.1?}, pod with a claim of another driver {:.1?}",
        refused.took, made.took, pod.took, user.took
    );
    for answer in [&refused, &made, &pod, &user] {
        ensure!(answer.took < TIMEOUT + PROMPT, "it took {:.1?}", answer.took);
    }
    made.stored()?;
    user.stored()?;
    ensure!(
        pod.stored()?.pointer("/spec/schedulingGates").is_none(),
        "a pod is gated, and nobody releases it"
    );
    controller.wake()?;
    let answering = wait_answering(context, PATIENCE)?;
    println!("        it answers {answering:.1?} after it goes on");
    context.kubectl(&["delete", "pod", "hanging", "--force", "--grace-period=0"]).map(drop)
}

fn without_a_planner(context: &mut Context) -> Result<()> {
    let controller = Altered::of(context)?;
    controller.restart_with(&["--no-planner"])?;
    let nodes = Fleet { name: "unplanned".to_owned(), nodes: 8, modules: 8, per_leaf: 2, per_superpod: 2 };
    let own =
        json!([{"weight": 7, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}}]);
    on_fleet(context, &nodes, || {
        apply(context, vec![modules_template("module", 1)])?;
        wait_for_leaves(context, &nodes)?;
        let mut leaves = BTreeSet::new();
        for name in ["a", "b", "c"] {
            let made = job(&nodes, name, 4, "module", json!({}));
            let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": own}});
            apply(context, vec![with(made, "/spec/template/spec", "affinity", affinity)])?;
            leaves.insert(one_leaf(context, &nodes, name, &own)?);
        }
        println!("        leaves {leaves:?}");
        let alone = create(context, &anywhere(&nodes, "alone"))?.stored()?;
        ensure!(
            alone.pointer("/spec/schedulingGates").is_none() && alone.pointer("/spec/affinity").is_none(),
            "a pod of no controller was changed: {alone}"
        );
        let other = context.stack.start_controller(1, None)?;
        let outcome = another_leads(context, &nodes);
        context.cluster.stop_process(&other.name)?;
        outcome
    })
}

/// A pod that asks for a module of any node: one node alone may be full of what the Jobs got.
fn anywhere(nodes: &Fleet, name: &str) -> Value {
    let source = vec![json!({"name": "npu", "resourceClaimTemplateName": "module"})];
    let pod = pod_on(nodes, 0, name, source, &[json!({})]);
    with(pod, "/spec", "nodeSelector", json!({FLEET: nodes.name}))
}

/// The replica that answers does not lead, but knows that another one does: pods are gated, and that one places them.
fn another_leads(context: &Context, nodes: &Fleet) -> Result<()> {
    let pod = |name: &str| with(anywhere(nodes, name), "/metadata", "labels", json!({"pod": name}));
    context.cluster.wait_for("pods to be gated again", PATIENCE, || {
        let pod = create_with(context, &pod("planned"), &["--dry-run=server"])?.stored()?;
        Ok(text(&pod, "/spec/schedulingGates/0/name") == "vnpu.dev/placement")
    })?;
    create(context, &pod("planned"))?.stored()?;
    wait_bound(context, "pod=planned", 1).map(drop)
}

/// The webhook learns of nodes a moment after they are made.
fn wait_for_leaves(context: &Context, nodes: &Fleet) -> Result<()> {
    let owner = json!([{
        "apiVersion": "batch/v1", "kind": "Job", "name": "any", "uid": "11111111-2222-4333-8444-555555555555",
        "controller": true,
    }]);
    let source = vec![json!({"name": "npu", "resourceClaimTemplateName": "module"})];
    let pod = with(pod_on(nodes, 0, "any", source, &[json!({})]), "/metadata", "ownerReferences", owner);
    context.cluster.wait_for("the webhook to know the leaves", PATIENCE, || {
        let pod = create_with(context, &pod, &["--dry-run=server"])?.stored()?;
        Ok(pod.pointer("/spec/affinity").is_some())
    })
}

/// The leaf that all pods of the Job prefer and lie on.
fn one_leaf(context: &Context, nodes: &Fleet, name: &str, own: &Value) -> Result<String> {
    let bound = wait_bound(context, &format!("job={name}"), 4)?;
    let mut preferred = BTreeSet::new();
    for pod in list(context, "pods")?.iter().filter(|p| text(p, "/metadata/labels/job") == name) {
        ensure!(pod.pointer("/spec/schedulingGates").is_none(), "a pod is gated: {pod}");
        let list = "/spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution";
        ensure!(pod.pointer(&format!("{list}/0")) == own.get(0), "its own preference is gone: {pod}");
        let leaf = format!("{list}/1/preference/matchExpressions/0/values/0");
        preferred.insert(text(pod, &leaf).to_owned());
    }
    let lie = crate::batches::leaves(nodes, &bound);
    ensure!(preferred.len() == 1 && lie == preferred, "job {name} prefers {preferred:?} and lies on {lie:?}");
    preferred.pop_first().context("no leaf")
}
