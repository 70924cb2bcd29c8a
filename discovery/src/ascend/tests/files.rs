//! Device nodes, driver files, `/sys`, the search for the library.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use vnpu_driver::hardware::{Chip, Health, PciAddress, Traits};
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::Bytes;

use crate::ascend::edits::edits;
use crate::ascend::search;
use crate::error::DiscoveryError;
use crate::sysfs;

fn chip(phys_id: u32) -> Chip {
    Chip {
        card: 0,
        die: phys_id,
        uuid: DeviceUuid::new(format!("u{phys_id}")).unwrap(),
        module: Some(0),
        model: "910C".to_owned(),
        product_name: String::new(),
        memory: Bytes::gib(64),
        phys_id,
        pci: None,
        numa_node: None,
        pcie_root: None,
        health: Health::Healthy,
        traits: Traits::default(),
    }
}

/// A dev root whose nodes lead to a real character device.
fn dev(root: &Path, nodes: &[&str]) {
    fs::create_dir_all(root).unwrap();
    for node in nodes {
        symlink("/dev/null", root.join(node)).unwrap();
    }
}

#[test]
fn a_container_gets_its_chips_nodes_first_then_the_control_nodes_that_exist() {
    let root = tempfile::tempdir().unwrap();
    dev(&root.path().join("dev"), &["davinci3", "davinci5", "davinci7", "davinci_manager", "hisi_hdc"]);
    let edits = edits(root.path(), &root.path().join("dev"), &[chip(5), chip(3)]).unwrap();
    let inside: Vec<_> =
        edits.device_nodes.iter().map(|node| node.container_path.to_str().unwrap()).collect();
    assert_eq!(inside, ["/dev/davinci5", "/dev/davinci3", "/dev/davinci_manager", "/dev/hisi_hdc"]);
    assert_eq!(edits.device_nodes[0].host_path, root.path().join("dev/davinci5"));
}

#[test]
fn driver_files_that_exist_are_seen_at_their_standard_places() {
    let root = tempfile::tempdir().unwrap();
    dev(&root.path().join("dev"), &["davinci_manager"]);
    fs::create_dir_all(root.path().join("usr/local/Ascend/driver/lib64")).unwrap();
    fs::create_dir_all(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/ascend_install.info"), "").unwrap();
    let edits = edits(root.path(), &root.path().join("dev"), &[]).unwrap();
    let mounts: Vec<_> = edits.mounts.iter().map(|mount| mount.container_path.to_str().unwrap()).collect();
    assert_eq!(mounts, ["/usr/local/Ascend/driver/lib64", "/etc/ascend_install.info"]);
    assert_eq!(edits.mounts[0].host_path, root.path().join("usr/local/Ascend/driver/lib64"));
}

#[test]
fn a_missing_or_false_node_is_named() {
    let root = tempfile::tempdir().unwrap();
    dev(root.path(), &["davinci_manager"]);
    fs::write(root.path().join("davinci1"), "").unwrap();
    for phys_id in [0, 1] {
        let error = edits(Path::new("/nonexistent"), root.path(), &[chip(phys_id)]).unwrap_err();
        assert_eq!(error.reason(), "device_node_missing");
        assert!(error.to_string().contains(&format!("davinci{phys_id}")), "{error}");
    }
}

#[test]
fn without_the_manager_node_nothing_is_usable() {
    let root = tempfile::tempdir().unwrap();
    dev(root.path(), &["davinci0"]);
    assert!(edits(Path::new("/nonexistent"), root.path(), &[chip(0)]).is_err());
}

#[test]
fn numa_node_and_root_come_from_the_kernel() {
    let root = tempfile::tempdir().unwrap();
    let address = PciAddress { domain: 0, bus: 0x81, device: 0, function: 0 };
    assert_eq!(sysfs::numa_node(root.path(), address), None);
    let device = root.path().join("devices/pci0000:80/0000:80:02.0/0000:81:00.0");
    fs::create_dir_all(&device).unwrap();
    fs::create_dir_all(root.path().join("bus/pci/devices")).unwrap();
    symlink(
        "../../../devices/pci0000:80/0000:80:02.0/0000:81:00.0",
        root.path().join("bus/pci/devices/0000:81:00.0"),
    )
    .unwrap();
    for (text, node) in [("1\n", Some(1)), ("0\n", Some(0)), ("-1\n", None), ("x", None)] {
        fs::write(device.join("numa_node"), text).unwrap();
        assert_eq!(sysfs::numa_node(root.path(), address), node);
    }
    assert_eq!(sysfs::pcie_root(root.path(), address).as_deref(), Some("pci0000:80"));
}

#[test]
fn the_library_is_looked_for_below_the_driver_root_unless_named() {
    let root = tempfile::tempdir().unwrap();
    let error = search::find(None, root.path()).unwrap_err();
    let DiscoveryError::LibraryMissing { searched, .. } = &error else { panic!("{error}") };
    assert_eq!(searched[0], root.path().join("usr/local/dcmi/libdcmi.so"));
    assert!(error.retryable() && error.to_string().contains("--dcmi-library"));
    let place = root.path().join("usr/local/dcmi/libdcmi.so");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, "").unwrap();
    assert_eq!(search::find(None, root.path()).unwrap(), place);
    assert!(search::find(Some(Path::new("/nonexistent/libdcmi.so")), root.path()).is_err());
}
