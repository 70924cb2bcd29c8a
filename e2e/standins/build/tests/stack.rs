//! The stand-ins as programs meet them: the libraries' layers, what a preload sees, and the driver's books.

mod machine;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use machine::{Cann, Node, artefacts, fields};
use standin_protocol::Machine;

fn readelf(cann: Cann, library: &str, option: &str) -> String {
    let output = Command::new("readelf").args(["-W", option]).arg(cann.lib().join(library)).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Dynamic symbols: (defined, undefined).
fn symbols(cann: Cann, library: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut defined, mut undefined) = (BTreeSet::new(), BTreeSet::new());
    for line in readelf(cann, library, "--dyn-syms").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [_, _, _, _, _, _, section, name, ..] = words[..] {
            let set = if section == "UND" { &mut undefined } else { &mut defined };
            set.insert(name.to_owned());
        }
    }
    (defined, undefined)
}

#[test]
fn the_libraries_lie_on_each_other_as_the_vendors_do() {
    for (cann, library, below) in [
        (Cann::V85, "libascendcl.so", Some("libacl_rt_impl.so")),
        (Cann::V85, "libacl_rt_impl.so", Some("libruntime.so")),
        (Cann::V85, "libruntime.so", None),
        (Cann::V92, "libascendcl.so", Some("libruntime.so")),
        (Cann::V92, "libruntime.so", None),
        (Cann::V85, "libdcmi.so", None),
    ] {
        let dynamic = readelf(cann, library, "-d");
        assert!(dynamic.contains(&format!("soname: [{library}]")), "{dynamic}");
        assert!(!dynamic.contains("libgcc_s"), "a minimal image has the C library only: {dynamic}");
        let needed = dynamic.lines().filter(|line| line.contains("NEEDED"));
        let vendor: Vec<&str> = needed
            .filter(|line| ["ascendcl", "acl_rt", "runtime"].iter().any(|part| line.contains(part)))
            .collect();
        assert_eq!(vendor.len(), usize::from(below.is_some()), "{dynamic}");
        assert!(below.is_none_or(|below| vendor[0].contains(&format!("[{below}]"))), "{dynamic}");
        assert!(library == "libdcmi.so" || dynamic.contains("SYMBOLIC"), "{library} has -Bsymbolic");
    }
}

#[test]
fn from_9_2_on_the_runtime_has_the_acl_layer_and_calls_itself() {
    let (runtime, wanted) = symbols(Cann::V92, "libruntime.so");
    let (acl, _) = symbols(Cann::V92, "libascendcl.so");
    for name in acl.iter().filter(|name| name.starts_with("acl")) {
        assert!(runtime.contains(&format!("{name}Impl")), "libruntime.so has no {name}Impl");
    }
    for library in ["libacl_rt_impl.so", "libruntime.so"] {
        for name in symbols(Cann::V85, library).0 {
            let vendors = name.starts_with("acl") || name.starts_with("rt");
            assert!(!vendors || runtime.contains(&name), "{name} of {library} is gone");
        }
    }
    assert!(!wanted.iter().any(|name| name.starts_with("acl") || name.starts_with("rt")));
    // A relocation by name would be open to a preload.
    let relocations = readelf(Cann::V92, "libruntime.so", "-r");
    let open = relocations.lines().find(|line| line.contains(" rt") || line.contains(" acl"));
    assert_eq!(open, None);
}

#[test]
fn every_call_crosses_the_library_boundary_by_name() {
    let (acl, acl_wants) = symbols(Cann::V85, "libascendcl.so");
    let (inner, inner_wants) = symbols(Cann::V85, "libacl_rt_impl.so");
    let (runtime, runtime_wants) = symbols(Cann::V85, "libruntime.so");
    for name in acl.iter().filter(|name| name.starts_with("acl")) {
        let wanted = format!("{name}Impl");
        assert!(acl_wants.contains(&wanted), "{name} does not call {wanted}");
        assert!(inner.contains(&wanted), "libacl_rt_impl.so has no {wanted}");
    }
    let from_runtime: Vec<&String> = inner_wants.iter().filter(|name| name.starts_with("rt")).collect();
    assert!(from_runtime.len() > 50);
    for name in from_runtime {
        assert!(runtime.contains(name), "libruntime.so has no {name}");
    }
    assert!(!runtime_wants.iter().any(|name| name.starts_with("acl") || name.starts_with("rt")));
}

#[test]
fn every_way_to_allocate_reaches_the_device_and_gives_back() {
    let node = Node::start(&Machine::ascend_910c(1, 1024));
    for cann in Cann::ALL {
        for (via, kinds) in [
            ("dlsym", &["align32", "cfg", "scheduler", "managed", "physical", "pool"][..]),
            ("link", &["align32", "physical"]),
            ("rt", &["rt", "rt-cached", "rts", "rt-alloc", "rt-managed", "rt-dvpp", "rt-physical"]),
            ("rt-link", &["rt", "rt-physical"]),
        ] {
            for kind in kinds {
                fills_the_chip(&node, cann, via, kind);
            }
        }
    }
}

fn fills_the_chip(node: &Node, cann: Cann, via: &str, kind: &str) {
    let out = node.demo_with(
        &["fill", "--via", via, "--kind", kind, "--chunk", "256Mi", "--device", "1"],
        &[("LD_LIBRARY_PATH", cann.lib().to_str().unwrap())],
    );
    for line in out.lines() {
        let fields = fields(line);
        assert_eq!(fields["total"], "1073741824", "{cann:?} {via} {kind}: {out}");
        if line.starts_with("fill") {
            assert_eq!(
                (&*fields["granted"], &*fields["code"], &*fields["free"]),
                ("1073741824", "207001", "0")
            );
        } else {
            assert_eq!(fields["free"], "1073741824", "{cann:?} {via} {kind}: {out}");
        }
    }
    assert_eq!(out.lines().count(), 4, "{out}");
}

#[test]
fn the_padding_of_malloc_costs_a_huge_page() {
    let node = Node::start(&Machine::ascend_910c(1, 1024));
    for kind in ["malloc", "cached"] {
        let out = node.demo(&["hold", "--kind", kind, "--bytes", "4Mi", "--seconds", "0"]);
        let fields = fields(out.lines().next().unwrap());
        assert_eq!(fields["free"], (1_073_741_824 - (6 << 20)).to_string(), "{out}");
    }
    let out = node.demo(&["hold", "--kind", "malloc", "--bytes", "1000", "--seconds", "0"]);
    assert_eq!(fields(out.lines().next().unwrap())["free"], (1_073_741_824 - 1536).to_string(), "{out}");
}

#[test]
fn the_device_is_shared_and_a_killed_process_gives_everything_back() {
    let node = Node::start(&Machine::ascend_910c(1, 1024));
    let mut holder = node.hold(0, 256 << 20);
    node.wait(|| (node.used(0) == 256 << 20).then_some(()));
    assert_eq!(node.used(1), 0);
    let out = node.demo(&["fill", "--chunk", "64Mi"]);
    assert_eq!(fields(out.lines().next().unwrap())["granted"], (768_u64 << 20).to_string());
    holder.kill().unwrap();
    holder.wait().unwrap();
    node.wait(|| (node.used(0) == 0).then_some(()));
    node.demo(&["crash", "--bytes", "512Mi"]);
    node.wait(|| (node.used(0) == 0).then_some(()));
}

#[test]
fn a_forked_child_has_books_of_its_own() {
    let node = Node::start(&Machine::ascend_910c(1, 1024));
    let out = node.demo(&["fork", "--bytes", "100Mi"]);
    let lines: Vec<_> = out.lines().map(fields).collect();
    assert_eq!(lines[0]["free"], (924_u64 << 20).to_string());
    assert_eq!(lines[1]["free"], (824_u64 << 20).to_string());
    assert_eq!(lines[2]["free"], (924_u64 << 20).to_string());
}

#[test]
fn a_program_sees_the_nodes_it_has_in_the_order_it_asks_for() {
    let node = Node::start(&Machine::ascend_910c(4, 1024));
    let phys =
        |out: &str| -> Vec<String> { out.lines().skip(1).map(|line| fields(line)["phys"].clone()).collect() };
    node.nodes(&[6, 2, 3]);
    assert_eq!(phys(&node.demo(&["info"])), ["2", "3", "6"]);
    let out = node.demo_with(&["info"], &[("ASCEND_RT_VISIBLE_DEVICES", "2,0")]);
    assert_eq!(phys(&out), ["6", "2"]);
    assert_eq!(phys(&node.demo(&["info", "--via", "rt"])), ["2", "3", "6"]);
}

#[test]
fn a_preload_stands_between_the_layers() {
    let node = Node::start(&Machine::ascend_910c(1, 1024));
    let source = node.root().join("preload.c");
    std::fs::write(
        &source,
        "int rtMalloc(void **p, unsigned long n, unsigned t, unsigned short m) { return 207001; }\n\
         int aclrtGetMemInfoImpl(unsigned a, unsigned long *f, unsigned long *t) { *f = 1; *t = 2; return 0; }\n",
    )
    .unwrap();
    let preload = node.root().join("preload.so");
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&preload).arg(&source).status().unwrap();
    assert!(status.success());
    for (cann, via, granted) in [
        (Cann::V85, "dlsym", "0"),
        (Cann::V85, "link", "0"),
        // What the ACL layer asks of the runtime stays inside; what others ask of the ACL layer does not.
        (Cann::V92, "dlsym", "1073741824"),
        (Cann::V92, "link", "1073741824"),
    ] {
        let environment =
            [("LD_PRELOAD", preload.to_str().unwrap()), ("LD_LIBRARY_PATH", cann.lib().to_str().unwrap())];
        let out = node.demo_with(&["fill", "--via", via], &environment);
        let fields = fields(out.lines().next().unwrap());
        assert_eq!(
            (&*fields["granted"], &*fields["free"], &*fields["total"]),
            (granted, "1", "2"),
            "{cann:?} {via}: {out}"
        );
    }
}

#[test]
fn a_driver_layout_has_what_containers_get() {
    let node = Node::start(&Machine::ascend_910c(1, 1024));
    let root = node.root().join("layout");
    let output = Command::new(artefacts().device())
        .arg("prepare")
        .arg("--config")
        .arg(node.root().join("machine.yaml"))
        .arg("--driver-root")
        .arg(&root)
        .arg("--dev-root")
        .arg(root.join("dev"))
        .output()
        .unwrap();
    for file in [
        "usr/local/dcmi/libdcmi.so",
        "usr/local/Ascend/driver/lib64/driver/libascendcl.so",
        "usr/local/Ascend/driver/version.info",
        "usr/local/bin/npu-smi",
        "etc/ascend_install.info",
    ] {
        assert!(root.join(file).exists(), "{file}");
    }
    let message = String::from_utf8(output.stderr).unwrap();
    if output.status.success() {
        assert!(Path::new(&root.join("dev/davinci1")).exists() && root.join("dev/davinci_manager").exists());
    } else {
        assert!(message.contains("CAP_MKNOD"), "without the right to make nodes it says so: {message}");
    }
}

#[test]
fn a_question_about_an_event_breaks_the_capture_of_another_thread_unless_its_mode_allows_it() {
    let node = Node::start(&Machine::ascend_910b(1, 1024));
    for cann in Cann::ALL {
        for via in ["dlsym", "rt"] {
            for (mode, recorded) in [("0", false), ("1", true), ("2", true)] {
                let output = node
                    .command(&["watched", "--via", via, "--mode", mode])
                    .env("LD_LIBRARY_PATH", cann.lib())
                    .output()
                    .unwrap();
                let out = String::from_utf8(output.stdout).unwrap();
                let told = format!("{cann:?} {via} in mode {mode}: {out}");
                if recorded {
                    assert_eq!(out, "recorded\n", "{told}");
                } else {
                    assert!(out.ends_with("code=507903\n"), "{told}");
                }
            }
        }
    }
}
