//! Applying the same file again: by every way that kubectl has, nothing changes, also what admission rewrote, and also
//! after its configuration changed.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::case::Case;
use crate::context::Context;
use crate::controllers::Altered;
use crate::doors::{WEBHOOK, create, exactly, part};
use crate::simulated::{claim, list, text};
use crate::written;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "admission/examples_applied_again",
        about: "every example applied twice, twice server-side, and no difference afterwards",
        run: examples_applied_again,
    },
    Case {
        name: "admission/claims_applied_again",
        about: "rewritten claims applied again by all ways stay as they are, also after the configuration changed",
        run: claims_applied_again,
    },
];

/// The ways, as arguments of kubectl. Each fails when it is refused; `diff` also when there is any difference.
const PLAIN: &[&str] = &["apply"];
const SERVER_SIDE: &[&str] = &["apply", "--server-side"];
const DIFF: &[&str] = &["diff"];
const SERVER_SIDE_DIFF: &[&str] = &["diff", "--server-side"];
/// From plain to server-side. Without force Kubernetes finds a conflict for every claim that leaves out what the API
/// server fills in, whoever its devices are of: lists are compared as a whole, and those stored have `count`.
const TAKEN_OVER: &[&str] = &["apply", "--server-side", "--force-conflicts"];

/// What is applied plainly from the beginning.
const PLAINLY: &[&[&str]] =
    &[PLAIN, PLAIN, DIFF, TAKEN_OVER, SERVER_SIDE, SERVER_SIDE_DIFF, PLAIN, SERVER_SIDE, SERVER_SIDE_DIFF];
/// What is applied server-side from the beginning.
const BY_THE_SERVER: &[&[&str]] =
    &[SERVER_SIDE, SERVER_SIDE, SERVER_SIDE_DIFF, PLAIN, PLAIN, DIFF, SERVER_SIDE, SERVER_SIDE_DIFF];

fn examples_applied_again(context: &mut Context) -> Result<()> {
    context.controller()?;
    let examples = context.artefacts.repository.join("examples").display().to_string();
    once_and_again(context, PLAINLY, &["-R", "-f", &examples, "-n", &context.namespace], None)?;
    let other = format!("{}-server-side", context.namespace);
    context.cluster.kubectl_ok(&["create", "namespace", &other])?;
    let outcome = once_and_again(context, BY_THE_SERVER, &["-R", "-f", &examples, "-n", &other], None);
    context.cluster.kubectl_ok(&[
        "delete",
        "pods",
        "--all",
        "-n",
        &other,
        "--grace-period=1",
        "--timeout=60s",
    ])?;
    context.cluster.kubectl_ok(&["delete", "namespace", &other, "--wait=false"])?;
    outcome
}

/// Applies what `file` names by each of the ways.
fn once_and_again(context: &Context, ways: &[&[&str]], file: &[&str], input: Option<&str>) -> Result<()> {
    for (number, way) in ways.iter().enumerate() {
        said(context, way, file, input).with_context(|| format!("step {}, {}", number + 1, way.join(" ")))?;
    }
    Ok(())
}

/// What a command printed that must succeed.
fn said(context: &Context, way: &[&str], file: &[&str], input: Option<&str>) -> Result<String> {
    let output = kubectl(context, way, file, input)?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let told: Vec<&str> = error.lines().filter(|l| l.contains("conflict") || l.contains("rror")).collect();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = if told.is_empty() { error.clone() } else { told.join("\n") };
    ensure!(output.status.success(), "{told}{printed}");
    Ok(printed)
}

fn kubectl(context: &Context, way: &[&str], file: &[&str], input: Option<&str>) -> Result<Output> {
    let arguments = [way, file].concat();
    context.cluster.kubectl_as(&context.cluster.kubeconfig(), &arguments, input)
}

/// Claims that admission rewrites, in one file.
fn rewritten(prefix: &str) -> Value {
    let many = |name: &str, more: Value| {
        let name = format!("{prefix}-{name}");
        claim(&name, &json!({"devices": {"requests": [exactly("npu", "npu.vnpu.dev", more)]}}))
    };
    let share = |name: &str| exactly(name, "npu.vnpu.dev", part("4Gi", "10"));
    let shares = json!({"devices": {"requests": [share("a"), share("b"), share("c")]}});
    let model = r#"device.attributes["vnpu.dev"].model == "910C""#;
    json!({"apiVersion": "v1", "kind": "List", "items": [
        many("pair", json!({"count": 2})),
        many("four", json!({"count": 4})),
        many("eight", json!({"count": 8, "selectors": [{"cel": {"expression": model}}]})),
        many("odd", json!({"count": 3})),
        many("memory", json!({"capacity": {"requests": {"memory": "8Gi"}}})),
        claim(&format!("{prefix}-shares"), &shares),
    ]})
}

fn document(odd: &str, cores: u32) -> Value {
    json!({
        "apiVersion": "vnpu.dev/v1alpha1", "kind": "ControllerConfig",
        "oddPolicy": odd, "defaults": {"cores": cores},
    })
}

fn claims_applied_again(context: &mut Context) -> Result<()> {
    let controller = Altered::of(context)?;
    controller.restart_configured(&document("round-up", 5))?;
    let input = ["-n", &context.namespace, "-f", "-"];
    let habits = [("plain", PLAINLY), ("server", BY_THE_SERVER)];
    let habits = habits.map(|(prefix, ways)| (rewritten(prefix).to_string(), ways));
    for (file, ways) in &habits {
        once_and_again(context, ways.get(..1).unwrap_or_default(), &input, Some(file))?;
    }
    let first = stored(context)?;
    ensure!(
        first.len() == 12 && first.iter().all(|(_, hash, _)| !hash.is_empty()),
        "not rewritten: {first:?}"
    );
    let odd = first.iter().find(|(name, _, _)| name == "plain-odd").context("no odd claim")?;
    let wanted = written::as_modules("npu", 2, 3, &[], &json!({"allocationMode": "ExactCount"}));
    ensure!(odd.2.pointer("/devices/requests/0") == Some(&wanted), "three chips became {}", odd.2);
    let again = |when: &str| -> Result<()> {
        for (file, ways) in &habits {
            once_and_again(context, ways, &input, Some(file)).with_context(|| when.to_owned())?;
        }
        let now = stored(context)?;
        ensure!(now == first, "{when}: stored is\n{now:?}\nafter\n{first:?}");
        Ok(())
    };
    again("at once")?;

    controller.configure(&document("reject", 1), "/oddPolicy")?;
    let new = claim(
        "new",
        &json!({"devices": {"requests": [exactly("npu", "npu.vnpu.dev", json!({"count": 3}))]}}),
    );
    create(context, &new)?.refused(WEBHOOK, &["3 chips are no whole modules"])?;
    again("after oddPolicy and defaults changed")?;

    // Whoever replaces them takes nothing away from whoever applies them.
    let (file, _) = &habits[0];
    once_and_again(context, &[&["replace"], SERVER_SIDE, SERVER_SIDE_DIFF], &input, Some(file))?;
    ensure!(stored(context)? == first, "replaced by the same, they are others");

    controller.configure(&document("single-die", 1), "/oddPolicy")?;
    let answer = create(context, &new)?;
    ensure!(answer.warnings.iter().any(|w| w.contains("no whole modules")), "warned: {:?}", answer.warnings);
    let new = answer.stored()?;
    let selector = text(&new, "/spec/devices/requests/0/exactly/selectors/0/cel/expression");
    ensure!(selector == r#"device.attributes["vnpu.dev"].dies == 1"#, "three chips became {new}");

    // A file that says something else is answered by the API server.
    let other = json!({"devices": {"requests": [exactly("npu", "npu.vnpu.dev", json!({"count": 6}))]}});
    let output = kubectl(context, PLAIN, &input, Some(&claim("plain-pair", &other).to_string()))?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && error.contains("immutable"), "another wish: {error}");
    Ok(())
}

/// Names, hashes and specifications of the case's claims.
fn stored(context: &Context) -> Result<Vec<(String, String, Value)>> {
    let row = |claim: &Value| {
        let hash = text(claim, "/metadata/annotations/vnpu.dev~1submitted").to_owned();
        (text(claim, "/metadata/name").to_owned(), hash, claim.get("spec").cloned().unwrap_or_default())
    };
    Ok(list(context, "resourceclaims")?.iter().map(row).collect())
}
