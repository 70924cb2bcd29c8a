//! How much a node holds: the smallest shares until nothing is left, and one more.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::case::Case;
use crate::context::Context;
use crate::simulated::{self, PATIENCE, list, names, text};

pub(crate) const CASES: &[Case] = &[Case {
    name: "capacity/a_module_holds_128_shares",
    about: "128 shares of (1Gi, 1 %) on a module of 2 x 64Gi are prepared, the 129th pends until one ends",
    run: a_module_holds_128_shares,
}];

const NODE: &str = "sim-one-module";
const SHARES: usize = 128;

fn a_module_holds_128_shares(context: &mut Context) -> Result<()> {
    let node = simulated::node(context, NODE, 1)?;
    let template = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": "smallest"},
        "spec": {"spec": simulated::share("1Gi", "1")},
    });
    let pod = |n: usize| {
        let source = json!({"resourceClaimTemplateName": "smallest"});
        simulated::pod(&format!("share-{n}"), NODE, &[("npu", source)])
    };
    let mut objects = vec![template];
    objects.extend((1..=SHARES).map(pod));
    simulated::apply(context, objects)?;
    let mut running = 0;
    let waited = context.cluster.wait_for("128 running pods", PATIENCE, || {
        running = list(context, "pods")?.iter().filter(|p| text(p, "/status/phase") == "Running").count();
        Ok(running == SHARES)
    });
    waited.map_err(|error| error.context(format!("{running} of {SHARES} pods run")))?;

    let claims = list(context, "resourceclaims")?;
    let used = consumed(&claims)?;
    let whole = BTreeMap::from([("chip-0-0".to_owned(), (64, 64)), ("chip-0-1".to_owned(), (64, 64))]);
    ensure!(used == whole, "the claims' results consume (Gi, %): {used:?}");
    let uids: BTreeSet<&str> = claims.iter().map(|c| text(c, "/metadata/uid")).collect();
    let files: BTreeSet<String> = uids.iter().map(|uid| format!("vnpu.dev-claim_{uid}.json")).collect();
    ensure!(files.len() == SHARES, "{} claims", files.len());
    ensure!(names(&node.handle.cdi) == files, "CDI files: {:?}", names(&node.handle.cdi));
    let regions = names(&node.handle.runtime.join("claims"));
    ensure!(regions.iter().map(String::as_str).eq(uids.iter().copied()), "regions: {regions:?}");

    simulated::apply(context, vec![pod(SHARES + 1)])?;
    let reason = wait_pending(context, "share-129")?;
    println!("        the 129th: {reason}");
    ensure!(reason.contains("cannot allocate all claims"), "the scheduler's reason: {reason}");
    simulated::wait_event(context, "share-129", "FailedScheduling", &["cannot allocate all claims"])?;
    context.kubectl(&["delete", "pod", "share-7", "--timeout=60s"])?;
    context.wait_pod("share-129", "Running", PATIENCE)?;
    simulated::clear(context, &node)
}

/// What the claims' results consume of each device, in GiB and percent.
fn consumed(claims: &[Value]) -> Result<BTreeMap<String, (u64, u64)>> {
    let mut used: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for claim in claims {
        let results = claim.pointer("/status/allocation/devices/results").and_then(Value::as_array);
        for result in results.into_iter().flatten() {
            let (memory, cores) =
                (text(result, "/consumedCapacity/memory"), text(result, "/consumedCapacity/cores"));
            ensure!((memory, cores) == ("1Gi", "1"), "a result consumes {memory} and {cores}");
            let device = used.entry(text(result, "/device").to_owned()).or_default();
            *device = (device.0 + 1, device.1 + 1);
        }
    }
    Ok(used)
}

/// Waits until the scheduler has said no, and returns its words.
fn wait_pending(context: &Context, pod: &str) -> Result<String> {
    let mut reason = String::new();
    context.cluster.wait_for(&format!("the scheduler's word on {pod}"), PATIENCE, || {
        let object = simulated::get(context, "pod", pod)?;
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array).cloned();
        let refused = conditions
            .into_iter()
            .flatten()
            .find(|c| text(c, "/type") == "PodScheduled" && text(c, "/reason") == "Unschedulable");
        // Before the claim is made from its template the scheduler waits for that.
        reason = refused.map(|c| text(&c, "/message").to_owned()).unwrap_or_default();
        Ok(!reason.is_empty() && !reason.contains("resourceclaim to be created"))
    })?;
    Ok(reason)
}
