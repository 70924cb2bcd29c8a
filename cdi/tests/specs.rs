//! Proves that what we write is what the reference reader takes, and that what it would refuse is never written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

use vnpu_cdi::{
    CdiDir, CdiError, ContainerEdits, Device, DeviceNode, Hook, Mount, Spec, qualified_name, validate,
};

const UID: &str = "0f2c1d3e-1111-4222-8333-444455556666";

fn device(name: &str) -> Device {
    Device {
        name: name.to_owned(),
        container_edits: ContainerEdits {
            device_nodes: vec![DeviceNode {
                path: "/dev/davinci0".into(),
                host_path: Some("/srv/dev/davinci0".into()),
                kind: Some("c".into()),
                permissions: Some("rw".into()),
                ..DeviceNode::default()
            }],
            mounts: vec![Mount::bind("/usr/local/dcmi", "/usr/local/dcmi", false)],
            ..ContainerEdits::default()
        },
        ..Device::default()
    }
}

fn spec() -> Spec {
    Spec::new("vnpu.dev/claim", vec![device(&format!("{UID}-npu-0")), device(&format!("{UID}-npu-1"))])
}

#[test]
fn a_written_file_is_read_by_the_reference_library_and_looks_like_this() {
    let dir = tempfile::tempdir().unwrap();
    let cdi = CdiDir::open(dir.path(), "vnpu.dev/claim").unwrap();
    let bytes = cdi.write(UID, &spec()).unwrap();
    insta::assert_snapshot!(String::from_utf8(bytes.clone()).unwrap());

    let path = dir.path().join(format!("vnpu.dev-claim_{UID}.json"));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let reference = container_device_interface::spec::read_spec(&path, 0).unwrap();
    assert_eq!(reference.get_devices().len(), 2);
    assert_eq!(cdi.read(UID).unwrap().unwrap(), spec());
    assert_eq!(qualified_name(&spec().kind, &spec().devices[0].name), format!("vnpu.dev/claim={UID}-npu-0"));
}

#[test]
fn annotations_raise_the_version_and_an_older_one_is_refused() {
    let mut spec = spec();
    assert_eq!(spec.cdi_version, "0.5.0");
    spec.devices[0].annotations.insert("vnpu.dev/share".into(), "1".into());
    assert_eq!(spec.minimum_version(), "0.6.0");
    assert!(validate(&spec).unwrap_err().to_string().contains("0.6.0"));
}

#[test]
fn what_readers_refuse_is_refused_here() {
    type Break = fn(&mut Spec);
    let cases: [(&str, Break); 16] = [
        ("no device", |s| s.devices.clear()),
        ("empty edits", |s| s.devices[0].container_edits = ContainerEdits::default()),
        ("same name twice", |s| s.devices[1].name = s.devices[0].name.clone()),
        ("slash in a name", |s| s.devices[0].name = "a/b".into()),
        ("name ends with a dash", |s| s.devices[0].name = "a-".into()),
        ("empty name", |s| s.devices[0].name.clear()),
        ("kind without class", |s| s.kind = "vnpu.dev".into()),
        ("vendor starts with a digit", |s| s.kind = "1pu.dev/claim".into()),
        ("unknown version", |s| s.cdi_version = "9.9.9".into()),
        ("env without value", |s| s.devices[0].container_edits.env.push("A".into())),
        ("env without key", |s| s.devices[0].container_edits.env.push("=b".into())),
        ("relative device", |s| s.devices[0].container_edits.device_nodes[0].path = "dev/x".into()),
        ("steps back", |s| s.devices[0].container_edits.mounts[0].container_path = "/run/../etc".into()),
        ("unknown device type", |s| s.devices[0].container_edits.device_nodes[0].kind = Some("x".into())),
        ("unknown permission", |s| {
            s.devices[0].container_edits.device_nodes[0].permissions = Some("rwx".into());
        }),
        ("unknown hook", |s| {
            s.container_edits.hooks.push(Hook {
                hook_name: "now".into(),
                path: "/x".into(),
                ..Hook::default()
            });
        }),
    ];
    for (name, break_it) in cases {
        let mut broken = spec();
        break_it(&mut broken);
        assert!(validate(&broken).is_err(), "{name} was let through");
    }
    validate(&spec()).unwrap();
}

#[test]
fn unknown_fields_are_refused_on_reading() {
    let dir = tempfile::tempdir().unwrap();
    let cdi = CdiDir::open(dir.path(), "vnpu.dev/claim").unwrap();
    std::fs::write(cdi.file("x").unwrap(), r#"{"cdiVersion":"0.5.0","kind":"a/b","devices":[],"more":1}"#)
        .unwrap();
    assert!(cdi.read("x").unwrap_err().to_string().contains("more"));
}

#[test]
fn writing_again_replaces_and_removing_twice_is_success() {
    let dir = tempfile::tempdir().unwrap();
    let cdi = CdiDir::open(dir.path(), "vnpu.dev/claim").unwrap();
    cdi.write(UID, &spec()).unwrap();
    let one = Spec::new("vnpu.dev/claim", vec![device("one")]);
    cdi.write(UID, &one).unwrap();
    assert_eq!(cdi.read(UID).unwrap().unwrap(), one);
    assert!(cdi.remove(UID).unwrap());
    assert!(!cdi.remove(UID).unwrap());
    assert_eq!(cdi.read(UID).unwrap(), None);
}

#[test]
fn only_our_files_are_listed_and_only_our_temporaries_removed() {
    let dir = tempfile::tempdir().unwrap();
    let cdi = CdiDir::open(dir.path(), "vnpu.dev/claim").unwrap();
    cdi.write(UID, &spec()).unwrap();
    for other in ["nvidia.com-gpu.json", "vnpu.dev-claim_x.1.tmp", "spec.2.tmp"] {
        std::fs::write(dir.path().join(other), "{}").unwrap();
    }
    assert_eq!(cdi.list().unwrap().iter().map(|f| f.id.as_str()).collect::<Vec<_>>(), [UID]);
    assert_eq!(cdi.remove_temporaries().unwrap(), 1);
    assert!(dir.path().join("spec.2.tmp").exists());
}

#[test]
fn hostile_identifiers_never_become_paths() {
    let dir = tempfile::tempdir().unwrap();
    let cdi = CdiDir::open(dir.path(), "vnpu.dev/claim").unwrap();
    let long = "a".repeat(400);
    for id in ["", "..", "../x", "a/b", "a\0b", ".hidden", "a b", long.as_str()] {
        assert!(matches!(cdi.write(id, &spec()), Err(CdiError::Name(_))), "{id:?}");
        assert!(matches!(cdi.remove(id), Err(CdiError::Name(_))), "{id:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_vanished_is_an_error_that_can_be_retried_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cdi = CdiDir::open(dir.path().join("cdi"), "vnpu.dev/claim").unwrap();
    std::fs::remove_dir(cdi.path()).unwrap();
    let error = cdi.write(UID, &spec()).unwrap_err();
    assert!(error.retryable());
    assert_eq!(error.reason(), "cdi_io");
}

#[test]
fn a_full_filesystem_is_told_apart() {
    let error = |kind| CdiErrorProbe::of(kind);
    assert_eq!(error(rustix::io::Errno::NOSPC), "cdi_full");
    assert_eq!(error(rustix::io::Errno::DQUOT), "cdi_full");
    assert_eq!(error(rustix::io::Errno::ACCESS), "cdi_not_writable");
    assert_eq!(error(rustix::io::Errno::ROFS), "cdi_not_writable");
}

/// Classifies through the public path: `From` is private, so the classification is asked of `io::ErrorKind`.
struct CdiErrorProbe;

impl CdiErrorProbe {
    fn of(errno: rustix::io::Errno) -> &'static str {
        CdiError::from_system(std::path::Path::new("/cdi"), errno.into()).reason()
    }
}

#[test]
fn a_file_where_the_directory_should_be_is_named_as_that() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cdi");
    std::fs::write(&path, "a file").unwrap();
    for path in [path.clone(), path.join("below")] {
        let error = CdiDir::open(&path, "vnpu.dev/claim").unwrap_err();
        assert_eq!(error.reason(), "cdi_no_directory", "{error}");
        assert!(error.retryable() && error.to_string().contains("--cdi-dir"), "{error}");
    }
}
