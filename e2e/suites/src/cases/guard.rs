//! The guard on the real API server: every door of the design is refused with the reason, every legal form is
//! admitted, with none of our processes running.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::Value;
use vnpu_e2e_cases::{GuardCase, GuardVerdict};

use crate::case::Case;
use crate::context::Context;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "guard/policies_type_check",
        about: "the API server has no warning about the policies' expressions",
        run: policies_type_check,
    },
    Case {
        name: "guard/doors_are_shut_and_legal_forms_pass",
        about: "every file of e2e/guard-cases is refused with its message, or admitted",
        run: doors_are_shut_and_legal_forms_pass,
    },
    Case {
        name: "guard/own_classes_are_guarded_once_named",
        about: "classes of the administrator's own fall under the guard when the ConfigMap names them",
        run: own_classes_are_guarded_once_named,
    },
];

/// Fewer cases than this means that a folder was not found.
const FEWEST: usize = 100;

fn policies_type_check(context: &mut Context) -> Result<()> {
    let policies = context.cluster.kubectl_json(&["get", "validatingadmissionpolicies"])?;
    let items = policies.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    ensure!(!items.is_empty(), "no policy is installed");
    for policy in &items {
        let name = policy.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("?").to_owned();
        let mut last = Value::Null;
        context.cluster.wait_for(
            &format!("policy {name} to be type-checked"),
            Duration::from_secs(60),
            || {
                last = context.cluster.kubectl_json(&["get", "validatingadmissionpolicy", &name])?;
                Ok(last.pointer("/status/observedGeneration") == last.pointer("/metadata/generation"))
            },
        )?;
        let warnings = last.pointer("/status/typeChecking/expressionWarnings");
        ensure!(warnings.is_none(), "policy {name}: {warnings:?}");
    }
    Ok(())
}

fn doors_are_shut_and_legal_forms_pass(context: &mut Context) -> Result<()> {
    let directory = context.artefacts.repository.join("e2e/guard-cases");
    let cases = GuardCase::load(&directory)?;
    ensure!(cases.len() >= FEWEST, "only {} cases in {}", cases.len(), directory.display());
    try_all(context, &cases)
}

fn own_classes_are_guarded_once_named(context: &mut Context) -> Result<()> {
    let directory = context.artefacts.repository.join("e2e/guard-cases/own-classes");
    let cases = GuardCase::load(&directory)?;
    let classes = directory.join("classes.yaml");
    context.cluster.apply_path(&classes)?;
    let outcome = wait_for_parameter(context, &cases).and_then(|()| try_all(context, &cases));
    let shipped = context.artefacts.repository.join("deploy/manifests/12-guard-classes.yaml");
    let shipped = shipped.display().to_string();
    context.cluster.kubectl_ok(&["replace", "-f", &shipped])?;
    outcome
}

/// The API server watches the ConfigMap; it has seen it when the first refused case is refused.
fn wait_for_parameter(context: &Context, cases: &[GuardCase]) -> Result<()> {
    let refused =
        cases.iter().find(|c| matches!(c.verdict, GuardVerdict::Refused(_)) && c.name.contains("own"));
    let Some(refused) = refused else { bail!("there is no refused case") };
    admit_administrative_access(context)?;
    context.cluster.wait_for("the guard to know the classes", Duration::from_secs(20), || {
        let arguments = refused.kubectl(&context.namespace);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Ok(!context.cluster.kubectl(&arguments)?.status.success())
    })
}

fn admit_administrative_access(context: &Context) -> Result<()> {
    let label = "resource.kubernetes.io/admin-access=true";
    context.cluster.kubectl_ok(&["label", "namespace", &context.namespace, label, "--overwrite"]).map(drop)
}

fn try_all(context: &Context, cases: &[GuardCase]) -> Result<()> {
    admit_administrative_access(context)?;
    let served = context.cluster.kubectl_ok(&["api-versions"])?;
    let (mut tried, mut refused, mut wrong) = (0, 0, Vec::new());
    for case in cases {
        if let Some(needs) = case.needs.as_deref().filter(|n| !served.lines().any(|l| l == *n)) {
            context.part_not_run(&case.name, &format!("the server does not serve {needs}"));
            continue;
        }
        let arguments = case.kubectl(&context.namespace);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = context.cluster.kubectl(&arguments)?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        tried += 1;
        refused += usize::from(!output.status.success());
        if let Err(sentence) = case.judge(output.status.success(), &said) {
            wrong.push(sentence);
        }
    }
    println!("        {tried} objects tried, {refused} refused, {} admitted", tried - refused);
    ensure!(wrong.is_empty(), "{} cases went wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}
