//! One example: applied, waited for, and compared with its `expect.yaml`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use vnpu_driver::quantity::Quantity;
use vnpu_e2e_stack::Stack;

/// How long an example's pods may take.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Expectation {
    #[serde(default)]
    pods: Vec<PodExpectation>,
    #[serde(default)]
    claims: Vec<ClaimExpectation>,
    same_device: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PodExpectation {
    name: String,
    phase: Option<String>,
    container: Option<String>,
    #[serde(default)]
    logs: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ClaimExpectation {
    name: Option<String>,
    pod: Option<String>,
    pod_claim: Option<String>,
    #[serde(default)]
    extended_resource: bool,
    devices: Option<Vec<String>>,
    requests: Option<Vec<String>>,
    modules: Option<usize>,
    #[serde(default)]
    consumed: BTreeMap<String, String>,
    #[serde(default)]
    attributes: BTreeMap<String, Value>,
    reserved_for: Option<Vec<String>>,
}

/// Applies one example into `namespace` and asserts what it expects.
///
/// # Errors
/// With the first expectation that does not hold and what was there instead.
pub(crate) fn run(stack: &Stack, namespace: &str, example: &Path) -> Result<()> {
    let name = example.file_name().and_then(|n| n.to_str()).context("an example has a name")?;
    let file = example.join(format!("{name}.yaml"));
    let text = std::fs::read_to_string(example.join("expect.yaml")).context("reading expect.yaml")?;
    let expected: Expectation = serde_saphyr::from_str(&text).context("expect.yaml is not of its format")?;
    let file = file.to_str().context("a path in UTF-8")?;
    stack.cluster.kubectl_ok(&["apply", "-n", namespace, "-f", file])?;
    for pod in &expected.pods {
        check_pod(stack, namespace, pod).with_context(|| format!("pod {}", pod.name))?;
    }
    let published = published(stack)?;
    let mut all_devices = Vec::new();
    for claim in &expected.claims {
        let object = find_claim(stack, namespace, claim)?;
        let label = object["metadata"]["name"].as_str().unwrap_or("?").to_owned();
        check_claim(claim, &object, &published).with_context(|| format!("claim {label}: {object}"))?;
        all_devices.extend(results(&object).map(device_of));
    }
    let different: BTreeSet<_> = all_devices.iter().collect();
    match expected.same_device {
        Some(true) => ensure!(different.len() == 1, "one device was expected, there are {different:?}"),
        Some(false) => {
            ensure!(different.len() == all_devices.len(), "a device is used twice: {all_devices:?}")
        }
        None => {}
    }
    Ok(())
}

fn check_pod(stack: &Stack, namespace: &str, pod: &PodExpectation) -> Result<()> {
    let phase = pod.phase.as_deref().unwrap_or("Running");
    let begun = Instant::now();
    loop {
        let now = stack.cluster.pod_phase(namespace, &pod.name)?;
        if now == phase {
            break;
        }
        let ended = matches!(now.as_str(), "Succeeded" | "Failed");
        if ended || begun.elapsed() > PATIENCE {
            let described = stack.cluster.describe_pod(namespace, &pod.name);
            let logs = stack.cluster.kubectl(&["logs", "-n", namespace, &pod.name, "--all-containers"])?;
            bail!(
                "it is {now}, {phase} was expected\n{described}\nlogs:\n{}",
                String::from_utf8_lossy(&logs.stdout)
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    for pattern in &pod.logs {
        let pattern = Regex::new(pattern).with_context(|| format!("the pattern {pattern:?}"))?;
        let mut arguments = vec!["logs", "-n", namespace, &pod.name];
        arguments.extend(pod.container.iter().flat_map(|c| ["-c", c.as_str()]));
        let mut logs = String::new();
        let found = stack.cluster.wait_for("the log line", Duration::from_secs(20), || {
            logs = stack.cluster.kubectl_ok(&arguments)?;
            Ok(pattern.is_match(&logs))
        });
        found.with_context(|| format!("nothing in the logs matches {pattern}:\n{logs}"))?;
    }
    Ok(())
}

/// What nodes publish: (pool, device) to device.
fn published(stack: &Stack) -> Result<BTreeMap<(String, String), Value>> {
    let slices = stack.cluster.kubectl_json(&["get", "resourceslices"])?;
    let mut devices = BTreeMap::new();
    for slice in slices["items"].as_array().into_iter().flatten() {
        let pool = slice["spec"]["pool"]["name"].as_str().unwrap_or_default();
        for device in slice["spec"]["devices"].as_array().into_iter().flatten() {
            let name = device["name"].as_str().unwrap_or_default();
            devices.insert((pool.to_owned(), name.to_owned()), device.clone());
        }
    }
    Ok(devices)
}

fn find_claim(stack: &Stack, namespace: &str, claim: &ClaimExpectation) -> Result<Value> {
    let name = match (&claim.name, &claim.pod) {
        (Some(name), None) => name.clone(),
        (None, Some(pod)) => {
            let pod = stack.cluster.kubectl_json(&["get", "pod", "-n", namespace, pod])?;
            let status = &pod["status"];
            let name = if claim.extended_resource {
                &status["extendedResourceClaimStatus"]["resourceClaimName"]
            } else {
                let statuses = status["resourceClaimStatuses"].as_array();
                let wanted = claim.pod_claim.as_deref();
                statuses
                    .into_iter()
                    .flatten()
                    .find(|s| wanted.is_none() || s["name"].as_str() == wanted)
                    .map_or(&Value::Null, |s| &s["resourceClaimName"])
            };
            name.as_str()
                .with_context(|| format!("the pod's status names no such claim: {status}"))?
                .to_owned()
        }
        _ => bail!("a claim is expected by its name or by a pod: {claim:?}"),
    };
    stack.cluster.kubectl_json(&["get", "resourceclaim", "-n", namespace, &name])
}

fn results(claim: &Value) -> impl Iterator<Item = &Value> {
    claim["status"]["allocation"]["devices"]["results"].as_array().into_iter().flatten()
}

fn device_of(result: &Value) -> (String, String) {
    let text = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
    (text("pool"), text("device"))
}

fn check_claim(
    expected: &ClaimExpectation,
    claim: &Value,
    published: &BTreeMap<(String, String), Value>,
) -> Result<()> {
    let devices: Vec<String> = results(claim).map(|r| device_of(r).1).collect();
    if let Some(patterns) = &expected.devices {
        let mut left = devices.clone();
        for pattern in patterns {
            let anchored = Regex::new(&format!("^(?:{pattern})$"))?;
            let at = left.iter().position(|d| anchored.is_match(d));
            left.remove(at.with_context(|| format!("no device matches {pattern}: {devices:?}"))?);
        }
        ensure!(left.is_empty(), "more devices than expected: {left:?}");
    }
    if let Some(requests) = &expected.requests {
        let mut wanted = requests.clone();
        let mut found: Vec<String> =
            results(claim).map(|r| r["request"].as_str().unwrap_or_default().to_owned()).collect();
        wanted.sort();
        found.sort();
        ensure!(found == wanted, "requests {found:?}, expected {wanted:?}");
    }
    let mut modules = BTreeSet::new();
    for result in results(claim) {
        let key = device_of(result);
        let device = published.get(&key).with_context(|| format!("{key:?} is not published"))?;
        modules.insert(attribute(device, "module").to_string());
        for (name, value) in &expected.attributes {
            let found = attribute(device, name);
            ensure!(&found == value, "attribute {name} of {key:?} is {found}, expected {value}");
        }
        for (capacity, amount) in &expected.consumed {
            let found = result["consumedCapacity"][capacity].as_str().unwrap_or_default();
            let same = found.parse::<Quantity>().ok().zip(amount.parse::<Quantity>().ok());
            ensure!(
                same.is_some_and(|(found, amount)| found == amount),
                "consumedCapacity {capacity} is {found:?}, expected {amount}"
            );
        }
    }
    if let Some(count) = expected.modules {
        ensure!(modules.len() == count, "modules {modules:?}, expected {count} of them");
    }
    if let Some(pods) = &expected.reserved_for {
        let found = claim["status"]["reservedFor"].as_array().into_iter().flatten();
        let found: BTreeSet<&str> = found.filter_map(|r| r["name"].as_str()).collect();
        let wanted: BTreeSet<&str> = pods.iter().map(String::as_str).collect();
        ensure!(found == wanted, "reserved for {found:?}, expected {wanted:?}");
    }
    Ok(())
}

/// The value of an attribute of ours, whichever of the API's types it has.
fn attribute(device: &Value, name: &str) -> Value {
    let of = |key: &str| device["attributes"][key].as_object().and_then(|o| o.values().next()).cloned();
    of(name).or_else(|| of(&format!("vnpu.dev/{name}"))).unwrap_or(Value::Null)
}
