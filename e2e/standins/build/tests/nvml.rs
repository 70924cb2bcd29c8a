//! The management library's stand-in as programs meet it, beside the driver's stand-in that it tells of.

mod gpus;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use gpus::{Node, artefacts, lines};
use standin_protocol::{Fault, Machine};

const GIB: u64 = 1 << 30;

fn readelf(option: &str) -> String {
    let library = artefacts().lib.join("libnvidia-ml.so.1");
    let output = Command::new("readelf").args(["-W", option]).arg(library).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_library_has_the_vendors_name_and_exports_nothing_else() {
    let dynamic = readelf("-d");
    assert!(dynamic.contains("soname: [libnvidia-ml.so.1]") && dynamic.contains("SYMBOLIC"), "{dynamic}");
    assert!(!dynamic.contains("libgcc_s"), "a minimal image has the C library only: {dynamic}");
    let symbols = readelf("--dyn-syms");
    let exported: BTreeSet<&str> = symbols
        .lines()
        .filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [_, _, _, "FUNC", "GLOBAL", _, section, name, ..] if section != "UND" => Some(name),
            _ => None,
        })
        .collect();
    assert!(exported.iter().all(|name| name.starts_with("nvml")), "{exported:?}");
    for version in ["", "_v2", "_v3"] {
        let name = format!("nvmlDeviceGetComputeRunningProcesses{version}");
        assert!(exported.contains(name.as_str()), "{name}");
    }
}

#[test]
fn it_names_the_devices_that_the_driver_names() {
    let node = Node::start(&Machine::nvidia_h100(3, 1024));
    let seen = node.demo(&["nvml"]);
    assert_eq!((&*lines(&seen, "nvml")[0]["count"], &*lines(&seen, "nvml")[0]["cuda"]), ("3", "12080"));
    let key = |out: &str, word: &str, key: &str| -> Vec<String> {
        lines(out, word).iter().map(|line| line[key].clone()).collect()
    };
    let driver = node.demo(&["info"]);
    assert_eq!(key(&seen, "gpu ", "uuid"), key(&driver, "device ", "uuid"));
    assert_eq!(key(&seen, "gpu ", "name"), key(&driver, "device ", "name"));
    assert!(key(&seen, "gpu ", "same_handle").iter().all(|same| same == "true"), "{seen}");
    node.nodes(&[2]);
    assert_eq!(key(&node.demo(&["nvml"]), "gpu ", "minor"), ["2"], "a container sees what it has nodes of");
    // The driver's variable is nothing to this library.
    node.nodes(&[1, 2]);
    let seen = node.demo_with(&["nvml"], &[("CUDA_VISIBLE_DEVICES", "1")]);
    assert_eq!(key(&seen, "gpu ", "minor"), ["1", "2"]);
}

#[test]
fn memory_and_processes_are_told_by_device_and_by_the_numbers_of_the_machine() {
    let node = Node::start(&Machine { context_bytes: 300 << 20, ..Machine::nvidia_h100(2, 1024) });
    let (mut one, _) = node.start_demo(&["hold", "--bytes", "64Mi", "--device", "1"]);
    let (mut two, _) = node.start_demo(&["hold", "--bytes", "128Mi", "--device", "1"]);
    let seen = node.demo(&["nvml"]);
    let gpus = lines(&seen, "gpu ");
    let used = (792_u64 << 20).to_string();
    assert_eq!((&*gpus[0]["used"], &*gpus[0]["free"]), ("0", &*GIB.to_string()));
    for (total, used_key) in [("total", "used"), ("total2", "used2")] {
        assert_eq!((&gpus[1][total], &gpus[1][used_key]), (&GIB.to_string(), &used), "{seen}");
    }
    let counts = lines(&seen, "processes");
    assert_eq!((&*counts[0]["count"], &*counts[0]["code"]), ("0", "0"));
    for count in ["count", "count1", "count2", "room1"] {
        assert_eq!(counts[1][count], "2", "{seen}");
    }
    assert_eq!(counts[1]["code"], "7", "with too little room there is an error beside the number");
    let processes = lines(&seen, "process ");
    for (holder, bytes) in [(&one, 364_u64 << 20), (&two, 428 << 20)] {
        let line = processes.iter().find(|line| line["pid"] == holder.id().to_string()).unwrap();
        for version in ["", "1", "2"] {
            assert_eq!(line[&format!("pid{version}")], line["pid"], "{seen}");
            assert_eq!(line[&format!("bytes{version}")], bytes.to_string(), "{seen}");
        }
    }
    for holder in [&mut one, &mut two] {
        holder.kill().unwrap();
        holder.wait().unwrap();
    }
    let seen = node.demo(&["nvml"]);
    assert_eq!((&*lines(&seen, "gpu ")[1]["used"], &*lines(&seen, "processes")[1]["count"]), ("0", "0"));
}

#[test]
fn the_time_that_kernels_run_is_told_by_device_and_process() {
    let node = Node::start(&Machine::nvidia_h100(2, 1024));
    let mut busy = node
        .command(&["busy", "--micros", "1000", "--seconds", "20", "--device", "1"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let seen = node.wait(|| {
        std::thread::sleep(Duration::from_millis(100));
        let seen = node.demo(&["nvml"]);
        (lines(&seen, "gpu ")[1]["gpu"].parse::<u32>().unwrap() > 40).then_some(seen)
    });
    assert_eq!(lines(&seen, "gpu ")[0]["gpu"], "0", "{seen}");
    let samples = lines(&seen, "sample");
    assert_eq!(samples.len(), 1, "{seen}");
    assert_eq!((&*samples[0]["gpu"], &samples[0]["pid"]), ("1", &busy.id().to_string()));
    busy.kill().unwrap();
    busy.wait().unwrap();
    node.wait(|| (lines(&node.demo(&["nvml"]), "gpu ")[1]["gpu"] == "0").then_some(()));
}

#[test]
fn a_library_that_fails_by_configuration_fails() {
    let mut machine = Machine::nvidia_h100(1, 1024);
    machine.faults = vec![Fault {
        function: "nvmlDeviceGetMemoryInfo".to_owned(),
        card: None,
        device: None,
        error: 15,
        hang: false,
    }];
    let node = Node::start(&machine);
    assert_eq!(lines(&node.demo(&["nvml"]), "failed")[0]["code"], "15");
}
