//! The key changes with everything that decides the outcome, and with nothing else.

use std::fs;
use std::path::Path;

use crate::{Module, key, repo_root};

fn checkout(root: &Path) {
    fs::create_dir_all(root.join("e2e/cluster/cmd/one")).unwrap();
    fs::create_dir_all(root.join("e2e/runtime")).unwrap();
    for module in ["cluster", "runtime"] {
        fs::write(root.join(format!("e2e/{module}/go.mod")), "module x\n").unwrap();
        fs::write(root.join(format!("e2e/{module}/go.sum")), "").unwrap();
    }
    fs::write(root.join("e2e/cluster/cmd/one/main.go"), "package main\n").unwrap();
}

#[test]
fn key_is_stable_and_depends_on_compiler_and_sums() {
    let dir = tempfile::tempdir().unwrap();
    checkout(dir.path());
    let first = key(Module::Cluster, dir.path(), "go1").unwrap();
    assert_eq!(first, key(Module::Cluster, dir.path(), "go1").unwrap());
    assert_ne!(first, key(Module::Cluster, dir.path(), "go2").unwrap());
    fs::write(dir.path().join("e2e/cluster/go.sum"), "more").unwrap();
    assert_ne!(first, key(Module::Cluster, dir.path(), "go1").unwrap());
}

#[test]
fn own_sources_change_the_key_of_tools_only() {
    let dir = tempfile::tempdir().unwrap();
    checkout(dir.path());
    let before = Module::ALL.map(|m| key(m, dir.path(), "go1").unwrap());
    fs::write(dir.path().join("e2e/cluster/cmd/one/main.go"), "package main // x\n").unwrap();
    let after = Module::ALL.map(|m| key(m, dir.path(), "go1").unwrap());
    let changed: Vec<_> = Module::ALL
        .iter()
        .zip(before.iter().zip(&after))
        .filter(|(_, (b, a))| b != a)
        .map(|(m, _)| *m)
        .collect();
    assert_eq!(changed, [Module::Tools]);
}

#[test]
fn key_does_not_depend_on_where_the_checkout_lies() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkout(a.path());
    checkout(b.path());
    for module in Module::ALL {
        assert_eq!(key(module, a.path(), "go1").unwrap(), key(module, b.path(), "go1").unwrap());
    }
}

#[test]
fn flags_name_the_kubernetes_version_of_go_mod() {
    let text = fs::read_to_string(repo_root().join("e2e/cluster/go.mod")).unwrap();
    let pinned = text.split("k8s.io/kubernetes ").nth(1).unwrap().split_whitespace().next().unwrap();
    let steps = Module::Cluster.steps(&repo_root()).unwrap();
    assert!(steps[0].arguments.iter().any(|a| a.contains(&format!("gitVersion={pinned}"))));
}
