//! What programs in a claim learn of their chips from the vendors' management libraries: the claim's quota, its use and
//! its processes, chip by chip, and nothing of the neighbours. Stand-in libraries over a stand-in device; one client is
//! the vendor's own Python package.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

#[path = "../../../e2e/standins/build/tests/gpus/mod.rs"]
mod gpus;
#[path = "../../../e2e/standins/build/tests/machine/mod.rs"]
mod machine;
mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gpus::{fields, lines};
use standin_protocol::Machine;
use support::{GIB, MIB, Node, gpu_share, libraries, share};
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::Percent;
use vnpu_driver::share::ChipShare;

/// A program that stays until it is dropped.
struct Running(Child);

impl Running {
    /// Started, and at work: it has said its first line.
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new());
        let running = Self(child);
        assert!(said.unwrap() > 0, "it ended before it began");
        running
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The stand-in's GPU of this number.
fn gpu(minor: u8) -> [u8; 16] {
    let mut uuid = [0x7a, 0x3c, 0, 0, 0x5e, 0x1d, 0x4b, 0x20, 0x9f, 0, 1, 0x23, 0x45, 0x67, 0x89, 0xab];
    uuid[3] = minor;
    uuid
}

/// Two GPUs of 1 GiB; claim 1 has 512 MiB of the first.
struct Gpus {
    machine: gpus::Node,
    node: Node,
}

impl Gpus {
    fn new() -> Self {
        let node = Node::empty();
        let mut share = gpu_share(gpu(0), 512 * MIB);
        share.cores = Percent(25);
        node.claim(1, vec![share]);
        Self { machine: gpus::Node::start(&Machine::nvidia_h100(2, 1024)), node }
    }

    fn inside(&self, mut command: Command) -> Command {
        command
            .env("LD_PRELOAD", libraries().join("libvnpu.so"))
            .env("VNPU_REGION_DIR", self.node.dir.path());
        command
    }

    fn demo(&self, arguments: &[&str]) -> Command {
        self.inside(self.machine.command(arguments))
    }
}

/// The environment of another command.
fn like(command: &mut Command, other: &Command) {
    for (name, value) in other.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

fn output(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text.into_owned()
}

#[test]
fn nvml_shows_the_claims_part_of_its_device_and_the_other_device_as_it_is() {
    let world = Gpus::new();
    let _neighbours = [0, 1].map(|device: u32| {
        let device = device.to_string();
        Running::start(&mut world.machine.command(&["hold", "--bytes", "128Mi", "--device", &device]))
    });
    let own = Running::start(&mut world.demo(&["hold", "--bytes", "64Mi"]));
    let seen = output(world.demo(&["nvml"]));
    let gpus = lines(&seen, "gpu ");
    let numbers = |line: &BTreeMap<String, String>| {
        ["total", "used", "free", "total2", "used2"].map(|key| line[key].parse::<u64>().unwrap() / MIB)
    };
    assert_eq!(numbers(&gpus[0]), [512, 64, 448, 512, 64], "{seen}");
    assert_eq!(numbers(&gpus[1]), [1024, 128, 896, 1024, 128], "another device is not the claim's: {seen}");
    // The one that asks has nothing on the device, and the machine's other processes are nobody's business.
    let of = |gpu: &str| -> Vec<(String, String)> {
        let all = lines(&seen, "process ");
        let its = all.iter().filter(|line| line["gpu"] == gpu && line["bytes"] != "0");
        its.map(|line| (line["pid"].clone(), line["bytes"].clone())).collect()
    };
    assert_eq!(of("0"), [(own.pid(), (64 * MIB).to_string())], "{seen}");
    let list = lines(&seen, "process ").into_iter().find(|line| line["pid"] == own.pid()).unwrap();
    assert_eq!((&list["pid2"], &list["pid1"], &list["bytes1"]), (&own.pid(), &own.pid(), &list["bytes"]));
    let counts = lines(&seen, "processes ");
    assert_eq!(counts[0]["count"], counts[0]["room1"], "how many there are is said where there is no room");
    assert_eq!(counts[0]["code"], "7", "{seen}");
    assert_eq!(counts[1]["count"], "1", "{seen}");
}

#[test]
fn nvml_shows_how_much_of_its_own_compute_a_claim_used() {
    let world = Gpus::new();
    let busy = |command: &mut Command| Running::start(command);
    let neighbour = busy(&mut world.machine.command(&["busy", "--seconds", "60", "--micros", "500"]));
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let rate = |seen: &str| lines(seen, "gpu ")[0]["gpu"].parse::<u32>().unwrap();
    let idle = output(world.demo(&["nvml"]));
    assert_eq!(rate(&idle), 0, "a neighbour's work is not the claim's: {idle}");
    assert!(lines(&idle, "sample ").iter().all(|line| line["pid"] != neighbour.pid()), "{idle}");
    drop(neighbour);
    let own = busy(&mut world.demo(&["busy", "--seconds", "60", "--micros", "500"]));
    std::thread::sleep(std::time::Duration::from_millis(2500));
    output(world.demo(&["nvml"]));
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let seen = output(world.demo(&["nvml"]));
    // Of 25 percent of the chip it uses nearly all, unless the machine has no time for it.
    assert!(rate(&seen) > 30, "{seen}");
    let samples = lines(&seen, "sample ");
    assert!(samples.iter().all(|line| line["pid"] == own.pid()), "{seen}");
}

/// `nvidia-ml-py` in a directory of its own; `None`, and a line that says so, where Python cannot be had.
fn python() -> Option<PathBuf> {
    const PACKAGE: &str = "nvidia-ml-py==13.615.71";
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nvidia-ml-py-13.615.71");
    let python = place.join("bin/python");
    if !place.join("installed").exists() {
        let _ = std::fs::remove_dir_all(&place);
        let done = |command: &mut Command| {
            command.output().is_ok_and(|output| {
                if !output.status.success() {
                    println!("{}", String::from_utf8_lossy(&output.stderr));
                }
                output.status.success()
            })
        };
        let made = done(Command::new("python3").args(["-m", "venv"]).arg(&place))
            && done(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--no-deps", PACKAGE]));
        if !made {
            println!("NOT RUN: nvidia-ml-py: no Python with venv, or no package index");
            return None;
        }
        std::fs::write(place.join("installed"), "").unwrap();
    }
    Some(python)
}

const SCRIPT: &str = "
import pynvml as n
n.nvmlInit()
for i in range(n.nvmlDeviceGetCount()):
    d = n.nvmlDeviceGetHandleByIndex(i)
    m, m2 = n.nvmlDeviceGetMemoryInfo(d), n.nvmlDeviceGetMemoryInfo(d, version=n.nvmlMemory_v2)
    p = [(x.pid, x.usedGpuMemory) for x in n.nvmlDeviceGetComputeRunningProcesses(d) if x.usedGpuMemory]
    g = n.nvmlDeviceGetGraphicsRunningProcesses(d)
    print(f'device index={i} total={m.total} used={m.used} free={m.free} total2={m2.total} reserved={m2.reserved} '
          f'graphics={len(g)} rate={n.nvmlDeviceGetUtilizationRates(d).gpu} processes={p}'.replace(', ', ','))
";

#[test]
fn the_vendors_python_package_shows_the_quota() {
    let Some(python) = python() else { return };
    let world = Gpus::new();
    let _neighbour = Running::start(&mut world.machine.command(&["hold", "--bytes", "128Mi"]));
    let own = Running::start(&mut world.demo(&["hold", "--bytes", "64Mi"]));
    let script = |inside: bool| {
        let plain = world.machine.command(&["nvml"]);
        let mut command = Command::new(&python);
        command.args(["-c", SCRIPT]);
        like(&mut command, &plain);
        output(if inside { world.inside(command) } else { command })
    };
    let without = script(false);
    let all = lines(&without, "device ");
    assert_eq!(
        (&*all[0]["total"], all.len()),
        (&*GIB.to_string(), 2),
        "the library is the stand-in: {without}"
    );
    let within = script(true);
    let seen = lines(&within, "device ");
    let bytes = |mib: u64| (mib * MIB).to_string();
    for (key, value) in [("total", 512), ("used", 64), ("free", 448), ("total2", 512), ("reserved", 0)] {
        assert_eq!(seen[0][key], bytes(value), "{key}: {within}");
    }
    assert_eq!(seen[0]["processes"], format!("[({},{})]", own.pid(), 64 * MIB), "{within}");
    assert_eq!(seen[0]["graphics"], "0");
    assert_eq!(seen[1]["total"], bytes(1024), "{within}");
}

/// The small program that asks DCMI.
fn dcmi_program() -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dcmi-{}", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/dcmi.c");
    let output = support::arch::compiler()
        .args(["-O1", "-Wall", "-Werror", "-o"])
        .args([&program, &source])
        .arg("-ldl")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

#[test]
fn dcmi_shows_the_claims_part_of_its_chip_and_the_other_chip_as_it_is() {
    let described = Machine::ascend_910c(1, 4096);
    let die = described.cards[0].dies[0].vdie.map(|word| format!("{word:08X}")).join("-");
    let machine = machine::Node::start(&described);
    let node = Node::empty();
    let part = ChipShare { uuid: DeviceUuid::new(die).unwrap(), ..share(0, GIB) };
    node.claim(1, vec![part]);
    let program = dcmi_program();
    let environment = |mut command: Command, inside: bool| {
        command.env("LD_LIBRARY_PATH", machine::Cann::V85.lib());
        if inside {
            command.env("LD_PRELOAD", libraries().join("libvnpu.so")).env("VNPU_REGION_DIR", node.dir.path());
        }
        command
    };
    let ask = |device: &str, inside: bool| {
        let mut command = Command::new(&program);
        like(&mut command, &machine.command(&[]));
        command.arg(device);
        let text = output(environment(command, inside));
        (fields(text.lines().next().unwrap()), lines(&text, "process "), text)
    };
    let hold = |bytes: &str, inside| {
        Running::start(&mut environment(machine.command(&["hold", "--bytes", bytes]), inside))
    };
    let (_neighbour, own) = (hold("1Gi", false), hold("256Mi", true));
    let (all, everybody, text) = ask("0", false);
    assert_eq!((&*all["size"], &*all["usage"], everybody.len()), ("4096", "1280", 2), "{text}");
    let (seen, processes, text) = ask("0", true);
    let told =
        ["size", "available", "percent", "pages", "free", "hbm", "usage", "memory"].map(|key| &*seen[key]);
    assert_eq!(told, ["1024", "768", "25", "512", "384", "1024", "256", "25"], "{text}");
    let held: Vec<_> = processes.iter().filter(|p| p["bytes"] != "0").map(|p| p["pid"].clone()).collect();
    assert_eq!(held, [own.pid()], "{text}");
    assert_eq!(ask("1", true).0, ask("1", false).0, "the other die is no claim's");
    std::fs::remove_file(program).unwrap();
}

/// On a machine whose devices are busy with others' work.
#[test]
fn a_tenant_that_does_nothing_sees_nothing_done() {
    let dir = tempfile::tempdir().unwrap();
    for (out, options) in [
        ("libnvidia-ml.so.1", &["-DNVML", "-shared", "-Wl,-soname,libnvidia-ml.so.1"] as &[&str]),
        ("libdcmi.so", &["-DDCMI", "-shared", "-Wl,-soname,libdcmi.so"]),
        ("client", &["-DCLIENT", "-ldl"]),
    ] {
        support::build_fake(dir.path(), "neighbours.c", out, options);
    }
    let node = Node::empty();
    let die = [0x11, 0x22, 0x33, 0x44, 0x55].map(|word| format!("{word:08X}")).join("-");
    let npu = ChipShare { uuid: DeviceUuid::new(die).unwrap(), ..share(0, GIB) };
    node.claim(1, vec![gpu_share([7; 16], GIB), npu]);
    let busy = " 3/7 3/7 3/7 3/7 3/7 3/7 rates 77 66\n";
    let all = " 61 62 63 64 65 66 67 68 69 70 71 72 73\n";
    let seen = output(support::client(dir.path(), &node));
    // Of its own devices nothing; of the processors on the host's side (kinds 3, 4, 7, 8, 9, 11), and of the other
    // devices, what the machine says.
    let idle = " 0/0 0/0 0/0 0/0 0/0 0/0 rates 0 0\n";
    let own = " 0 0 63 64 0 0 67 68 69 0 71 0 0\n";
    assert_eq!(seen, format!("gpu1{idle}gpu2{busy}npu0{own}npu1{all}"));
}

#[test]
fn a_claim_whose_regions_are_broken_has_nothing_to_use() {
    let world = Gpus::new();
    let quota = world.node.file(1, "quota");
    std::fs::File::options().write(true).open(quota).unwrap().set_len(100).unwrap();
    let seen = output(world.demo(&["nvml"]));
    assert!(lines(&seen, "gpu ").iter().all(|gpu| gpu["free"] == "0"), "{seen}");
}

#[test]
fn outside_of_claims_nothing_is_changed() {
    let world = Gpus::new();
    let mut command = world.machine.command(&["nvml"]);
    command.env("LD_PRELOAD", libraries().join("libvnpu.so")).env_remove("VNPU_REGION_DIR");
    assert_eq!(output(command), output(world.machine.command(&["nvml"])));
}
