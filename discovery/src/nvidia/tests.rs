//! Parts of the NVIDIA backend that need no library: names, links, files, device nodes. Passes are tested over the
//! stand-in library, in `tests/nvidia.rs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use vnpu_driver::hardware::{Chip, Health, Partition, PciAddress, Traits};
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::{Bytes, Percent};

use super::edits::{Places, edits};
use super::files::driver_files;
use super::links::{Links, groups};
use super::model::model;
use super::search::{self, Driver};
use super::{Nvidia, NvidiaOptions};
use crate::Backend;

#[test]
fn models_are_the_words_that_people_use() {
    for (product, expected) in [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 NVL", "H100"),
        ("NVIDIA H100 PCIe", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla T4", "T4"),
        ("NVIDIA RTX A6000", "A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA GeForce GTX 1080 Ti", "GTX1080"),
        ("NVIDIA TITAN V", "TITAN V"),
        ("4090", "4090"),
        ("NVIDIA", ""),
        ("", ""),
    ] {
        assert_eq!(model(product), expected, "{product:?}");
    }
}

fn address(bus: u8) -> PciAddress {
    PciAddress { domain: 0, bus, device: 0, function: 0 }
}

#[test]
fn links_make_groups_by_the_smallest_uuid_in_them() {
    let links = |own: Option<u8>, ends: &[u8]| Links {
        own: own.map(address),
        ends: ends.iter().map(|bus| address(*bus)).collect(),
    };
    let (a, b, c, d, e) = (
        links(Some(1), &[9]),
        links(Some(2), &[9, 8]),
        links(None, &[8]),
        links(Some(4), &[77]),
        links(Some(5), &[]),
    );
    let found = groups(&[("z", &a), ("y", &b), ("x", &c), ("w", &d), ("v", &e)]);
    assert_eq!(
        found.into_iter().collect::<Vec<_>>(),
        [("v", ""), ("w", ""), ("x", "x"), ("y", "x"), ("z", "x")]
    );
    assert!(groups(&[]).is_empty());
}

/// A root with a driver of this version as Debian's packages lay it out.
fn driver(root: &Path, version: &str) {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    fs::create_dir_all(libraries.join("vdpau")).unwrap();
    for name in ["libcuda", "libnvidia-ml", "libnvidia-ptxjitcompiler", "vdpau/libvdpau_nvidia"] {
        fs::write(libraries.join(format!("{name}.so.{version}")), "").unwrap();
        let file = name.rsplit('/').next().unwrap();
        symlink(format!("{file}.so.{version}"), libraries.join(format!("{name}.so.1"))).unwrap();
    }
    symlink("libcuda.so.1", libraries.join("libcuda.so")).unwrap();
    fs::write(libraries.join("libc.so.6"), "").unwrap();
    fs::write(libraries.join("libcuda.so.1.0.0"), "").unwrap();
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::write(root.join("usr/bin/nvidia-smi"), "").unwrap();
    let firmware = root.join("usr/lib/firmware/nvidia").join(version);
    fs::create_dir_all(&firmware).unwrap();
    fs::write(firmware.join("gsp_ga10x.bin"), "").unwrap();
    fs::write(firmware.join("other"), "").unwrap();
}

fn seen(root: &Path, version: &str) -> Vec<String> {
    driver_files(root, version).iter().map(|mount| mount.container_path.display().to_string()).collect()
}

#[test]
fn libraries_of_the_drivers_version_are_seen_with_the_links_that_programs_ask_for() {
    let root = tempfile::tempdir().unwrap();
    driver(root.path(), "570.124.06");
    // One directory under two names, as on merged systems.
    symlink("usr/lib", root.path().join("lib")).unwrap();
    let libraries = "/usr/lib/x86_64-linux-gnu";
    let expected = [
        format!("{libraries}/libcuda.so"),
        format!("{libraries}/libcuda.so.1"),
        format!("{libraries}/libcuda.so.570.124.06"),
        format!("{libraries}/libnvidia-ml.so.1"),
        format!("{libraries}/libnvidia-ml.so.570.124.06"),
        format!("{libraries}/libnvidia-ptxjitcompiler.so.1"),
        format!("{libraries}/libnvidia-ptxjitcompiler.so.570.124.06"),
        format!("{libraries}/vdpau/libvdpau_nvidia.so.1"),
        format!("{libraries}/vdpau/libvdpau_nvidia.so.570.124.06"),
        "/usr/bin/nvidia-smi".to_owned(),
        "/lib/firmware/nvidia/570.124.06/gsp_ga10x.bin".to_owned(),
    ];
    assert_eq!(seen(root.path(), "570.124.06"), expected);
    // What is mounted is the file, wherever its link would lead in another root.
    let file = root.path().join("usr/lib/x86_64-linux-gnu/libcuda.so.570.124.06");
    assert!(driver_files(root.path(), "570.124.06")[..3].iter().all(|mount| mount.host_path == file));
}

#[test]
fn debians_alternatives_are_followed_inside_the_root() {
    let root = tempfile::tempdir().unwrap();
    let current = root.path().join("usr/lib/x86_64-linux-gnu/nvidia/current");
    fs::create_dir_all(&current).unwrap();
    fs::create_dir_all(root.path().join("etc/alternatives")).unwrap();
    fs::write(current.join("libcuda.so.535.1"), "").unwrap();
    let link = "etc/alternatives/glx--libcuda.so.1-x86_64-linux-gnu";
    symlink("/usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.535.1", root.path().join(link)).unwrap();
    symlink(Path::new("/").join(link), root.path().join("usr/lib/x86_64-linux-gnu/libcuda.so.1")).unwrap();
    let mounts = driver_files(root.path(), "535.1");
    assert_eq!(mounts[0].container_path, Path::new("/usr/lib/x86_64-linux-gnu/libcuda.so.1"));
    assert!(mounts.iter().all(|mount| mount.host_path == current.join("libcuda.so.535.1")), "{mounts:?}");
}

#[test]
fn without_a_version_the_libraries_that_every_program_needs_are_taken() {
    let root = tempfile::tempdir().unwrap();
    driver(root.path(), "570.124.06");
    let libraries = "/usr/lib/x86_64-linux-gnu";
    let bare = [format!("{libraries}/libcuda.so.1"), format!("{libraries}/libnvidia-ml.so.1")];
    assert_eq!(seen(root.path(), "")[..2], bare);
    assert_eq!(seen(root.path(), "1.2.3")[..2], bare);
    assert!(seen(Path::new("/nonexistent"), "570.124.06").is_empty());
}

#[test]
fn before_the_first_look_the_librarys_name_says_the_version() {
    let root = tempfile::tempdir().unwrap();
    driver(root.path(), "570.124.06");
    dev(root.path(), &["nvidia0", "nvidiactl"]);
    let nvidia = Nvidia::new(NvidiaOptions {
        driver_root: root.path().to_owned(),
        dev_root: root.path().join("dev"),
        ..NvidiaOptions::default()
    });
    let edits = nvidia.edits(&[gpu(0, None)]).unwrap();
    let inside: Vec<_> = edits.mounts.iter().map(|mount| mount.container_path.to_str().unwrap()).collect();
    assert!(inside.contains(&"/usr/lib/x86_64-linux-gnu/libcuda.so.570.124.06"), "{inside:?}");
}

#[test]
fn the_library_is_looked_for_at_the_vendors_places() {
    for place in [
        "usr/lib64",
        "usr/lib/x86_64-linux-gnu",
        "usr/lib/aarch64-linux-gnu/nvidia/current",
        "opt/driver/lib",
        "run/nvidia/driver/usr/lib64",
    ] {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/ld.so.conf.d")).unwrap();
        fs::write(root.path().join("etc/ld.so.conf.d/nvidia.conf"), "# here\n/opt/driver/lib\n").unwrap();
        let library = root.path().join(place).join("libnvidia-ml.so.1");
        fs::create_dir_all(library.parent().unwrap()).unwrap();
        fs::write(&library, "").unwrap();
        let container = root.path().join("run/nvidia/driver");
        let inside = if place.starts_with("run") { container } else { root.path().to_owned() };
        let found = Driver { library: library.clone(), root: inside };
        assert_eq!(search::find(None, root.path()).as_ref(), Ok(&found));
        assert_eq!(search::find(Some(&library), root.path()), Ok(found), "as it would be found by itself");
    }
    assert!(search::find(Some(Path::new("/nonexistent/libnvidia-ml.so.1")), Path::new("/")).is_err());
}

fn gpu(minor: u32, instance: Option<(u32, u32)>) -> Chip {
    let partition = instance.map(|(gpu_instance, compute_instance)| Partition {
        gpu_instance,
        compute_instance,
        profile: "1g.10gb".to_owned(),
        cores: Percent(14),
    });
    Chip {
        card: minor,
        die: 0,
        uuid: DeviceUuid::new(format!("GPU-{minor}")).unwrap(),
        module: None,
        model: "H100".to_owned(),
        product_name: String::new(),
        memory: Bytes::gib(80),
        phys_id: minor,
        pci: None,
        numa_node: None,
        pcie_root: None,
        health: Health::Healthy,
        traits: Traits { partition, ..Traits::default() },
    }
}

fn nodes(root: &Path, chips: &[Chip]) -> Result<Vec<String>, String> {
    let (dev, proc) = (root.join("dev"), root.join("proc"));
    let places = Places { driver_root: root, dev_root: &dev, proc_root: &proc, version: "" };
    let found = edits(&places, chips).map_err(|error| error.to_string())?;
    Ok(found.device_nodes.iter().map(|node| node.container_path.display().to_string()).collect())
}

/// A root whose nodes lead to a real character device.
fn dev(root: &Path, names: &[&str]) {
    for name in names {
        let node = root.join("dev").join(name);
        fs::create_dir_all(node.parent().unwrap()).unwrap();
        symlink("/dev/null", node).unwrap();
    }
}

#[test]
fn a_container_gets_its_gpus_nodes_first_then_the_control_nodes_that_exist() {
    let root = tempfile::tempdir().unwrap();
    dev(root.path(), &["nvidia0", "nvidia3", "nvidiactl", "nvidia-modeset"]);
    let found = nodes(root.path(), &[gpu(3, None), gpu(0, None)]).unwrap();
    assert_eq!(found, ["/dev/nvidia3", "/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-modeset"]);
    let error = nodes(root.path(), &[gpu(1, None)]).unwrap_err();
    assert!(error.contains("dev/nvidia1"), "{error}");
    fs::remove_file(root.path().join("dev/nvidiactl")).unwrap();
    assert!(nodes(root.path(), &[gpu(0, None)]).unwrap_err().contains("nvidiactl"));
}

#[test]
fn instances_of_one_gpu_share_its_node_and_have_their_own_capabilities() {
    let root = tempfile::tempdir().unwrap();
    dev(root.path(), &["nvidia0", "nvidiactl"]);
    let chips = [gpu(0, Some((7, 0))), gpu(0, Some((9, 1)))];
    let error = nodes(root.path(), &chips).unwrap_err();
    assert!(error.contains("mig-minors"), "{error}");
    let minors = root.path().join("proc/driver/nvidia-caps");
    fs::create_dir_all(&minors).unwrap();
    let lines = "config 1\nmonitor 2\ngpu0/gi7/access 66\ngpu0/gi7/ci0/access 67\ngpu0/gi9/access 84\n";
    fs::write(minors.join("mig-minors"), lines).unwrap();
    let error = nodes(root.path(), &chips).unwrap_err();
    assert!(error.contains("nvidia-cap66"), "a node that is not there: {error}");
    dev(root.path(), &["nvidia-caps/nvidia-cap66", "nvidia-caps/nvidia-cap67", "nvidia-caps/nvidia-cap84"]);
    let error = nodes(root.path(), &chips).unwrap_err();
    assert!(error.contains("does not name gpu0/gi9/ci1/access"), "{error}");
    fs::write(minors.join("mig-minors"), format!("{lines}gpu0/gi9/ci1/access 86\n")).unwrap();
    dev(root.path(), &["nvidia-caps/nvidia-cap86"]);
    let caps = |number: u32| format!("/dev/nvidia-caps/nvidia-cap{number}");
    let expected =
        ["/dev/nvidia0".to_owned(), caps(66), caps(67), caps(84), caps(86), "/dev/nvidiactl".to_owned()];
    assert_eq!(nodes(root.path(), &chips).unwrap(), expected);
}

#[test]
fn a_driver_root_with_a_proc_of_its_own_says_the_capabilities() {
    let root = tempfile::tempdir().unwrap();
    dev(root.path(), &["nvidia0", "nvidiactl", "nvidia-caps/nvidia-cap4", "nvidia-caps/nvidia-cap5"]);
    let minors = root.path().join("proc/driver/nvidia-caps");
    fs::create_dir_all(&minors).unwrap();
    fs::write(minors.join("mig-minors"), "gpu0/gi7/access 4\ngpu0/gi7/ci0/access 5\n").unwrap();
    let (dev_root, nowhere) = (root.path().join("dev"), Path::new("/nonexistent"));
    let places = Places { driver_root: root.path(), dev_root: &dev_root, proc_root: nowhere, version: "" };
    let found = edits(&places, &[gpu(0, Some((7, 0)))]).unwrap();
    assert_eq!(found.device_nodes[2].container_path, Path::new("/dev/nvidia-caps/nvidia-cap5"));
}

#[test]
fn a_driver_containers_nodes_are_found_below_its_root() {
    let root = tempfile::tempdir().unwrap();
    dev(root.path(), &["nvidia0", "nvidiactl"]);
    let (empty, proc) = (Path::new("/nonexistent"), root.path().join("proc"));
    let places = Places { driver_root: root.path(), dev_root: empty, proc_root: &proc, version: "" };
    let found = edits(&places, &[gpu(0, None)]).unwrap();
    assert_eq!(found.device_nodes[0].host_path, root.path().join("dev/nvidia0"));
    assert_eq!(found.device_nodes[0].container_path, Path::new("/dev/nvidia0"));
}
