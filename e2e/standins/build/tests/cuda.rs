//! The CUDA driver's stand-in as programs meet it: the ways in, what memory costs, streams, captures and graphs.

mod gpus;

use std::collections::BTreeSet;
use std::process::Command;

use gpus::{Node, artefacts, fields, lines};
use standin_protocol::{Fault, Machine, UnknownSymbols};

/// Every way to get at the driver's functions.
const WAYS: [&str; 6] = ["link", "dlsym", "dlsym-ptsz", "proc", "proc-ptsz", "proc-old"];

const GIB: u64 = 1 << 30;

fn readelf(option: &str) -> String {
    let library = artefacts().lib.join("libcuda.so.1");
    let output = Command::new("readelf").args(["-W", option]).arg(library).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_library_has_the_vendors_name_and_exports_nothing_else() {
    let dynamic = readelf("-d");
    assert!(dynamic.contains("soname: [libcuda.so.1]") && dynamic.contains("SYMBOLIC"), "{dynamic}");
    assert!(!dynamic.contains("libgcc_s"), "a minimal image has the C library only: {dynamic}");
    let symbols = readelf("--dyn-syms");
    let exported: BTreeSet<&str> = symbols
        .lines()
        .filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [_, _, _, "FUNC", "GLOBAL", _, section, name, ..] if section != "UND" => Some(name),
            _ => None,
        })
        .collect();
    assert!(exported.len() > 200, "{}", exported.len());
    assert!(exported.iter().all(|name| name.starts_with("cu")), "{exported:?}");
    for generation in ["cuCtxCreate", "cuCtxCreate_v2", "cuCtxCreate_v3", "cuCtxCreate_v4"] {
        assert!(exported.contains(generation), "{generation}");
    }
    let needed = symbols.lines().filter(|line| line.contains(" GLOBAL ") && line.contains(" UND "));
    let too_new: Vec<&str> =
        needed.filter(|line| glibc(line).is_some_and(|version| version > GLIBC_FLOOR)).collect();
    assert!(too_new.is_empty(), "an old image's C library has not: {too_new:?}");
}

/// glibc 2.17, the oldest that images of today have.
const GLIBC_FLOOR: u32 = 17;

fn glibc(line: &str) -> Option<u32> {
    let (_, version) = line.split_once("@GLIBC_2.")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[test]
fn every_way_in_sees_the_same_devices() {
    let node = Node::start(&Machine::nvidia_h100(2, 1024));
    let seen = node.demo(&["info"]);
    let devices = lines(&seen, "device ");
    assert_eq!(devices[1]["uuid"], "GPU-7a3c0001-5e1d-4b20-9f00-0123456789ab");
    assert_eq!((&*devices[1]["total"], &*devices[1]["device_total"]), ("1073741824", "1073741824"));
    assert_eq!(devices[1]["name"], "NVIDIA_H100_80GB_HBM3");
    assert_eq!(lines(&seen, "devices")[0]["cuda"], "12080");
    for via in WAYS {
        assert_eq!(node.demo(&["info", "--via", via]), seen, "{via}");
    }
}

#[test]
fn every_way_to_take_memory_reaches_the_device_and_gives_back() {
    let node = Node::start(&Machine::nvidia_h100(2, 1024));
    let all = ["alloc", "pitch", "managed", "async", "pool", "vmm", "mapped", "array", "array3d", "mipmap"];
    for via in WAYS {
        let kinds = if via == "dlsym" { &all[..] } else { &["alloc", "async", "vmm"] };
        for kind in kinds {
            let out = node.demo(&["fill", "--via", via, "--kind", kind, "--chunk", "256Mi", "--device", "1"]);
            assert_eq!(out.lines().count(), 4, "{via} {kind}: {out}");
            for line in out.lines() {
                let fields = fields(line);
                assert_eq!(fields["total"], GIB.to_string(), "{via} {kind}: {out}");
                if line.starts_with("fill") {
                    assert_eq!(
                        (&*fields["granted"], &*fields["code"], &*fields["free"]),
                        ("1073741824", "2", "0"),
                        "{via} {kind}: {out}"
                    );
                } else {
                    assert_eq!(fields["free"], GIB.to_string(), "{via} {kind}: {out}");
                }
            }
        }
    }
}

#[test]
fn small_allocations_take_512_bytes_and_large_ones_pages() {
    let node = Node::start(&Machine::nvidia_h100(1, 1024));
    for (bytes, taken) in [("1", 512), ("513", 1024), ("1Mi", 2 << 20), ("3Mi", 4 << 20)] {
        let out = node.demo(&["hold", "--bytes", bytes, "--seconds", "0"]);
        assert_eq!(lines(&out, "holding")[0]["free"], (GIB - taken).to_string(), "{bytes}: {out}");
    }
}

#[test]
fn a_context_costs_what_the_machine_says() {
    let node = Node::start(&Machine { context_bytes: 300 << 20, ..Machine::nvidia_h100(1, 1024) });
    let out = node.demo(&["info"]);
    assert_eq!(lines(&out, "device ")[0]["used"], (300 << 20).to_string());
    let (mut holder, _) = node.start_demo(&["hold", "--bytes", "2Mi"]);
    assert_eq!(node.used(0), 302 << 20);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(node.used(0), 0);
}

#[test]
fn a_module_costs_what_the_machine_says() {
    let mut machine = Machine::nvidia_h100(1, 1024);
    machine.nvidia.as_mut().unwrap().module_bytes = 2 << 30;
    let node = Node::start(&machine);
    let out = node.demo(&["launch", "--count", "1"]);
    assert_eq!(
        (lines(&out, "failed")[0]["function"].as_str(), lines(&out, "failed")[0]["code"].as_str()),
        ("cuModuleLoadData", "2")
    );
}

#[test]
fn the_device_is_shared_and_a_killed_process_gives_everything_back() {
    let node = Node::start(&Machine::nvidia_h100(2, 1024));
    let (mut holder, _) = node.start_demo(&["hold", "--bytes", "256Mi"]);
    assert_eq!((node.used(0), node.used(1)), (256 << 20, 0));
    let out = node.demo(&["fill", "--chunk", "64Mi"]);
    assert_eq!(lines(&out, "fill")[0]["granted"], (768_u64 << 20).to_string());
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(node.used(0), 0);
    node.demo(&["crash", "--bytes", "512Mi", "--kind", "async"]);
    assert_eq!(node.used(0), 0);
}

#[test]
fn a_forked_child_cannot_use_the_driver_and_harms_nobody() {
    let node = Node::start(&Machine::nvidia_h100(1, 1024));
    let out = node.demo(&["fork", "--bytes", "64Mi"]);
    let child: Vec<&str> = out.lines().filter(|line| line.starts_with("child")).collect();
    assert_eq!(child, ["child init=3", "child memory=3"]);
    assert_eq!(lines(&out, "parent")[0]["free"], (GIB - (64 << 20)).to_string());
}

#[test]
fn a_program_sees_the_nodes_it_has_in_the_order_it_asks_for() {
    let node = Node::start(&Machine::nvidia_h100(4, 1024));
    let uuids = |out: &str| -> Vec<String> {
        lines(out, "device ").iter().map(|line| line["uuid"][4..12].to_owned()).collect()
    };
    node.nodes(&[3, 1, 2]);
    assert_eq!(uuids(&node.demo(&["info"])), ["7a3c0001", "7a3c0002", "7a3c0003"]);
    let seen = |list: &str| uuids(&node.demo_with(&["info"], &[("CUDA_VISIBLE_DEVICES", list)]));
    assert_eq!(seen("2,0"), ["7a3c0003", "7a3c0001"]);
    assert_eq!(seen("GPU-7a3c0002,0"), ["7a3c0002", "7a3c0001"]);
    assert_eq!(seen("1,9,0"), ["7a3c0002"], "the list ends at what is no device");
    let out = node.demo_with(&["info"], &[("CUDA_VISIBLE_DEVICES", "-1")]);
    assert_eq!(
        (&*lines(&out, "failed")[0]["function"], &*lines(&out, "failed")[0]["code"]),
        ("cuInit", "100")
    );
    node.nodes(&[]);
    assert_eq!(lines(&node.demo(&["info"]), "failed")[0]["code"], "100");
}

#[test]
fn the_driver_names_functions_by_version_and_stream() {
    let mut machine = Machine::nvidia_h100(1, 1024);
    let node = Node::start(&machine);
    let seen = |via: &str| -> Vec<String> {
        let out = node.demo(&["symbols", "--via", via]);
        let line = |line: std::collections::BTreeMap<String, String>| {
            ["name", "version", "flags", "code", "status", "as"].map(|key| line[key].clone()).join(" ")
        };
        lines(&out, "symbol").into_iter().map(line).collect()
    };
    let expected = [
        "cuMemAlloc 3010 1 0 0 cuMemAlloc",
        "cuMemAlloc 3020 1 0 0 cuMemAlloc_v2",
        "cuMemAlloc 12000 2 0 0 cuMemAlloc_v2",
        "cuCtxCreate 3010 1 0 0 cuCtxCreate",
        "cuCtxCreate 11030 1 0 0 cuCtxCreate_v2",
        "cuCtxCreate 11040 1 0 0 cuCtxCreate_v3",
        "cuCtxCreate 12050 1 0 0 cuCtxCreate_v4",
        "cuLaunchKernel 12000 1 0 0 cuLaunchKernel",
        "cuLaunchKernel 12000 2 0 0 cuLaunchKernel_ptsz",
        "cuLaunchKernel 6050 2 0 0 cuLaunchKernel",
        "cuStreamBeginCapture 10000 1 0 0 cuStreamBeginCapture",
        "cuStreamBeginCapture 12000 2 0 0 cuStreamBeginCapture_v2_ptsz",
        "cuGetProcAddress 11030 0 0 0 cuGetProcAddress",
        "cuGetProcAddress 12000 0 0 0 cuGetProcAddress_v2",
        "cuMemAllocAsync 11010 1 500 2 -",
        "cuMemAlloc_v2 12000 1 500 1 -",
        "cuNoSuchFunction 12000 1 500 1 -",
        "cuInit 99000 1 1 -1 -",
        "cuInit 12000 3 1 -1 -",
    ];
    assert_eq!(seen("dlsym"), expected);
    assert_eq!(seen("link"), expected);
    machine.nvidia.as_mut().unwrap().unknown_symbols = UnknownSymbols::Null;
    node.change(&machine);
    let answers = seen("dlsym");
    assert!(answers.contains(&"cuNoSuchFunction 12000 1 0 1 -".to_owned()), "{answers:?}");
}

#[test]
fn kernels_take_their_time_and_events_tell_it() {
    let node = Node::start(&Machine::nvidia_h100(1, 1024));
    for via in WAYS {
        let out = node.demo(&["launch", "--count", "20", "--micros", "1000", "--via", via]);
        let launched = &lines(&out, "launched")[0];
        let took: f64 = launched["milliseconds"].parse().unwrap();
        // Nobody else is on the device: its queue may have run dry between launches, but ran 20 ms.
        assert!((20.0..500.0).contains(&took), "{via}: {out}");
        let states = ["fresh", "pending", "busy", "called"].map(|key| launched[key].as_str());
        assert_eq!(states, ["0", "600", "600", "7"], "{via}: {out}");
        let module: f64 = lines(&out, "other")[0]["module_milliseconds"].parse().unwrap();
        assert!((1.0..100.0).contains(&module), "{via}: {out}");
    }
}

#[test]
fn the_calls_that_break_a_capture_are_the_vendors() {
    let node = Node::start(&Machine::nvidia_h100(1, 1024));
    let out = node.demo(&["capture"]);
    let broken: Vec<String> = lines(&out, "capture mode")
        .into_iter()
        .filter(|line| line["query"] != "0" || line["end"] != "0")
        .map(|line| ["mode", "caller", "caller_mode", "query", "end"].map(|key| line[key].clone()).join(" "))
        .collect();
    assert_eq!(
        broken,
        ["global own global 900 901", "global other global 900 901", "local own global 900 901"],
        "{out}"
    );
    assert_eq!(lines(&out, "capture mode").len(), 12);
    let allocate = &lines(&out, "capture allocate")[0];
    assert_eq!((&*allocate["allocate"], &*allocate["end"]), ("900", "901"), "{out}");
    let branches: Vec<_> = lines(&out, "branch")
        .into_iter()
        .map(|line| ["capturing", "end", "captured_event"].map(|key| line[key].clone()).join(" "))
        .collect();
    assert_eq!(branches, ["1 0 907", "1 904 907"], "{out}");
}

#[test]
fn a_graph_runs_what_was_captured_and_takes_memory_when_it_is_launched() {
    let node = Node::start(&Machine::nvidia_h100(1, 1024));
    for via in ["dlsym", "proc-ptsz"] {
        let out = node.demo(&["graph", "--count", "20", "--micros", "500", "--bytes", "64Mi", "--via", via]);
        let executed = &lines(&out, "executed")[0];
        let share: f64 = executed["share"].parse().unwrap();
        assert!((10.0..101.0).contains(&share), "{out}");
        assert_eq!(
            ["ready", "launched", "destroyed"].map(|key| executed[key].as_str()),
            ["0", "67108864", "0"],
            "{out}"
        );
    }
}

#[test]
fn a_pool_reserves_in_pieces_and_gives_back_when_waited_for() {
    let node = Node::start(&Machine::nvidia_h100(1, 1024));
    let out = node.demo(&["pool", "--bytes", "1000"]);
    let seen: Vec<_> = lines(&out, "pool")
        .into_iter()
        .map(|line| ["at", "reserved", "used"].map(|key| line[key].clone()).join(" "))
        .collect();
    assert_eq!(seen, ["begin 0 0", "allocated 33554432 1024", "freed 33554432 0", "waited 0 0"], "{out}");
}

#[test]
fn physical_memory_lives_as_long_as_a_handle_or_a_mapping() {
    let node = Node::start(&Machine::nvidia_h100(1, 1024));
    let out = node.demo(&["vmm", "--bytes", "64Mi"]);
    let held = (GIB - (64 << 20)).to_string();
    for line in lines(&out, "vmm") {
        match line["at"].as_str() {
            "odd" => assert_eq!(line["code"], "1", "not a multiple of the granularity"),
            "unmapped" => assert_eq!(line["free"], GIB.to_string()),
            _ => assert_eq!(line["free"], held, "{out}"),
        }
    }
    assert_eq!(lines(&out, "vmm").len(), 5, "{out}");
}

#[test]
fn memory_of_another_process_charges_its_owner() {
    let node = Node::start(&Machine::nvidia_h100(1, 1024));
    let (mut owner, line) = node.start_demo(&["export", "--bytes", "64Mi"]);
    assert_eq!(fields(&line)["own"], "201", "a process does not open its own");
    let out = node.demo(&["import", "--handle", &fields(&line)["handle"]]);
    let imported = &lines(&out, "imported")[0];
    assert_eq!(
        (imported["bytes"].as_str(), imported["free"].as_str()),
        ("67108864", (GIB - (64 << 20)).to_string().as_str())
    );
    assert_eq!(lines(&out, "closed")[0]["free_code"], "1", "it is not the importer's to free");
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert_eq!(node.used(0), 0);
}

#[test]
fn a_driver_that_fails_by_configuration_fails_at_its_beginning() {
    let mut machine = Machine::nvidia_h100(1, 1024);
    machine.faults =
        vec![Fault { function: "cuInit".to_owned(), card: None, device: None, error: 802, hang: false }];
    let node = Node::start(&machine);
    assert_eq!(lines(&node.demo(&["info"]), "failed")[0]["code"], "802");
}

#[test]
fn two_processes_share_a_device_by_its_discipline() {
    let node = Node::start(&Machine::nvidia_h100(1, 1024));
    let arguments = ["busy", "--micros", "1000", "--seconds", "2"];
    let other = node.command(&arguments).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let out = node.demo(&arguments);
    let other = String::from_utf8(other.wait_with_output().unwrap().stdout).unwrap();
    let mean = |out: &str| -> f64 { lines(out, "busy").last().unwrap()["mean"].parse().unwrap() };
    let (one, two) = (mean(&out), mean(&other));
    assert!(one + two < 120.0 && one > 15.0 && two > 15.0, "{one} {two}");
}
