//! Proves what the program itself says of its surroundings: `--check` and its exit code for a sound node and for
//! every bad one, and that a plugin runs, and says why it serves nothing, where the hardware cannot be asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use standin_build::Artefacts;
use standin_protocol::{Fault, Machine};
use tempfile::TempDir;

/// How long anything may take before the test fails; never reached on a machine that works.
const PATIENCE: Duration = Duration::from_secs(60);
const PLUGIN: &str = env!("CARGO_BIN_EXE_vnpu-kubelet-plugin");

fn artefacts() -> &'static Artefacts {
    static BUILT: OnceLock<Artefacts> = OnceLock::new();
    BUILT.get_or_init(|| standin_build::build(false).unwrap())
}

/// A node's directories, its driver's library, and a simulated driver.
struct Node {
    dir: TempDir,
    driver: Child,
}

impl Node {
    fn start(machine: &Machine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["registry", "plugins", "cdi", "state", "run", "interposer", "dev", "usr/local/dcmi"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in ["libvnpu.so", "libvnpu_core.so"] {
            std::fs::write(dir.path().join("interposer").join(name), "").unwrap();
        }
        std::fs::copy(artefacts().lib.join("libdcmi.so"), dir.path().join("usr/local/dcmi/libdcmi.so"))
            .unwrap();
        let config = dir.path().join("machine.yaml");
        std::fs::write(&config, serde_json::to_string(machine).unwrap()).unwrap();
        let mut driver = Command::new(artefacts().device())
            .args(["serve", "--config"])
            .arg(&config)
            .arg("--driver-root")
            .arg(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(driver.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready"), "{line}");
        Self { dir, driver }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The plugin's command line; what `arguments` say again replaces it.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut all: Vec<(&str, String)> =
            vec![("--node-name", "node-1".to_owned()), ("--admin-address", String::new())];
        for (flag, name) in [
            ("--kubeconfig", "no-kubeconfig"),
            ("--kubelet-registry-dir", "registry"),
            ("--kubelet-plugins-dir", "plugins"),
            ("--cdi-dir", "cdi"),
            ("--state-dir", "state"),
            ("--runtime-dir", "run"),
            ("--interposer-dir", "interposer"),
            ("--dev-root", "dev"),
        ] {
            all.push((flag, self.path(name).display().to_string()));
        }
        all.push(("--driver-root", self.dir.path().display().to_string()));
        all.retain(|(flag, _)| !arguments.contains(flag));
        let mut command = Command::new(PLUGIN);
        command.args(all.iter().flat_map(|(flag, value)| [*flag, value.as_str()])).args(arguments);
        command
    }

    /// Exit code and everything printed by `--check`, which leaves the directories as they are.
    fn check(&self, arguments: &[&str]) -> (i32, String) {
        let before = self.tree();
        let output = self.command(arguments).arg("--check").output().unwrap();
        assert_eq!(self.tree(), before, "--check leaves nothing");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        (output.status.code().unwrap(), text)
    }

    fn refused(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let (found, text) = self.check(arguments);
        assert_eq!(found, code, "{arguments:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{arguments:?}: no {word:?} in {text}");
        }
    }

    fn tree(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        for name in ["registry", "plugins", "cdi", "state", "run"] {
            let entries = std::fs::read_dir(self.path(name)).into_iter().flatten();
            files.extend(entries.map(|entry| entry.unwrap().path()));
        }
        files
    }

    fn change(&self, machine: &Machine) {
        let fresh = self.path("machine.new");
        std::fs::write(&fresh, serde_json::to_string(machine).unwrap()).unwrap();
        std::fs::rename(&fresh, self.path("machine.yaml")).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

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
    assert!(!text.contains("FAIL") && !text.contains("note"), "{text}");
    // Directories of a first start need not be there.
    std::fs::remove_dir(node.path("state")).unwrap();
    let (code, text) = node.check(&[]);
    assert!(code == 0 && text.contains("state will be made"), "{text}");
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

/// The running plugin, killed with the test.
struct Running {
    plugin: Child,
    admin: String,
}

impl Running {
    fn start(node: &Node, arguments: &[&str]) -> Self {
        let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let log = std::fs::File::create(node.path("log")).unwrap();
        let all = [&["--admin-address", &admin], arguments].concat();
        let plugin = node.command(&all).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Self { plugin, admin }
    }

    /// Status and body together.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.admin).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert_eq!(self.plugin.try_wait().unwrap(), None, "the plugin ended");
            assert!(begun.elapsed() < PATIENCE, "it never came to this: {what}; {:?}", self.get("/readyz"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.plugin.kill();
        let _ = self.plugin.wait();
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
