//! Admission on a real API server and before the real scheduler: what people write is admitted in a form that cannot
//! straddle, or refused with the form to write.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::batches::wait_bound;
use crate::case::Case;
use crate::context::Context;
use crate::controllers::Altered;
use crate::doors::{
    Answer, CLAIM_GUARD, WEBHOOK, Wish, admit_administrative_access, allocations, create, create_with,
    exactly, fleet, on_fleet, part, pod_on, template, use_halves, wait_answering,
};
use crate::simulated::{PATIENCE, apply, claim, get, list, text, with};
use crate::written::{self, Becomes, Row, as_modules};
use vnpu_e2e_stack::Fleet;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "admission/nothing_straddles_through_any_door",
        about: "what people write gets its devices on nodes with half-used modules, and no claim straddles",
        run: nothing_straddles_through_any_door,
    },
    Case {
        name: "admission/refused_doors_say_what_to_write",
        about: "claims, templates and pods that cannot be mended are refused by the webhook, with what to write",
        run: refused_doors_say_what_to_write,
    },
    Case {
        name: "admission/what_becomes_of_claims",
        about: "the table row by row: what is stored, which warnings kubectl prints; the same through v1beta1 and v1beta2",
        run: what_becomes_of_claims,
    },
    Case {
        name: "admission/a_dry_run_leaves_nothing",
        about: "a dry run shows what would be stored, and nothing is stored or planned",
        run: a_dry_run_leaves_nothing,
    },
    Case {
        name: "admission/certificates_made_anew",
        about: "the webhooks answer on when their Secret is deleted, and again when a controller has made a new one",
        run: certificates_made_anew,
    },
];

const NPU: &str = "npu.vnpu.dev";
const MODULE: &str = "npu-module.vnpu.dev";
const IMPLICIT: &str = "deviceclass.resource.kubernetes.io/npu.vnpu.dev";

/// A class that the guard and the webhook have never heard of: what it gets is what everybody would.
const UNKNOWN: &str = "doors-unknown-to-the-guard";

/// Wishes that get devices, with the number of chips (a share counts as one, a module as two).
fn doors() -> Vec<(&'static str, Wish, usize)> {
    let chip = |name: &str| exactly(name, NPU, json!({}));
    let share = |name: &str| exactly(name, NPU, part("4Gi", "10"));
    let many = |count: u32| Wish::requests(json!([exactly("npu", NPU, json!({"count": count}))]));
    let alternatives = |list: Value| json!({"requests": [{"name": "npu", "firstAvailable": list}]});
    let module = json!({"name": "modules", "deviceClassName": MODULE, "count": 2});
    let gpus = json!({"name": "gpus", "deviceClassName": "gpu.vnpu.dev", "count": 4});
    let pair = json!({"name": "pair", "deviceClassName": NPU, "count": 2});
    let matched = json!([{"matchAttribute": "vnpu.dev/module"}]);
    let matched_pair = with(alternatives(json!([pair])), "", "constraints", matched.clone());
    let template =
        with(json!({"requests": [exactly("npu", NPU, json!({"count": 2}))]}), "", "constraints", matched);
    let share_pair = with(part("4Gi", "10"), "", "count", json!(2));
    let admin = exactly("watch", NPU, json!({"count": 2, "adminAccess": true}));
    let modules = json!({"deviceclass.resource.kubernetes.io/npu-module.vnpu.dev": "1"});
    vec![
        ("pair", many(2), 2),
        ("two-requests", Wish::requests(json!([chip("a"), chip("b")])), 2),
        ("three-requests", Wish::requests(json!([chip("a"), chip("b"), chip("c")])), 3),
        ("four", many(4), 4),
        ("six", many(6), 6),
        ("eight", many(8), 8),
        ("pair-of-shares", Wish::requests(json!([exactly("npu", NPU, share_pair)])), 2),
        ("two-shares", Wish::requests(json!([share("a"), share("b")])), 2),
        ("four-shares", Wish::requests(json!([share("a"), share("b"), share("c"), share("d")])), 4),
        ("chip-and-share", Wish::requests(json!([chip("a"), share("b")])), 2),
        (
            "memory-only",
            Wish::requests(json!([exactly(
                "npu",
                NPU,
                json!({"capacity": {"requests": {"memory": "8Gi"}}})
            )])),
            1,
        ),
        ("first-available", Wish::Claim(alternatives(json!([module, gpus]))), 4),
        ("first-available-pair", Wish::Claim(matched_pair), 2),
        ("pair-in-a-template", Wish::Template(template), 2),
        ("one-of-any", Wish::requests(json!([exactly("any", "accelerator.vnpu.dev", json!({}))])), 1),
        ("module-and-chip", Wish::requests(json!([exactly("m", MODULE, json!({})), chip("a")])), 3),
        ("administration", Wish::requests(json!([admin, chip("a")])), 3),
        ("modules-by-name", Wish::Limits(vec![json!({"vnpu.dev/npu-module": "2"})]), 4),
        ("modules-in-two-containers", Wish::Limits(vec![modules.clone(), modules]), 4),
        ("one-chip-by-name", Wish::Limits(vec![json!({IMPLICIT: "1"})]), 1),
    ]
}

fn nothing_straddles_through_any_door(context: &mut Context) -> Result<()> {
    context.controller()?;
    let controller = Altered::of(context)?;
    let doors = doors();
    let nodes = fleet("doors", doors.len() + 1)?;
    let outcome = on_fleet(context, &nodes, || {
        admit_administrative_access(context)?;
        use_halves(context, &nodes)?;
        first_fit_would_straddle(context, &controller, &nodes)?;
        let mut objects = Vec::new();
        for (index, (name, wish, _)) in doors.iter().enumerate() {
            objects.extend(wish.objects(&nodes, u32::try_from(index)?, name));
        }
        apply(context, objects.into_iter().map(|o| labelled(o, "tried")).collect())?;
        wait_bound(context, "door=tried", doors.len())?;
        let got = allocations(context)?;
        for (name, _, chips) in &doors {
            let claims = got.get(*name).with_context(|| format!("{name} got nothing: {got:?}"))?;
            let devices: Vec<&String> = claims.iter().flat_map(|c| &c.devices).collect();
            let held: usize = devices.iter().map(|d| if d.starts_with("module") { 2 } else { 1 }).sum();
            println!(
                "        {name:<26} {}",
                devices.iter().map(|d| d.as_str()).collect::<Vec<_>>().join(" ")
            );
            ensure!(held == *chips, "{name} holds {held} chips, wanted {chips}: {devices:?}");
            ensure!(claims.iter().all(|c| c.straddles.is_empty()), "{name} straddles: {claims:?}");
        }
        straddling(context, &controller, 0)
    });
    context.cluster.kubectl_ok(&["delete", "deviceclass", UNKNOWN, "--ignore-not-found"])?;
    outcome
}

/// On the last node: the same wish by a class that nobody guards straddles, and the auditor sees it. So what the
/// others get is not luck.
fn first_fit_would_straddle(context: &Context, controller: &Altered<'_>, nodes: &Fleet) -> Result<()> {
    let expression = r#"device.driver == "vnpu.dev" && device.attributes["vnpu.dev"].type == "chip""#;
    let class = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": UNKNOWN},
        "spec": {"selectors": [{"cel": {"expression": expression}}]},
    });
    let wish = Wish::requests(json!([exactly("npu", UNKNOWN, json!({"count": 2}))]));
    let objects = wish.objects(nodes, nodes.nodes - 1, "unguarded").into_iter().map(|o| labelled(o, "none"));
    apply(context, std::iter::once(class).chain(objects).collect())?;
    wait_bound(context, "door=none", 1)?;
    let got = allocations(context)?;
    let unguarded = got.get("unguarded").context("the unguarded claim got nothing")?;
    ensure!(
        unguarded.iter().any(|c| c.straddles == [0, 1]),
        "first-fit does not straddle here: {unguarded:?}"
    );
    straddling(context, controller, 1)?;
    context.kubectl(&["delete", "pod", "unguarded", "--force", "--grace-period=0"])?;
    context.kubectl(&["delete", "resourceclaim", "unguarded", "--timeout=60s"]).map(drop)
}

/// Waits until the auditor counts so many claims that straddle.
fn straddling(context: &Context, controller: &Altered<'_>, wanted: usize) -> Result<()> {
    let line = format!("vnpu_straddling_claims {wanted}");
    context.cluster.wait_for(&format!("the auditor to count {wanted} straddling claims"), PATIENCE, || {
        Ok(controller.page("/metrics")?.lines().any(|l| l == line))
    })
}

fn labelled(object: Value, value: &str) -> Value {
    with(object, "/metadata", "labels", json!({"door": value}))
}

fn refused_doors_say_what_to_write(context: &mut Context) -> Result<()> {
    context.controller()?;
    let mut wrong = Vec::new();
    let mut check = |name: &str, answer: Answer, whom: &str, words: &[&str]| {
        if let Err(error) = answer.refused(whom, words) {
            wrong.push(format!("{name}: {error:#}"));
        }
    };
    for row in written::refused() {
        let Becomes::Refused(words) = row.becomes else { continue };
        let answer = create(context, &claim(row.name, &json!({"devices": row.devices})))?;
        check(row.name, answer, WEBHOOK, words);
    }
    let two = json!({"requests": [exactly("npu", NPU, json!({"count": 2}))]});
    let one_each = json!({"requests": [exactly("a", NPU, json!({})), exactly("b", NPU, json!({}))]});
    for (name, devices, words) in [
        ("template-of-two", two, "2 chips may be one chip each of two modules"),
        ("template-of-one-each", one_each, "two by two"),
    ] {
        let denied = "admission webhook \"templates.vnpu.dev\" denied the request";
        // Both refuse it; what validates runs side by side, and either may be the first.
        let answer = create(context, &template(name, &devices))?;
        let whom = if answer.refused(denied, &[]).is_ok() { denied } else { CLAIM_GUARD };
        check(name, answer, whom, &[words]);
    }
    let units = |amount: &str| json!({IMPLICIT: amount});
    let any = json!({"deviceclass.resource.kubernetes.io/accelerator.vnpu.dev": "2"});
    let nowhere = fleet("nowhere", 0)?;
    let pod = |name: &str, limits: &[Value]| pod_on(&nowhere, 0, name, Vec::new(), limits);
    let init = pod("init-and-main", &[units("1")]);
    let container = init.pointer("/spec/containers/0").cloned().unwrap_or_default();
    let init = with(init, "/spec", "initContainers", json!([with(container, "", "name", json!("init"))]));
    for (name, pod) in [
        ("two-units", pod("two-units", &[units("2")])),
        ("two-containers", pod("two-containers", &[units("1"), units("1")])),
        ("two-of-any", pod("two-of-any", &[any])),
        ("init-and-main", init),
    ] {
        let answer = create(context, &pod)?;
        check(name, answer, "\"pods.vnpu.dev\" denied the request", &["2 chips", "vnpu.dev/npu-module"]);
    }
    ensure!(wrong.is_empty(), "{} went wrong:\n{}", wrong.len(), wrong.join("\n"));
    let left = [list(context, "resourceclaims")?, list(context, "pods")?].concat();
    ensure!(left.is_empty(), "something refused is there: {left:?}");
    Ok(())
}

fn what_becomes_of_claims(context: &mut Context) -> Result<()> {
    context.controller()?;
    admit_administrative_access(context)?;
    let served = context.cluster.kubectl_ok(&["api-versions"])?;
    let mut wrong = Vec::new();
    for row in written::admitted() {
        let stored = create(context, &claim(row.name, &json!({"devices": row.devices})));
        if let Err(error) = stored.and_then(|answer| judge(&row, answer)) {
            wrong.push(format!("{}: {error:#}", row.name));
            continue;
        }
        for version in ["v1beta1", "v1beta2"] {
            let group = format!("resource.k8s.io/{version}");
            if !served.lines().any(|l| l == group) {
                context.part_not_run(version, "the server does not serve it");
                continue;
            }
            let old = if version == "v1beta1" { as_v1beta1(&row.devices) } else { row.devices.clone() };
            let name = format!("{}-{version}", row.name);
            let object = with(claim(&name, &json!({"devices": old})), "", "apiVersion", json!(group));
            create(context, &object)?.stored().with_context(|| name.clone())?;
            let (old, new) =
                (get(context, "resourceclaim", &name)?, get(context, "resourceclaim", row.name)?);
            for pointer in ["/spec", "/metadata/annotations"] {
                if old.pointer(pointer) != new.pointer(pointer) {
                    wrong.push(format!("{name}: {pointer} is {:?}", old.pointer(pointer)));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{} rows went wrong:\n{}", wrong.len(), wrong.join("\n"));
    templates_are_only_warned_about(context)
}

fn templates_are_only_warned_about(context: &Context) -> Result<()> {
    let memory = json!({"capacity": {"requests": {"memory": "8Gi"}}});
    let devices = json!({"requests": [exactly("npu", NPU, memory)]});
    let answer = create(context, &template("memory-only", &devices))?;
    let words = "of the claims made from it: request \"npu\": memory without cores gets cores: 1";
    ensure!(answer.warnings.iter().any(|w| w.contains(words)), "a template warned: {:?}", answer.warnings);
    let stored = answer.stored()?;
    let same = stored.pointer("/spec/spec/devices") == Some(&defaulted(&devices));
    ensure!(same && stored.pointer("/metadata/annotations").is_none(), "a template was changed: {stored}");
    Ok(())
}

/// Compares what was stored and said with the row.
fn judge(row: &Row, answer: Answer) -> Result<()> {
    let warnings = answer.warnings.clone();
    let words = row.warned;
    let same = warnings.len() == words.len() && warnings.iter().zip(words).all(|(w, word)| w.contains(word));
    ensure!(same, "kubectl printed {warnings:?}, wanted {words:?}");
    let object = answer.stored()?;
    let annotated = !text(&object, "/metadata/annotations/vnpu.dev~1submitted").is_empty();
    let (wanted, changed) = match &row.becomes {
        Becomes::Stored(devices) => (devices, true),
        _ => (&row.devices, false),
    };
    let (stored, wanted) = (object.pointer("/spec/devices").cloned().unwrap_or_default(), defaulted(wanted));
    ensure!(stored == wanted, "stored {stored}\nwanted {wanted}");
    ensure!(
        annotated == changed,
        "the annotation vnpu.dev/submitted: {:?}",
        object.pointer("/metadata/annotations")
    );
    Ok(())
}

/// With what the API server fills in.
fn defaulted(devices: &Value) -> Value {
    let mut devices = devices.clone();
    let fill = |ask: &mut Value| {
        let Some(ask) = ask.as_object_mut() else { return };
        let all = ask.entry("allocationMode").or_insert_with(|| json!("ExactCount")) == "All";
        if !all {
            ask.entry("count").or_insert_with(|| json!(1));
        }
    };
    for request in devices.pointer_mut("/requests").and_then(Value::as_array_mut).into_iter().flatten() {
        request.pointer_mut("/exactly").into_iter().for_each(fill);
        let list = request.pointer_mut("/firstAvailable").and_then(Value::as_array_mut);
        list.into_iter().flatten().for_each(fill);
    }
    devices
}

/// `devices` as v1beta1 writes them: the fields of `exactly` in the request itself.
fn as_v1beta1(devices: &Value) -> Value {
    let mut devices = devices.clone();
    for request in devices.pointer_mut("/requests").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(fields) = request.as_object_mut() else { continue };
        if let Some(Value::Object(exactly)) = fields.remove("exactly") {
            fields.extend(exactly);
        }
    }
    devices
}

fn a_dry_run_leaves_nothing(context: &mut Context) -> Result<()> {
    context.controller()?;
    let controller = Altered::of(context)?;
    let planned = || controller.page("/debug/placement");
    let before = planned()?;
    let dry = ["--dry-run=server"];
    let four = claim("four", &json!({"devices": {"requests": [exactly("npu", NPU, json!({"count": 4}))]}}));
    let answer = create_with(context, &four, &dry)?;
    ensure!(answer.warnings.iter().any(|w| w.contains("4 chips become 2")), "{:?}", answer.warnings);
    let shown = answer.stored()?;
    let wanted = defaulted(&json!({"requests": [as_modules("npu", 2, 4, &[], &json!({}))]}));
    ensure!(shown.pointer("/spec/devices") == Some(&wanted), "a dry run shows {shown}");
    let three = claim("three", &json!({"devices": {"requests": [exactly("npu", NPU, json!({"count": 3}))]}}));
    create_with(context, &three, &dry)?.refused(WEBHOOK, &["3 chips are no whole modules"])?;
    // What the pod asks for is there: it would be decided about at once, and be told that no node has it.
    apply(context, vec![template("module", &json!({"requests": [exactly("npu", MODULE, json!({}))]}))])?;
    let nowhere = fleet("nowhere", 0)?;
    let source = vec![json!({"name": "npu", "resourceClaimTemplateName": "module"})];
    let pod = create_with(context, &pod_on(&nowhere, 0, "dry", source, &[json!({})]), &dry)?.stored()?;
    ensure!(
        text(&pod, "/spec/schedulingGates/0/name") == "vnpu.dev/placement",
        "a dry run shows the pod without its gate: {pod}"
    );
    // As people do it.
    let apply = ["apply", "--dry-run=server", "-n", &context.namespace, "-f", "-"];
    let output =
        context.cluster.kubectl_as(&context.cluster.kubeconfig(), &apply, Some(&four.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(said.contains("four created (server dry run)"), "kubectl apply says {said}");
    std::thread::sleep(Duration::from_secs(1));
    let left = [list(context, "resourceclaims")?, list(context, "pods")?, list(context, "events")?].concat();
    ensure!(left.is_empty(), "a dry run left {left:?}");
    let after = planned()?;
    ensure!(before == after, "a dry run was planned: {after}");
    Ok(())
}

fn certificates_made_anew(context: &mut Context) -> Result<()> {
    const SECRET: &[&str] = &["secret", "vnpu-controller-tls", "-n", "vnpu-system"];
    let controller = Altered::of(context)?;
    wait_answering(context, PATIENCE)?;
    let secret = || -> Result<Option<Value>> {
        let found = context.cluster.kubectl(&[&["get"], SECRET, &["-o", "json"]].concat())?;
        if found.status.success() { Ok(Some(serde_json::from_slice(&found.stdout)?)) } else { Ok(None) }
    };
    let bundle = || {
        let path = "jsonpath={.webhooks[*].clientConfig.caBundle}";
        context.cluster.kubectl_ok(&["get", "mutatingwebhookconfiguration", "vnpu-controller", "-o", path])
    };
    let (old, trusted) = (secret()?.context("there is no Secret")?, bundle()?);
    context.cluster.kubectl_ok(&[&["delete"], SECRET].concat())?;
    // Who runs has them still.
    let pair = claim("asked", &json!({"devices": {"requests": [exactly("npu", NPU, json!({"count": 2}))]}}));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        create_with(context, &pair, &["--dry-run=server"])?.stored().context("without the Secret")?;
    }
    // Who starts makes others, and API servers trust those.
    controller.stop()?;
    context.cluster.kubectl_ok(&[&["delete", "--ignore-not-found"], SECRET].concat())?;
    controller.start()?;
    let answering = wait_answering(context, Duration::from_secs(60))?;
    println!("        it answers {answering:.1?} after it is ready");
    let new = secret()?.context("the Secret was not made anew")?;
    ensure!(new.get("data") != old.get("data"), "the certificates are the old ones");
    ensure!(bundle()? != trusted, "API servers trust whom they trusted before");
    create(context, &pair)?.stored().map(drop)
}
