use clap::Parser as _;
use vnpu_driver::health::{Action, HealthPolicy};

use super::{Args, ConfigError, KnownVendor, NodeConfig, Settings, parse_file};

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
fn descriptions_are_named_with_commas_or_again() {
    let both =
        [&["--node-name", "n", "--generic-devices", "acme=/etc/a"], &["--generic-devices", "zeta=/b"][..]]
            .concat();
    let named = |extra: &[&str]| -> Vec<String> {
        settings(extra).unwrap().args.generic_devices.iter().map(ToString::to_string).collect()
    };
    assert_eq!(named(&both), ["acme=/etc/a", "zeta=/b"]);
    assert_eq!(
        named(&["--node-name", "n", "--generic-devices", "acme=/etc/a,zeta=/b"]),
        ["acme=/etc/a", "zeta=/b"]
    );
    assert!(named(&["--node-name", "n"]).is_empty());
    for wrong in ["acme", "acme=etc/a", "Acme=/a", "nvidia=/a"] {
        let args = ["vnpu-kubelet-plugin", "--node-name", "n", "--generic-devices", wrong];
        assert!(Args::try_parse_from(args).unwrap_err().to_string().contains("--generic-devices"), "{wrong}");
    }
}

#[test]
fn what_cannot_be_used_is_said_with_the_flag() {
    let error = |extra: &[&str]| settings(extra).unwrap_err().to_string();
    assert!(error(&[]).contains("--node-name"));
    assert!(error(&["--node-name", "Node_1"]).contains("--node-name"));
    assert!(error(&["--node-name", "n", "--pod-uid", "../x"]).contains("--pod-uid"));
    assert!(error(&["--node-name", "n", "--admin-address", "here"]).contains("--admin-address"));
    assert!(error(&["--node-name", "n", "--cdi-dir", "cdi"]).contains("--cdi-dir"));
    let twice = error(&["--node-name", "n", "--generic-devices", "acme=/etc/a,acme=/etc/b"]);
    assert!(twice.contains("acme is named twice (/etc/a and /etc/b)"), "{twice}");
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
    assert_eq!(vendors("[nvidia]"), Ok(vec![KnownVendor::Nvidia]));
    assert!(vendors("[]").unwrap_err().contains("vendors is empty"));
    assert!(vendors("[amd]").unwrap_err().contains("amd"));
    assert!(parse_file("apiVersion: vnpu.dev/v1\nkind: NodeConfig\n").unwrap_err().contains("vnpu.dev/v1 "));
    assert!(parse_file("kind: NodeConfig\n").is_err());
}

#[test]
fn what_faults_mean_is_written_in_rules() {
    let read = |text: &str| {
        parse_file(&format!("apiVersion: vnpu.dev/v1alpha1\nkind: NodeConfig\nhealth: {text}\n"))
    };
    let wrong = |text: &str| read(text).unwrap_err();
    let config = read(
        "{recoverySeconds: 5, unknownSeconds: 0, rules: [{vendor: nvidia, codes: [xid-79], action: evict}]}",
    );
    let settings = Settings { file: config.unwrap(), ..settings(&["--node-name", "n"]).unwrap() };
    let policy = settings.health_policy();
    assert_eq!((policy.recovery.as_secs(), policy.eviction.as_secs(), policy.unknown), (5, 30, None));
    assert_eq!(policy.rules[0].action, Action::Evict);
    assert_eq!(settings_without_a_file().health_policy(), HealthPolicy::default());
    assert!(wrong("{recoverySeconds: 0}").contains("health.recoverySeconds is 0"));
    assert!(wrong("{rules: [{codes: [], action: evict}]}").contains("rule 1 of health has no codes"));
    assert!(
        wrong("{rules: [{codes: [a, 'b*c'], action: evict}]}")
            .contains(r#"rule 1 of health: "b*c" is no code"#)
    );
    assert!(wrong("{rules: [{codes: [''], action: evict}]}").contains("is no code"));
    assert!(wrong("{rules: [{codes: [a], action: reboot}]}").contains("reboot"));
    assert!(wrong("{rules: [{codes: [a], action: ignore, vendor: No Vendor}]}").contains("No Vendor"));
    assert!(wrong("{recovery: 5}").contains("recovery"));
    assert!(
        read("{rules: [{codes: ['*'], action: ignore}, {codes: ['0x80*'], action: noSchedule}]}").is_ok()
    );
}

fn settings_without_a_file() -> Settings {
    settings(&["--node-name", "n"]).unwrap()
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
        "recoverySeconds",
        "evictAfterSeconds",
        "unknownSeconds",
        "codes",
        "action",
    ] {
        assert!(schema.contains(field), "{field}");
    }
}
