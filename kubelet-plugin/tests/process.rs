//! Proves what the program itself says of its surroundings: `--check` and its exit code for a sound node and for
//! every bad one, and that a plugin runs, and says why it serves nothing, where the hardware cannot be asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use standin_protocol::{Fault, Machine};
use support::process::{Node, PATIENCE, Running, artefacts};

fn fault(function: &str, slot: Option<(i32, i32)>) -> Fault {
    let (card, device) = slot.unzip();
    Fault { function: function.to_owned(), card, device, error: -8005, hang: false }
}

fn compile(directory: &Path, name: &str, source: &str) -> String {
    let (library, file) = (directory.join(name), directory.join("source.c"));
    std::fs::write(&file, source).unwrap();
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&file).status().unwrap();
    assert!(status.success());
    library.display().to_string()
}

#[test]
fn check_finds_a_sound_node_good() {
    let node = Node::start(&Machine::ascend_910c(2, 65536));
    let (code, text) = node.check(&[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("ok    hardware: 4 ascend chips"), "{text}");
    let notes: Vec<&str> = text.lines().filter(|line| line.starts_with("note")).collect();
    assert!(!text.contains("FAIL") && notes.len() == 1, "{text}");
    assert!(
        notes[0].starts_with("note  hardware: no nvidia here: no NVML library found (looked at "),
        "{text}"
    );
    // Directories of a first start need not be there.
    std::fs::remove_dir(node.path("state")).unwrap();
    let (code, text) = node.check(&[]);
    assert!(code == 0 && text.contains("state will be made"), "{text}");
}

/// Puts NVIDIA's library where Debian's packages put it, and GPUs' nodes below the same root.
fn install_nvml(node: &Node, gpus: u32) {
    let directory = node.path("usr/lib/x86_64-linux-gnu");
    std::fs::create_dir_all(&directory).unwrap();
    let library = "libnvidia-ml.so.1";
    std::fs::copy(artefacts().lib.join(library), directory.join(library)).unwrap();
    for minor in 0..gpus {
        std::fs::write(node.path(&format!("dev/nvidia{minor}")), "").unwrap();
    }
}

#[test]
fn check_prints_every_vendor_and_says_what_is_not_looked_for_or_missing() {
    let gpus = Machine::nvidia_h100(2, 81_920).nvidia;
    let machine = Machine { nvidia: gpus, ..Machine::ascend_910c(1, 65536) };
    let node = Node::start(&machine);
    install_nvml(&node, 2);
    let (code, text) = node.check(&[]);
    let lines = ["ok    hardware: 2 ascend chips", "ok    hardware: 2 nvidia chips, driver \"570.124.06\""];
    assert!(code == 0 && lines.iter().all(|line| text.contains(line)), "{text}");
    assert!(!text.contains("note"), "{text}");

    let file = node.path("config.yaml").display().to_string();
    let head = "apiVersion: vnpu.dev/v1alpha1\nkind: NodeConfig\n";
    std::fs::write(node.path("config.yaml"), format!("{head}vendors: [nvidia]\n")).unwrap();
    let (code, text) = node.check(&["--config", &file]);
    assert!(code == 0 && text.contains("2 nvidia chips") && !text.contains("ascend"), "{text}");

    let absent = node.path("absent.so").display().to_string();
    node.refused(
        &["--nvml-library", &absent],
        1,
        &["2 ascend chips", "FAIL  hardware: nvidia: no NVML library"],
    );
    let nowhere = node.path("state").display().to_string();
    let words = ["FAIL  hardware: ascend: no DCMI library", "FAIL  hardware: nvidia: no NVML library"];
    node.refused(&["--driver-root", &nowhere], 1, &words);
}

#[test]
fn check_refuses_a_configuration_that_cannot_be_used_with_its_own_code() {
    let node = Node::start(&Machine::ascend_910c(1, 65536));
    let file = node.path("config.yaml").display().to_string();
    let config = |text: &str, words: &[&str]| {
        std::fs::write(node.path("config.yaml"), text).unwrap();
        node.refused(&["--config", &file], 78, words);
    };
    config("apiVersion: vnpu.dev/v9\nkind: NodeConfig\n", &["vnpu.dev/v9", "vnpu.dev/v1alpha1"]);
    config("apiVersion: vnpu.dev/v1alpha1\nkind: NodeConfig\nconcurency: 4\n", &["concurency"]);
    config("apiVersion: vnpu.dev/v1alpha1\nkind: NodeConfig\nconcurrency: 0\n", &["concurrency", "1 to 256"]);
    config("not: [yaml", &["config.yaml"]);
    let absent = node.path("absent.yaml").display().to_string();
    node.refused(&["--config", &absent], 78, &["cannot read --config"]);
    node.refused(&["--node-name", "Not a name"], 78, &["--node-name"]);
    node.refused(&["--node-name", ""], 78, &["VNPU_NODE_NAME"]);
    node.refused(&["--pod-uid", "../../x"], 78, &["--pod-uid"]);
    node.refused(&["--admin-address", "nowhere"], 78, &["--admin-address"]);
    node.refused(&["--cdi-dir", "relative/cdi"], 78, &["--cdi-dir", "absolute"]);
    node.refused(&["--log-format", "xml"], 78, &["xml"]);
}

#[test]
fn check_refuses_directories_files_and_a_checkpoint_that_cannot_be_used() {
    let node = Node::start(&Machine::ascend_910c(1, 65536));
    let file = node.path("machine.yaml").display().to_string();
    for (flag, what) in [
        ("--cdi-dir", "CDI directory"),
        ("--state-dir", "state directory"),
        ("--runtime-dir", "runtime directory"),
    ] {
        node.refused(&[flag, &file], 1, &["FAIL", what, "is no directory"]);
        node.refused(&[flag, &format!("{file}/below")], 1, &["FAIL", what, "is no directory"]);
    }
    // Nothing can be written there, whoever one is.
    node.refused(&["--cdi-dir", "/proc"], 1, &["FAIL  CDI directory: /proc is not writable"]);
    let empty = node.path("dev").display().to_string();
    node.refused(&["--interposer-dir", &empty], 1, &["FAIL  interposer", "libvnpu.so is missing"]);
    let long = node.path(&"d".repeat(100)).display().to_string();
    node.refused(&["--kubelet-plugins-dir", &long], 1, &["FAIL  socket", "more than 107"]);

    let mut newer = b"vnpu-log".to_vec();
    newer.extend(9u32.to_le_bytes());
    newer.extend(crc32c::crc32c(&newer).to_le_bytes());
    std::fs::write(node.path("state/checkpoint.log"), &newer).unwrap();
    node.refused(&[], 1, &["FAIL  checkpoint", "has format 9", "nothing was changed"]);
    let output = node.command(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "nor does it start");
    assert_eq!(std::fs::read(node.path("state/checkpoint.log")).unwrap(), newer);
    std::fs::write(node.path("state/checkpoint.log"), "nothing of it is left").unwrap();
    let (code, text) = node.check(&[]);
    assert!(code == 0 && text.contains("ok    checkpoint: damaged: the start puts it aside"), "{text}");
}

#[test]
fn check_names_libraries_and_calls_that_do_not_serve() {
    let mut machine = Machine::ascend_910c(2, 65536);
    let node = Node::start(&machine);
    let dir = node.dir.path();
    let absent = dir.join("absent.so").display().to_string();
    node.refused(&["--dcmi-library", &absent], 1, &["no DCMI library found", &absent, "--dcmi-library"]);
    let old = compile(dir, "old.so", "int dcmi_init(void) { return 0; }");
    node.refused(&["--dcmi-library", &old], 1, &[&old, "is too old", "dcmi_get_device_die_v2"]);
    let text = dir.join("text.so");
    std::fs::write(&text, "no library").unwrap();
    node.refused(&["--dcmi-library", text.to_str().unwrap()], 1, &["does not load"]);

    machine.faults = vec![
        fault("dcmi_get_device_board_info", Some((0, 1))),
        Fault { hang: true, ..fault("dcmi_get_device_die_v2", Some((1, 0))) },
        fault("dcmi_get_device_health", Some((1, 1))),
    ];
    let words = [
        "ok    hardware: 2 ascend chips",
        "FAIL  hardware: card 0 die 1: dcmi_get_device_board_info failed with -8005",
        "FAIL  hardware: card 1 die 0: dcmi_get_device_die_v2 does not return",
        "note  hardware: chip-1-1: dcmi_get_device_health failed with -8005",
    ];
    until_refused(&node, &machine, &words);
    for function in ["dcmi_init", "dcmi_get_card_list"] {
        machine.faults = vec![fault(function, None)];
        until_refused(&node, &machine, &[&format!("{function} failed with -8005")]);
        machine.faults = vec![Fault { hang: true, ..fault(function, None) }];
        until_refused(&node, &machine, &[&format!("{function} does not return: the driver hangs")]);
    }
}

/// The driver follows its file a moment later.
fn until_refused(node: &Node, machine: &Machine, words: &[&str]) {
    node.change(machine);
    let begun = Instant::now();
    loop {
        let (code, text) = node.check(&[]);
        if code == 1 && words.iter().all(|word| text.contains(word)) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "code {code}, no {words:?} in {text}");
    }
}

#[test]
fn a_plugin_whose_hardware_cannot_be_asked_runs_says_why_and_finds_it_later() {
    let mut machine = Machine::ascend_910c(1, 65536);
    machine.faults = vec![Fault { hang: true, ..fault("dcmi_init", None) }];
    let node = Node::start(&machine);
    // The simulated driver is found from where its library lies.
    let home = node.path("usr/local/dcmi");
    let library = home.join("late.so").display().to_string();
    let mut plugin = Running::start(&node, &["--dcmi-library", &library]);
    let says = |plugin: &Running, word: &str| plugin.get("/readyz").is_some_and(|a| a.contains(word));
    plugin.until("no library", |p| says(p, "no DCMI library found"));
    assert!(plugin.get("/livez").unwrap().starts_with("HTTP/1.1 200"), "restarting would not help");
    assert!(
        node.path("registry/vnpu.dev-reg.sock").exists() && node.path("plugins/vnpu.dev/dra.sock").exists()
    );

    // An old one, then the right one whose driver hangs, then one that answers.
    compile(&home, "late.so", "int dcmi_init(void) { return 0; }");
    plugin.until("too old", |p| says(p, "is too old"));
    let fresh = home.join("fresh.so");
    std::fs::copy(artefacts().lib.join("libdcmi.so"), &fresh).unwrap();
    std::fs::rename(&fresh, &library).unwrap();
    plugin.until("hanging", |p| says(p, "dcmi_init does not return"));
    machine.faults.clear();
    node.change(&machine);
    plugin.until("two chips", |p| {
        p.get("/metrics").is_some_and(|a| a.contains("vnpu_chips{vendor=\"ascend\"} 2"))
    });
    let log = std::fs::read_to_string(node.path("log")).unwrap();
    for word in
        ["no DCMI library found", "is too old, it lacks", "dcmi_init does not return", "hardware seen"]
    {
        assert!(log.contains(word), "no {word:?} in {log}");
    }
}
