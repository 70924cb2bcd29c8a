//! The NVIDIA backend over a real shared library: `libnvidia-ml.so.1` in front of a simulated machine that changes,
//! fails and hangs while it is looked at.
// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod machine;

use std::time::Duration;

use machine::Node;
use standin_protocol::{Fault, Instance, Machine, Mig};
use vnpu_discovery::nvidia::{Nvidia, NvidiaOptions};
use vnpu_discovery::{Backend, DiscoveryError, VendorLibrary};
use vnpu_driver::hardware::{Health, Inventory, ProcessView, Vendor};
use vnpu_driver::quantity::{Bytes, Percent};

fn names(inventory: &Inventory) -> Vec<String> {
    inventory.chips.iter().map(|chip| chip.name().to_string()).collect()
}

fn reasons(inventory: &Inventory) -> Vec<&str> {
    inventory.problems.iter().map(|problem| problem.reason.as_str()).collect()
}

fn fault(function: &str, minor: i32, error: i32) -> Fault {
    Fault { function: function.to_owned(), card: Some(minor), device: None, error, hang: false }
}

fn hang(function: &str, minor: i32) -> Fault {
    Fault { hang: true, ..fault(function, minor, 0) }
}

fn instance(gpu_instance: u32, uuid: &str, profile: &str, memory_mib: u64, slices: u32) -> Instance {
    Instance {
        gpu_instance,
        compute_instance: 0,
        uuid: uuid.to_owned(),
        profile: profile.to_owned(),
        memory_mib,
        slices,
        processes: [(4321, 1 << 30)].into(),
    }
}

/// Two instances of GPU `minor`; with gaps between them.
fn partition(machine: &mut Machine, minor: usize) {
    let gpu = &mut machine.nvidia.as_mut().unwrap().gpus[minor];
    let instances = [
        (0, instance(1, &format!("MIG-{minor}-large"), "3g.40gb", 40448, 3)),
        (4, instance(9, &format!("MIG-{minor}-small"), "1g.10gb", 9984, 1)),
    ];
    gpu.mig = Some(Mig { enabled: true, slices: 7, instances: instances.into() });
}

#[test]
fn gpus_are_seen_as_the_hardware_is() {
    let machine = Machine::nvidia_h100(2, 81559);
    let node = Node::gpus(&machine);
    let nvidia = node.nvidia();
    let inventory = nvidia.discover().unwrap();
    assert_eq!(nvidia.vendor(), Vendor::Nvidia);
    assert_eq!(inventory.problems, []);
    assert_eq!(names(&inventory), ["chip-0-0", "chip-1-0"]);
    assert_eq!((&*inventory.driver_version, &*inventory.cuda_version), ("570.124.06", "12.8"));
    for (gpu, chip) in machine.gpus().zip(&inventory.chips) {
        assert_eq!((chip.uuid.as_str(), chip.phys_id, chip.die), (&*gpu.uuid, gpu.minor, 0));
        assert_eq!((chip.module, chip.memory), (None, Bytes(81559 << 20)));
        assert_eq!((&*chip.model, &*chip.product_name), ("H100", "NVIDIA H100 80GB HBM3"));
        assert_eq!(chip.pci.map(|pci| pci.to_string()).as_ref(), Some(&gpu.pci));
        assert_eq!((&*chip.traits.compute_capability, &*chip.traits.link_group), ("9.0", ""));
        assert_eq!((&chip.health, &chip.traits.partition), (&Health::Healthy, &None));
    }
}

#[test]
fn a_gpu_keeps_its_name_when_the_order_of_buses_is_another() {
    let mut machine = Machine::nvidia_h100(2, 1024);
    let node = Node::gpus(&machine);
    let nvidia = node.nvidia();
    let before = nvidia.discover().unwrap();
    for (gpu, pci) in machine.nvidia.as_mut().unwrap().gpus.iter_mut().zip(["0000:c1:00.0", "0000:11:00.0"]) {
        gpu.pci = pci.to_owned();
    }
    node.change(&machine);
    let after = node.until_gpus(&nvidia, |inventory| names(inventory)[0] == "chip-1-0");
    let uuids = |inventory: &Inventory| {
        let mut all: Vec<_> = inventory.chips.iter().map(|chip| (chip.name(), chip.uuid.clone())).collect();
        all.sort();
        all
    };
    assert_eq!(uuids(&after), uuids(&before));
}

#[test]
fn what_nvlink_joins_has_one_group_over_switches_and_directly() {
    let mut machine = Machine::nvidia_h100(5, 1024);
    let gpus = &mut machine.nvidia.as_mut().unwrap().gpus;
    let other = gpus[3].pci.clone();
    gpus[0].links = vec![String::new(), "0000:85:00.0".to_owned()];
    gpus[1].links = vec!["0000:85:00.0".to_owned(), "0000:86:00.0".to_owned()];
    gpus[2].links = vec![other];
    gpus[4].links = vec!["0000:99:00.0".to_owned()];
    let uuids: Vec<String> = gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
    let node = Node::gpus(&machine);
    let nvidia = node.impatient_nvidia();
    let groups = |inventory: &Inventory| -> Vec<String> {
        inventory.chips.iter().map(|chip| chip.traits.link_group.clone()).collect()
    };
    let expected = [&*uuids[0], &*uuids[0], &*uuids[2], &*uuids[2], ""];
    assert_eq!(groups(&nvidia.discover().unwrap()), expected);
    // A GPU that cannot be asked is still where it was.
    machine.faults = vec![hang("nvmlDeviceGetNvLinkState", 0)];
    node.change(&machine);
    let seen = node.until_gpus(&nvidia, |i| i.chips[0].health != Health::Healthy);
    assert_eq!(groups(&seen), expected);
}

#[test]
fn a_partitioned_gpu_is_its_instances() {
    let mut machine = Machine::nvidia_h100(2, 81559);
    partition(&mut machine, 1);
    let node = Node::gpus(&machine);
    let nvidia = node.nvidia();
    let inventory = nvidia.discover().unwrap();
    assert_eq!(inventory.problems, []);
    assert_eq!(names(&inventory), ["chip-0-0", "partition-1-1-0", "partition-1-9-0"]);
    let chip = &inventory.chips[1];
    assert_eq!((chip.uuid.as_str(), chip.phys_id, chip.memory), ("MIG-1-large", 1, Bytes(40448 << 20)));
    assert_eq!((&*chip.model, &*chip.traits.compute_capability), ("H100", "9.0"));
    let sizes: Vec<_> = inventory.chips[1..]
        .iter()
        .filter_map(|chip| chip.traits.partition.as_ref())
        .map(|part| (&*part.profile, part.cores))
        .collect();
    assert_eq!(sizes, [("3g.40gb", Percent(42)), ("1g.10gb", Percent(14))]);
    let processes = nvidia.processes(&inventory.chips[2]).unwrap();
    assert_eq!((processes[0].pid, processes[0].bytes), (4321, Bytes::gib(1)));

    machine.nvidia.as_mut().unwrap().gpus[1].mig.as_mut().unwrap().enabled = false;
    node.change(&machine);
    node.until_gpus(&nvidia, |inventory| names(inventory) == ["chip-0-0", "chip-1-0"]);
}

#[test]
fn an_instance_that_fails_is_its_own_matter() {
    let mut machine = Machine::nvidia_h100(1, 81559);
    partition(&mut machine, 0);
    let mig = machine.nvidia.as_mut().unwrap().gpus[0].mig.as_mut().unwrap();
    mig.instances.get_mut(&0).unwrap().uuid = String::new();
    let inventory = Node::gpus(&machine).nvidia().discover().unwrap();
    assert_eq!(names(&inventory), ["partition-0-9-0"]);
    assert_eq!(reasons(&inventory), ["missing_uuid"]);
    assert_eq!(inventory.problems[0].object, "GPU 0 MIG device 0");
}

#[test]
fn a_call_that_hangs_is_its_gpus_matter() {
    let mut machine = Machine::nvidia_h100(3, 1024);
    let node = Node::gpus(&machine);
    let nvidia = node.impatient_nvidia();
    let before = nvidia.discover().unwrap();
    machine.faults = vec![hang("nvmlDeviceGetMemoryInfo", 1)];
    node.change(&machine);
    let unknown = |health: &Health| matches!(health, Health::Unknown(why) if why.contains("does not return"));
    let inventory = node.until_gpus(&nvidia, |inventory| unknown(&inventory.chips[1].health));
    assert_eq!(names(&inventory), names(&before));
    assert_eq!(reasons(&inventory), ["vendor_call_hangs"]);
    assert_eq!(inventory.problems[0].object, "GPU 1");
    assert_eq!((&inventory.chips[0], &inventory.chips[2]), (&before.chips[0], &before.chips[2]));
    machine.faults.clear();
    node.change(&machine);
    node.until_gpus(&nvidia, |inventory| *inventory == before);

    // One that nobody has seen before is published where only something beside the point is not known.
    machine.faults = vec![hang("nvmlDeviceGetRemappedRows", 0), hang("nvmlDeviceGetMigMode", 2)];
    let node = Node::gpus(&machine);
    let inventory = node.impatient_nvidia().discover().unwrap();
    assert_eq!(names(&inventory), ["chip-0-0", "chip-1-0"], "{:?}", inventory.problems);
    assert!(unknown(&inventory.chips[0].health));
    assert_eq!(reasons(&inventory), ["vendor_call_hangs", "vendor_call_hangs"]);
}

#[test]
fn a_gpu_that_is_lost_is_named_and_comes_back() {
    let mut machine = Machine::nvidia_h100(2, 1024);
    let node = Node::gpus(&machine);
    let nvidia = node.nvidia();
    let before = nvidia.discover().unwrap();
    machine.faults = vec![fault("nvmlDeviceGetHandleByIndex_v2", 0, 15)];
    node.change(&machine);
    let lost = |health: &Health| matches!(health, Health::Unhealthy(_) if health.to_string().contains("GPU is lost"));
    let inventory = node.until_gpus(&nvidia, |inventory| lost(&inventory.chips[0].health));
    assert_eq!(reasons(&inventory), ["gpu_lost"]);
    assert_eq!(inventory.chips[1], before.chips[1]);
    // The others are still served, at the next look too, for which the library is initialised again.
    assert_eq!(nvidia.discover().unwrap(), inventory);
    let lost_alone = machine.faults.clone();
    machine.faults.push(Fault { card: None, ..fault("nvmlInit_v2", 0, 999) });
    node.change(&machine);
    let error = node.wait(|| nvidia.discover().err());
    assert_eq!(error.to_string(), "nvmlInit_v2 failed with 999 (internal error of the driver)");
    machine.faults = lost_alone;
    node.change(&machine);
    node.until_gpus(&nvidia, |again| *again == inventory);
    assert_eq!(nvidia.processes(&inventory.chips[1]), Ok(Vec::new()));
    machine.faults.clear();
    node.change(&machine);
    node.until_gpus(&nvidia, |inventory| *inventory == before);
    let unseen = Node::gpus(&Machine {
        faults: vec![fault("nvmlDeviceGetHandleByIndex_v2", 0, 15)],
        ..Machine::nvidia_h100(2, 1024)
    });
    assert_eq!(names(&unseen.nvidia().discover().unwrap()), ["chip-1-0"]);
}

#[test]
fn switches_that_are_not_shown_join_what_ends_at_them() {
    let mut machine = Machine::nvidia_h100(4, 1024);
    let gpus = &mut machine.nvidia.as_mut().unwrap().gpus;
    let hidden = "ffffffff:ff:ff.0".to_owned();
    gpus[0].links = vec![hidden.clone(), hidden.clone()];
    gpus[1].links = vec![hidden];
    // What a driver has not filled in joins nobody.
    for gpu in &mut gpus[2..] {
        gpu.links = vec!["0000:00:00.0".to_owned()];
    }
    let first = gpus[0].uuid.clone();
    let inventory = Node::gpus(&machine).nvidia().discover().unwrap();
    let groups: Vec<&str> = inventory.chips.iter().map(|chip| &*chip.traits.link_group).collect();
    assert_eq!(groups, [&*first, &*first, "", ""]);
}

#[test]
fn compute_instances_of_one_gpu_instance_have_its_memory_together() {
    let mut machine = Machine::nvidia_h100(2, 81559);
    let of = |place: u32, name: &str| Instance {
        compute_instance: place,
        ..instance(1, name, "1c.3g.40gb", 40448, 1)
    };
    let instances = [(0, of(0, "MIG-a")), (1, of(1, "MIG-b")), (2, instance(2, "MIG-c", "1g.10gb", 9984, 1))];
    machine.nvidia.as_mut().unwrap().gpus[0].mig =
        Some(Mig { enabled: true, slices: 7, instances: instances.into() });
    machine.nvidia.as_mut().unwrap().gpus[1].mig =
        Some(Mig { enabled: true, slices: 7, instances: [].into() });
    let node = Node::gpus(&machine);
    let nvidia = node.nvidia();
    let inventory = nvidia.discover().unwrap();
    assert_eq!(names(&inventory), ["partition-0-1-0", "partition-0-1-1", "partition-0-2-0"]);
    let memory = |inventory: &Inventory| -> Vec<u64> {
        inventory.chips.iter().map(|chip| chip.memory.0 >> 20).collect()
    };
    assert_eq!(memory(&inventory), [20224, 20224, 9984]);
    // Why nothing of the other GPU is there.
    assert_eq!(reasons(&inventory), ["no_instances"]);
    assert!(inventory.problems[0].message.contains("MIG is on, and there are no instances"));
    // One that cannot be told from another has its part still.
    let mig = machine.nvidia.as_mut().unwrap().gpus[0].mig.as_mut().unwrap();
    mig.instances.get_mut(&1).unwrap().uuid = String::new();
    node.change(&machine);
    let seen = node.until_gpus(&nvidia, |inventory| inventory.problems.len() > 1);
    assert_eq!(memory(&seen), [20224, 9984]);
    assert_eq!(nvidia.discover().unwrap(), seen, "and keeps it");
}

#[test]
fn a_brief_look_sees_which_gpus_there_are_and_how_they_are() {
    let mut machine = Machine::nvidia_h100(3, 81559);
    let node = Node::gpus(&machine);
    let nvidia = Nvidia::new(NvidiaOptions { believed: Duration::from_secs(3600), ..node.nvidia_options() });
    let before = nvidia.discover().unwrap();
    // What it does not ask cannot trouble it.
    machine.faults = vec![fault("nvmlDeviceGetName", 0, 999)];
    machine.nvidia.as_mut().unwrap().gpus[1].rows_failed = true;
    partition(&mut machine, 2);
    node.change(&machine);
    let seen = node.until_gpus(&nvidia, |inventory| inventory.chips[1].health != Health::Healthy);
    assert_eq!(names(&seen), ["chip-0-0", "chip-1-0", "partition-2-1-0", "partition-2-9-0"]);
    assert_eq!((&seen.chips[0], &seen.problems), (&before.chips[0], &Vec::new()));
    // Of another GPU everything is asked.
    let other = &mut machine.nvidia.as_mut().unwrap().gpus[1];
    (other.uuid, other.memory_mib) = ("GPU-99999999-0000-0000-0000-000000000000".to_owned(), 1024);
    node.change(&machine);
    let seen = node.until_gpus(&nvidia, |inventory| inventory.chips[1].uuid != before.chips[1].uuid);
    assert_eq!(seen.chips[1].memory, Bytes(1024 << 20));
    // After any trouble of all.
    machine.faults.push(fault("nvmlDeviceGetRemappedRows", 1, 999));
    node.change(&machine);
    node.until_gpus(&nvidia, |inventory| inventory.problems.len() == 2);
}

#[test]
fn a_driver_of_another_version_is_said_and_tried_again() {
    let mut machine = Machine::nvidia_h100(1, 1024);
    let mismatch = |function: &str| Fault { card: None, ..fault(function, 0, 18) };
    machine.faults = vec![mismatch("nvmlInit_v2")];
    let node = Node::gpus(&machine);
    let nvidia = node.nvidia();
    let error = nvidia.discover().unwrap_err();
    let library = VendorLibrary::Nvml;
    assert_eq!(error, DiscoveryError::Call { library, function: "nvmlInit_v2", code: 18 });
    assert!(error.retryable() && error.to_string().contains("different versions"), "{error}");
    machine.faults.clear();
    node.change(&machine);
    node.until_gpus(&nvidia, |inventory| inventory.chips.len() == 1);
    machine.faults = vec![mismatch("nvmlDeviceGetCount_v2")];
    node.change(&machine);
    node.wait(|| nvidia.discover().err());
    machine.faults.clear();
    node.change(&machine);
    node.until_gpus(&nvidia, |inventory| inventory.chips.len() == 1);
}

#[test]
fn a_library_that_is_replaced_is_opened_again() {
    let machine = Machine::nvidia_h100(1, 1024);
    let node = Node::gpus(&machine);
    let nvidia = node.nvidia();
    let before = nvidia.discover().unwrap();
    let library = nvidia.library().unwrap();
    let loaded = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let name = node.root().canonicalize().unwrap();
        let of_root = maps.lines().filter(|line| line.contains(name.to_str().unwrap()));
        let inodes: std::collections::BTreeSet<String> =
            of_root.filter_map(|line| line.split_whitespace().nth(4).map(str::to_owned)).collect();
        inodes.len()
    };
    assert_eq!(loaded(), 1);
    machine::install_nvml(node.root());
    assert_eq!(nvidia.discover().unwrap(), before);
    assert_eq!((loaded(), nvidia.library().unwrap()), (2, library.clone()), "the new file serves");
    // A driver that is taken away for a while: its handles are closed, so that its modules can go.
    std::fs::remove_file(&library).unwrap();
    assert_eq!(nvidia.discover().unwrap_err().reason(), "library_missing");
    let error = nvidia.processes(&before.chips[0]).unwrap_err();
    assert!(error.retryable() && error.to_string().contains("not initialised"), "{error}");
    machine::install_nvml(node.root());
    assert_eq!(nvidia.discover().unwrap(), before);
}

#[test]
fn a_library_that_is_replaced_while_a_call_hangs_serves_the_other_gpus() {
    let mut machine = Machine::nvidia_h100(2, 1024);
    let node = Node::gpus(&machine);
    let nvidia = node.impatient_nvidia();
    let before = nvidia.discover().unwrap();
    machine.faults = vec![hang("nvmlDeviceGetUUID", 1)];
    node.change(&machine);
    let unknown = |inventory: &Inventory| matches!(inventory.chips[1].health, Health::Unknown(_));
    node.until_gpus(&nvidia, unknown);
    machine::install_nvml(node.root());
    let inventory = nvidia.discover().unwrap();
    assert!(unknown(&inventory) && inventory.chips[0] == before.chips[0], "{inventory:?}");
    assert_eq!(nvidia.processes(&before.chips[0]), Ok(Vec::new()));
    machine.faults.clear();
    node.change(&machine);
    node.until_gpus(&nvidia, |inventory| *inventory == before);
}

#[test]
fn identities_that_are_double_or_missing_and_no_memory_are_named() {
    let mut machine = Machine::nvidia_h100(6, 1024);
    let gpus = &mut machine.nvidia.as_mut().unwrap().gpus;
    gpus[1].uuid = gpus[0].uuid.clone();
    gpus[2].uuid = String::new();
    gpus[3].memory_mib = 0;
    gpus[4].uuid = format!("GPU-{}", "7".repeat(80));
    gpus[5].name = format!("NVIDIA H100 {}", "é".repeat(40));
    let inventory = Node::gpus(&machine).nvidia().discover().unwrap();
    assert_eq!(names(&inventory), ["chip-5-0"]);
    assert_eq!(reasons(&inventory), ["missing_uuid", "zero_memory", "missing_uuid", "duplicate_uuid"]);
    assert_eq!(inventory.problems[3].object, "GPU 0, GPU 1");
    assert!(inventory.problems.iter().all(|problem| !problem.message.contains('\n')));
    assert_eq!(inventory.chips[0].model, "H100");
}

#[test]
fn sixty_five_gpus_are_seen() {
    let inventory = Node::gpus(&Machine::nvidia_h100(65, 1024)).nvidia().discover().unwrap();
    assert_eq!((inventory.chips.len(), inventory.problems.len()), (65, 0));
}

#[test]
fn a_gpu_with_memory_that_cannot_be_repaired_is_unhealthy() {
    let mut machine = Machine::nvidia_h100(2, 1024);
    machine.nvidia.as_mut().unwrap().gpus[1].rows_failed = true;
    let inventory = Node::gpus(&machine).nvidia().discover().unwrap();
    assert_eq!(inventory.chips[0].health, Health::Healthy);
    assert!(
        matches!(&inventory.chips[1].health, why @ Health::Unhealthy(_) if why.to_string().contains("rows"))
    );
}

#[test]
fn a_driver_that_comes_later_is_found() {
    let root = tempfile::tempdir().unwrap();
    let options = NvidiaOptions { driver_root: root.path().to_owned(), ..NvidiaOptions::default() };
    let nvidia = Nvidia::new(options);
    let error = nvidia.discover().unwrap_err();
    assert_eq!((error.reason(), error.retryable()), ("library_missing", true));
    assert!(error.to_string().contains("--nvml-library") && !error.to_string().contains("DCMI"), "{error}");
    machine::install_nvml(root.path());
    let error = nvidia.discover().unwrap_err();
    assert_eq!(error.to_string(), "nvmlInit_v2 failed with 9 (the driver is not loaded)");
    let node = Node::gpus_in(root, &Machine::nvidia_h100(1, 1024));
    assert_eq!(nvidia.discover().unwrap().chips.len(), 1);
    assert!(nvidia.library().unwrap().starts_with(node.root()));
}

#[test]
fn a_library_that_is_too_old_or_none_is_a_clear_error() {
    let root = tempfile::tempdir().unwrap();
    let old = machine::compile(root.path(), "libnvidia-ml.so.1", "int nvmlInit_v2(void) { return 0; }");
    let of = |path| NvidiaOptions { nvml_library: Some(path), ..NvidiaOptions::default() };
    let error = Nvidia::new(of(old.clone())).discover().unwrap_err();
    let DiscoveryError::LibraryTooOld { library: VendorLibrary::Nvml, path, missing } = &error else {
        panic!("{error}")
    };
    assert_eq!(path, &old);
    assert!(missing.contains(&"nvmlDeviceGetUUID") && !missing.contains(&"nvmlInit_v2"));
    assert!(error.to_string().starts_with("the NVML library"), "{error}");
    let text = root.path().join("text.so");
    std::fs::write(&text, "no library").unwrap();
    assert_eq!(Nvidia::new(of(text)).discover().unwrap_err().reason(), "library_broken");
}

#[test]
fn a_driver_that_hangs_at_the_start_holds_nobody_up() {
    let mut machine = Machine::nvidia_h100(1, 1024);
    machine.faults = vec![Fault { card: None, ..hang("nvmlInit_v2", 0) }];
    let node = Node::gpus(&machine);
    let nvidia = node.impatient_nvidia();
    for _ in 0..3 {
        assert_eq!(nvidia.discover().unwrap_err(), DiscoveryError::Hanging { function: "nvmlInit_v2" });
    }
    machine.faults.clear();
    node.change(&machine);
    node.until_gpus(&nvidia, |inventory| inventory.chips.len() == 1);
}

#[test]
fn processes_on_a_gpu_are_seen_with_their_bytes_until_they_die() {
    let node = Node::gpus(&Machine::nvidia_h100(2, 8192));
    let nvidia = node.nvidia();
    let chips = nvidia.discover().unwrap().chips;
    let mut holder = node.hold_gpu(1, 3 << 30);
    let seen = node.wait(|| nvidia.processes(&chips[1]).ok().filter(|list| !list.is_empty()));
    assert_eq!((seen[0].pid, seen[0].bytes), (holder.id(), Bytes::gib(3)));
    assert_eq!(nvidia.processes(&chips[0]), Ok(Vec::new()));
    holder.kill().unwrap();
    holder.wait().unwrap();
    node.wait(|| nvidia.processes(&chips[1]).ok().filter(Vec::is_empty));
}

#[test]
fn a_container_gets_its_gpus_nodes_and_the_drivers_files() {
    let node = Node::gpus(&Machine::nvidia_h100(2, 1024));
    node.control_nodes(&["nvidiactl", "nvidia-uvm"]);
    let nvidia = node.nvidia();
    let chips = nvidia.discover().unwrap().chips;
    let edits = nvidia.edits(&chips[1..]).unwrap();
    let nodes: Vec<_> = edits.device_nodes.iter().map(|n| n.container_path.to_str().unwrap()).collect();
    assert_eq!(nodes, ["/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"]);
    let mounts: Vec<_> = edits.mounts.iter().map(|m| m.container_path.to_str().unwrap()).collect();
    assert_eq!(mounts, ["/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", "/run/nvidia-persistenced/socket"]);
    node.control_nodes(&[]);
    assert_eq!(nvidia.edits(&chips).unwrap_err().reason(), "device_node_missing");
}

#[test]
fn a_full_node_is_read_well_within_a_deadline() {
    let node = Node::gpus(&Machine::nvidia_h100(64, 1024));
    let nvidia = Nvidia::new(NvidiaOptions { deadline: Duration::from_secs(30), ..node.nvidia_options() });
    nvidia.discover().unwrap();
    let start = std::time::Instant::now();
    assert_eq!(nvidia.discover().unwrap().chips.len(), 64);
    eprintln!("a pass over 64 GPUs: {:?}", start.elapsed());
}
