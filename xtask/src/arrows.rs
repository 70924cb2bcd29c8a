//! The dependency arrows between our crates. What a crate may know of the others is decided here, in one
//! table, and every addition to it is a decision about the design.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{cargo_program, output};

/// Each shipped crate and the crates of ours it may use. Dev-dependencies are free: tests may look anywhere.
const ARROWS: &[(&str, &[&str])] = &[
    ("vnpu-driver", &[]),
    ("vnpu-quota-abi", &[]),
    ("vnpu-cdi", &[]),
    ("vnpu-proto", &[]),
    ("vnpu-telemetry", &[]),
    ("vnpu-daemon", &[]),
    ("vnpu-kube-types", &["vnpu-driver"]),
    ("vnpu-placement", &["vnpu-driver"]),
    ("vnpu-sim", &["vnpu-placement", "vnpu-driver"]),
    ("vnpu-discovery", &["vnpu-driver"]),
    ("vnpu-quota-agent", &["vnpu-quota-abi", "vnpu-driver"]),
    (
        "vnpu-kubelet-plugin",
        &[
            "vnpu-driver",
            "vnpu-kube-types",
            "vnpu-cdi",
            "vnpu-proto",
            "vnpu-discovery",
            "vnpu-quota-agent",
            "vnpu-telemetry",
            "vnpu-daemon",
        ],
    ),
    (
        "vnpu-controller",
        &["vnpu-driver", "vnpu-kube-types", "vnpu-placement", "vnpu-telemetry", "vnpu-daemon"],
    ),
    ("vnpu-preload", &["vnpu-quota-abi"]),
    ("vnpu-floor", &[]),
    ("vnpu-core", &["vnpu-quota-abi", "vnpu-floor"]),
    ("vnpu", &["vnpu-quota-agent", "vnpu-discovery", "vnpu-driver"]),
    ("kubectl-vnpu", &["vnpu-kube-types", "vnpu-driver", "vnpu-placement"]),
];

/// Crates for tests and chores, which may use everything and which nothing shipped may use.
const OUTSIDE: &[&str] = &["e2e", "xtask", "fuzz"];

/// Crates that only these may use: vendors, the API's types and the runtime stay at the edges.
const FOREIGN: &[(&str, &[&str])] = &[
    (
        "k8s-openapi",
        &["vnpu-kube-types", "vnpu-daemon", "vnpu-kubelet-plugin", "vnpu-controller", "kubectl-vnpu"],
    ),
    ("kube", &["vnpu-daemon", "vnpu-kubelet-plugin", "vnpu-controller", "kubectl-vnpu"]),
    ("libloading", &["vnpu-discovery"]),
];

/// Checks both workspaces.
pub(crate) fn run() -> Result<()> {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for manifest in ["Cargo.toml", "interposer/preload/Cargo.toml"] {
        let metadata = output(
            &cargo_program(),
            &["metadata", "--format-version=1", "--no-deps", "--manifest-path", manifest],
        )?;
        let metadata: Value = serde_json::from_str(&metadata).context("reading cargo metadata")?;
        let packages = metadata.get("packages").and_then(Value::as_array).context("no packages")?;
        seen += packages.len();
        wrong.extend(check(packages));
    }
    if !wrong.is_empty() {
        bail!("dependency arrows that must not be:\n  {}", wrong.join("\n  "));
    }
    println!("arrows: {seen} crates, all in order");
    Ok(())
}

/// What is wrong with these packages.
fn check(packages: &[Value]) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let ours: BTreeSet<&str> =
        packages.iter().filter_map(|p| text(p, "name")).chain(allowed.keys().copied()).collect();
    let mut wrong = Vec::new();
    for package in packages {
        let Some(name) = text(package, "name") else { continue };
        let path = text(package, "manifest_path").unwrap_or_default();
        if is_outside(path) {
            continue;
        }
        let Some(may) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the table of xtask/src/arrows.rs"));
            continue;
        };
        for dependency in package.get("dependencies").and_then(Value::as_array).into_iter().flatten() {
            let to = text(dependency, "name").unwrap_or_default();
            if text(dependency, "kind") == Some("dev") {
                continue;
            }
            if ours.contains(to) && !may.contains(&to) {
                wrong.push(format!("{name} -> {to}"));
            }
            for (foreign, users) in FOREIGN {
                if to == *foreign && !users.contains(&name) {
                    wrong.push(format!("{name} -> {to} (only {})", users.join(", ")));
                }
            }
        }
    }
    wrong
}

/// Whether a manifest lies in a folder of tests and chores.
fn is_outside(manifest: &str) -> bool {
    let root = vnpu_e2e_binaries::repo_root();
    let inside = std::path::Path::new(manifest).strip_prefix(&root).unwrap_or(std::path::Path::new(manifest));
    inside.components().next().is_some_and(|first| OUTSIDE.iter().any(|o| first.as_os_str() == *o))
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::check;

    #[test]
    fn an_arrow_outside_the_table_is_named() {
        let packages = [json!({"name": "vnpu-driver", "manifest_path": "driver/Cargo.toml",
            "dependencies": [{"name": "vnpu-cdi", "kind": null}, {"name": "serde", "kind": null}]})];
        assert_eq!(check(&packages), ["vnpu-driver -> vnpu-cdi"]);
    }

    #[test]
    fn tests_may_use_anything() {
        let packages = [json!({"name": "vnpu-driver", "manifest_path": "driver/Cargo.toml",
            "dependencies": [{"name": "vnpu-cdi", "kind": "dev"}]})];
        assert!(check(&packages).is_empty());
    }

    #[test]
    fn nothing_shipped_uses_the_harness() {
        let packages = [
            json!({"name": "vnpu-harness", "manifest_path": "e2e/harness/Cargo.toml", "dependencies": []}),
            json!({"name": "vnpu", "manifest_path": "cli/vnpu/Cargo.toml",
                "dependencies": [{"name": "vnpu-harness", "kind": null}]}),
        ];
        assert_eq!(check(&packages), ["vnpu -> vnpu-harness"]);
    }

    #[test]
    fn a_new_crate_must_enter_the_table() {
        let packages = [json!({"name": "vnpu-new", "manifest_path": "new/Cargo.toml", "dependencies": []})];
        assert_eq!(check(&packages).len(), 1);
    }
}
