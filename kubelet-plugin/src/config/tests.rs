use clap::Parser as _;

use super::{Args, ConfigError, NodeConfig, Settings, VendorName, parse_file};

fn settings(extra: &[&str]) -> Result<Settings, ConfigError> {
    let args = [&["vnpu-kubelet-plugin"], extra].concat();
    Settings::from_args(Args::try_parse_from(args).unwrap())
}

#[test]
fn a_node_name_is_all_that_is_needed() {
    let settings = settings(&["--node-name", "node-1"]).unwrap();
    assert_eq!(settings.node.as_str(), "node-1");
    assert_eq!(settings.file, NodeConfig::default());
    assert_eq!(settings.args.cdi_dir.to_str(), Some("/var/run/cdi"));
}

#[test]
fn what_cannot_be_used_is_said_with_the_flag() {
    let error = |extra: &[&str]| settings(extra).unwrap_err().to_string();
    assert!(error(&[]).contains("--node-name"));
    assert!(error(&["--node-name", "Node_1"]).contains("--node-name"));
    assert!(error(&["--node-name", "n", "--pod-uid", "../x"]).contains("--pod-uid"));
    assert!(error(&["--node-name", "n", "--admin-address", "here"]).contains("--admin-address"));
    assert!(error(&["--node-name", "n", "--cdi-dir", "cdi"]).contains("--cdi-dir"));
    assert!(error(&["--node-name", "n", "--log-format", "xml"]).contains("plain or json"));
    assert!(error(&["--node-name", "n", "--config", "/nonexistent"]).contains("/nonexistent"));
    assert!(settings(&["--node-name", "n", "--admin-address", ""]).unwrap().admin.is_none());
}

#[test]
fn the_file_is_strict() {
    let head = "apiVersion: vnpu.dev/v1alpha1\nkind: NodeConfig\n";
    assert_eq!(parse_file(&format!("{head}concurrency: 8\n")).unwrap().concurrency, 8);
    assert!(parse_file(&format!("{head}concurency: 8\n")).unwrap_err().contains("concurency"));
    assert!(parse_file(&format!("{head}concurrency: 0\n")).unwrap_err().contains("1 to 256"));
    let vendors = |text: &str| parse_file(&format!("{head}vendors: {text}\n")).map(|config| config.vendors);
    assert_eq!(vendors("[nvidia]"), Ok(vec![VendorName::Nvidia]));
    assert!(vendors("[]").unwrap_err().contains("vendors is empty"));
    assert!(vendors("[amd]").unwrap_err().contains("amd"));
    assert!(parse_file("apiVersion: vnpu.dev/v1\nkind: NodeConfig\n").unwrap_err().contains("vnpu.dev/v1 "));
    assert!(parse_file("kind: NodeConfig\n").is_err());
}

#[test]
fn the_schema_names_every_field() {
    let schema = super::schema();
    for field in [
        "apiVersion",
        "kind",
        "vendors",
        "discoverySeconds",
        "reconcileSeconds",
        "agentSeconds",
        "concurrency",
        "overheadMib",
        "breachRounds",
    ] {
        assert!(schema.contains(field), "{field}");
    }
}
