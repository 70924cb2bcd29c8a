//! The backend over files of a temporary directory. Device nodes are links to `/dev/null`; a file that hangs is a pipe
//! that nobody writes to.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vnpu_driver::hardware::{Health, Inventory, ProcessView, VendorName};
use vnpu_driver::id::NodeName;
use vnpu_driver::order::PublishedOrder;
use vnpu_driver::planner::{NodeLabels, PlanInput, plan_pool};
use vnpu_driver::quantity::Bytes;

use super::{Generic, GenericOptions, GenericSource};
use crate::backend::Backend;
use crate::heard::Heard;
use crate::promises;

struct Node {
    root: TempDir,
    backend: Generic,
}

impl Node {
    /// A node with device nodes `acme0` to `acme3` and `acmectl`.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("dev")).unwrap();
        for name in ["acme0", "acme1", "acme2", "acme3", "acmectl"] {
            symlink("/dev/null", root.path().join("dev").join(name)).unwrap();
        }
        let source =
            GenericSource { vendor: VendorName::new("acme").unwrap(), file: root.path().join("acme.yaml") };
        let backend = Generic::new(GenericOptions {
            driver_root: root.path().join("driver"),
            dev_root: root.path().join("dev"),
            sys_root: root.path().join("sys"),
            deadline: Duration::from_millis(300),
            ..GenericOptions::of(source)
        });
        Self { root, backend }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        fs::write(path, text).unwrap();
    }

    /// A file that does not answer.
    fn hang(&self, name: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .unwrap();
    }

    /// The description: a head, and devices.
    fn describe(&self, common: &str, devices: &str) {
        let root = self.root.path().display().to_string();
        let text = format!(
            "apiVersion: vnpu.dev/v1alpha1\nkind: GenericDevices\nvendor: acme\nmodel: A10\nmemory: 16Gi\n{common}\ndevices:\n{devices}\n"
        );
        self.put("acme.yaml", &text.replace("ROOT", &root));
    }

    fn look(&self) -> Inventory {
        self.backend.discover().unwrap()
    }
}

fn device(card: u32) -> String {
    format!("- {{card: {card}, uuid: ACME-{card}, nodes: [acme{card}]}}")
}

fn devices(cards: impl IntoIterator<Item = u32>) -> String {
    cards.into_iter().map(device).collect::<Vec<_>>().join("\n")
}

fn names(inventory: &Inventory) -> Vec<String> {
    inventory.chips.iter().map(|chip| chip.name().to_string()).collect()
}

fn problems(inventory: &Inventory) -> Vec<(&str, &str)> {
    inventory.problems.iter().map(|p| (p.object.as_str(), p.reason.as_str())).collect()
}

#[test]
fn what_the_file_says_is_published() {
    let node = Node::new();
    node.put("sys/class/acme/acme1/serial", "  ACME-B\nmore\n");
    node.put("sys/module/acme/version", "1.2.3-4\n");
    node.put("sys/class/acme/acme1/bytes", "34359738368\n");
    node.put("sys/bus/pci/devices/0000:82:00.0/numa_node", "1\n");
    node.describe(
        "productName: Acme A10\ndriverVersion: {file: ROOT/sys/module/acme/version}",
        "- {card: 0, uuid: ACME-A, nodes: [acme0], pci: '0000:81:00.0', numaNode: 0, linkGroup: ring-0, sharing: counted}\n\
         - {card: 5, uuid: {file: ROOT/sys/class/acme/acme1/serial}, nodes: [acme1], pci: '0000:82:00.0', \
         memory: {file: ROOT/sys/class/acme/acme1/bytes}}",
    );
    let inventory = node.look();
    assert_eq!(problems(&inventory), []);
    assert_eq!(inventory.vendor.as_str(), "acme");
    assert_eq!(inventory.driver_version, "1.2.3-4");
    assert_eq!(names(&inventory), ["chip-0-0", "chip-5-0"]);
    let (first, second) = (&inventory.chips[0], &inventory.chips[1]);
    assert_eq!((first.uuid.as_str(), first.memory, first.numa_node), ("ACME-A", Bytes::gib(16), Some(0)));
    assert_eq!((first.model.as_str(), first.product_name.as_str()), ("A10", "Acme A10"));
    assert_eq!((first.traits.link_group.as_str(), &first.traits.whole_only), ("ring-0", &None));
    assert_eq!((second.uuid.as_str(), second.memory, second.numa_node), ("ACME-B", Bytes::gib(32), Some(1)));
    assert_eq!(second.pci.unwrap().to_string(), "0000:82:00.0");
    // Nobody said that shares without enforcement are wanted.
    assert!(second.traits.whole_only.as_deref().unwrap().contains("sharing: counted"));
    assert_eq!((&first.health, first.module), (&Health::Healthy, None));
    assert!(!node.backend.processes(first).unwrap_err().retryable());
}

#[test]
fn all_promises_of_a_backend_are_kept() {
    let node = Node::new();
    // Named twice, and as a device's own too.
    node.describe("controlNodes: [acmectl, acmectl, acme0]", &devices(0..4));
    promises::keep(&node.backend);
}

#[test]
fn containers_get_the_devices_nodes_the_control_nodes_and_the_drivers_files() {
    let node = Node::new();
    node.put("driver/usr/lib/libacme.so.1.2", "");
    symlink("libacme.so.1.2", node.path("driver/usr/lib/libacme.so")).unwrap();
    symlink("/usr/lib/libacme.so.1.2", node.path("driver/usr/lib/libacme.so.1")).unwrap();
    node.put("driver/opt/acme/bin/acme-smi", "");
    node.describe(
        "controlNodes: [acmectl, not-there]\nmounts: [/usr/lib/libacme.so*, /opt/acme, /usr/lib/libacme.so]",
        &devices([0, 1]),
    );
    let chips = node.look().chips;
    let edits = node.backend.edits(&chips[1..]).unwrap();
    let nodes: Vec<_> = edits.device_nodes.iter().map(|n| n.container_path.to_str().unwrap()).collect();
    assert_eq!(nodes, ["/dev/acme1", "/dev/acmectl"]);
    assert_eq!(edits.device_nodes[0].host_path, node.path("dev/acme1"));
    let mounts: Vec<_> = edits
        .mounts
        .iter()
        .map(|m| (m.host_path.strip_prefix(node.path("driver")).unwrap(), m.container_path.as_path()))
        .collect();
    let real = Path::new("usr/lib/libacme.so.1.2");
    assert_eq!(
        mounts,
        [
            (real, Path::new("/usr/lib/libacme.so")),
            (real, Path::new("/usr/lib/libacme.so.1")),
            (real, Path::new("/usr/lib/libacme.so.1.2")),
            (Path::new("opt/acme"), Path::new("/opt/acme")),
        ]
    );
    fs::remove_file(node.path("dev/acme1")).unwrap();
    assert_eq!(node.backend.edits(&chips[1..]).unwrap_err().reason(), "device_node_missing");
    let stranger = vnpu_driver::hardware::Chip { uuid: "ACME-9".parse().unwrap(), ..chips[0].clone() };
    assert!(node.backend.edits(&[stranger]).unwrap_err().to_string().contains("ACME-9"));
}

#[test]
fn a_wrong_file_is_named_with_its_line_and_the_one_before_stays() {
    let node = Node::new();
    let error = node.backend.discover().unwrap_err();
    assert_eq!((error.reason(), error.retryable()), ("file_missing", true));
    let head = "apiVersion: vnpu.dev/v1alpha1\nkind: GenericDevices\nvendor: acme\n";
    let wrongs = [
        ("{", "line 1"),
        ("a: b", "line 1"),
        ("apiVersion: vnpu.dev/v2\nkind: GenericDevices\nvendor: acme\ndevices: []", "line 1"),
        (&format!("{head}memroy: 1Gi\ndevices: []"), "line 4"),
        (&format!("{head}devices:\n- {{card: -1, uuid: a, nodes: [a]}}"), "line 5"),
        (&format!("{head}devices:\n- {{card: 1, uuid: {{fil: /a}}, nodes: [a]}}"), "line 5"),
        (&format!("{head}devices:\n- {{card: 1, uuid: {{file: a/b}}, nodes: [a]}}"), "absolute"),
        (&format!("{head}devices:\n- card: 1\n  uuid: 1.5\n  nodes: [a]"), "line 6"),
        (&format!("{head}devices: []\ndevices: []"), "line 5"),
        ("apiVersion: vnpu.dev/v1alpha1\nkind: GenericDevices\nvendor: other\ndevices: []", "named for acme"),
    ];
    for (text, says) in &wrongs {
        node.put("acme.yaml", text);
        let error = node.backend.discover().unwrap_err();
        let message = error.to_string();
        assert_eq!(error.reason(), "description_invalid", "{message}");
        assert!(message.contains(says) && message.contains("acme.yaml"), "{says}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    node.describe("", &devices([0]));
    assert_eq!(names(&node.look()), ["chip-0-0"]);
    for (text, says) in &wrongs {
        node.put("acme.yaml", text);
        let inventory = node.look();
        assert_eq!(names(&inventory), ["chip-0-0"]);
        assert_eq!(inventory.problems.len(), 1);
        let message = &inventory.problems[0].message;
        assert!(message.contains(says) && message.ends_with("stays in force"), "{message}");
    }
    fs::remove_file(node.path("acme.yaml")).unwrap();
    assert_eq!(node.look().problems[0].reason, "file_missing");
    // Mended: read again.
    node.describe("", &devices([0, 1]));
    let inventory = node.look();
    assert_eq!(
        (names(&inventory), problems(&inventory)),
        (vec!["chip-0-0".into(), "chip-1-0".into()], vec![])
    );
}

#[test]
fn a_device_that_cannot_be_used_is_named_and_the_others_are_served() {
    let node = Node::new();
    node.put("dev/file", "no device");
    node.put("empty", "");
    let long = "x".repeat(65);
    for (wrong, reason) in [
        ("{card: 9, uuid: '', nodes: [acme2]}", "missing_uuid"),
        ("{card: 9, uuid: {file: ROOT/empty}, nodes: [acme2]}", "missing_uuid"),
        ("{card: 9, uuid: {file: ROOT/nowhere}, nodes: [acme2]}", "missing_uuid"),
        (&format!("{{card: 9, uuid: {long}, nodes: [acme2]}}"), "invalid_uuid"),
        ("{card: 9, uuid: a/b, nodes: [acme2]}", "invalid_uuid"),
        ("{card: 9, uuid: a, nodes: []}", "no_device_node"),
        ("{card: 9, uuid: a, nodes: [/dev/acme2]}", "invalid_device_node"),
        ("{card: 9, uuid: a, nodes: [../dev/acme2]}", "invalid_device_node"),
        ("{card: 9, uuid: a, nodes: [acme77]}", "device_node_missing"),
        ("{card: 9, uuid: a, nodes: [file]}", "device_node_missing"),
        ("{card: 9, uuid: a, nodes: [acme2], memory: 0}", "zero_memory"),
        ("{card: 9, uuid: a, nodes: [acme2], memory: lots}", "invalid_memory"),
        ("{card: 9, uuid: a, nodes: [acme2], memory: {file: ROOT/nowhere}}", "file_missing"),
    ] {
        node.describe("", &format!("{}\n- {wrong}", devices([0, 1])));
        let inventory = node.look();
        assert_eq!(names(&inventory), ["chip-0-0", "chip-1-0"], "{wrong}");
        assert_eq!(problems(&inventory), [("devices[2] (card 9)", reason)], "{wrong}");
        assert_eq!(inventory.problems[0].message.lines().count(), 1);
    }
}

#[test]
fn what_is_only_beside_the_point_costs_no_device() {
    let node = Node::new();
    let long = "x".repeat(65);
    for (common, device, object, reason) in [
        (format!("productName: {long}"), String::new(), "productName", "text_too_long"),
        (String::new(), format!("linkGroup: {long}"), "card 0", "text_too_long"),
        (String::new(), "pci: '81:00.0'".to_owned(), "card 0", "invalid_pci"),
        ("mounts: [/usr/lib/none*]".to_owned(), String::new(), "mounts", "mount_missing"),
        ("mounts: [/usr/../etc]".to_owned(), String::new(), "mounts", "invalid_mount"),
        ("mounts: [/]".to_owned(), String::new(), "mounts", "invalid_mount"),
        ("controlNodes: [../null]".to_owned(), String::new(), "controlNodes", "invalid_device_node"),
        ("driverVersion: {file: ROOT/nowhere}".to_owned(), String::new(), "driverVersion", "file_missing"),
    ] {
        node.describe(&common, &format!("- {{card: 0, uuid: a, nodes: [acme0], {device}}}"));
        let inventory = node.look();
        assert_eq!(names(&inventory), ["chip-0-0"], "{common} {device}");
        assert_eq!(problems(&inventory), [(object, reason)]);
        assert_eq!((&inventory.chips[0].pci, inventory.chips[0].traits.link_group.as_str()), (&None, ""));
        assert!(node.backend.edits(&inventory.chips).unwrap().mounts.is_empty());
    }
}

#[test]
fn of_two_devices_with_one_thing_nobody_has_it_at_first_and_its_old_owner_later() {
    for (twin, reason) in [
        ("{card: 0, uuid: other, nodes: [acme2]}", "duplicate_card"),
        ("{card: 9, uuid: ACME-0, nodes: [acme2]}", "duplicate_uuid"),
        ("{card: 9, uuid: other, nodes: [acme2, acme0]}", "duplicate_device_node"),
        ("{card: 9, uuid: other, nodes: [acme2], pci: '0000:81:00.0'}", "duplicate_pci"),
    ] {
        let owner = "- {card: 0, uuid: ACME-0, nodes: [acme0], pci: '0000:81:00.0'}";
        // Before and behind its owner in the file.
        for both in [format!("- {twin}\n{owner}"), format!("{owner}\n- {twin}")] {
            let node = Node::new();
            node.describe("", &format!("{both}\n{}", device(1)));
            let inventory = node.look();
            assert_eq!(names(&inventory), ["chip-1-0"], "{twin}");
            assert_eq!(inventory.problems.len(), 1, "{:?}", inventory.problems);
            assert_eq!(inventory.problems[0].reason, reason);

            let node = Node::new();
            node.describe("", owner);
            node.look();
            node.describe("", &format!("{both}\n{}", device(1)));
            let inventory = node.look();
            assert_eq!(names(&inventory), ["chip-0-0", "chip-1-0"], "{twin}");
            assert_eq!(inventory.chips[0].uuid.as_str(), "ACME-0");
            assert_eq!(inventory.problems[0].reason, reason);
        }
    }
}

#[test]
fn sixty_five_devices_are_published_in_several_slices() {
    let node = Node::new();
    for card in 0..65 {
        let _ = symlink("/dev/null", node.path("dev").join(format!("acme{card}")));
    }
    node.describe("", &devices(0..65));
    let inventory = node.look();
    assert_eq!((inventory.chips.len(), problems(&inventory)), (65, vec![]));
    let plan = plan_pool(&PlanInput {
        node: &NodeName::new("node-1").unwrap(),
        inventory: &inventory,
        labels: &NodeLabels::default(),
        in_use: &Default::default(),
        vanished: &[],
        sick: &Default::default(),
        order: &PublishedOrder::default(),
    })
    .unwrap();
    assert_eq!(plan.pool.as_str(), "node-1/acme");
    let sizes: Vec<usize> = plan.slices.iter().map(|slice| slice.devices().len()).collect();
    assert!(sizes.len() > 1 && sizes.iter().all(|size| *size <= 64), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 65);
}

#[test]
fn health_is_what_the_files_say_at_every_look() {
    let node = Node::new();
    let own = "- {card: 1, uuid: b, nodes: [acme1], health: {file: ROOT/own, healthy: ['0']}}";
    node.describe("health: {file: ROOT/all}", &format!("{}\n{own}", device(0)));
    let healths = || node.look().chips.into_iter().map(|chip| chip.health).collect::<Vec<_>>();
    let unknown = |health: &Health, why: &str| matches!(health, Health::Unknown(text) if text.contains(why));
    let now = healths();
    assert!(unknown(&now[0], "all is not there") && unknown(&now[1], "own is not there"), "{now:?}");
    node.put("all", " ok \nnot read\n");
    node.put("own", "0");
    assert_eq!(healths(), [Health::Healthy, Health::Healthy]);
    node.put("all", &format!("fan \u{7}stopped {}\n", "!".repeat(400)));
    node.put("own", "ok\n");
    let now = healths();
    assert_eq!(now[0], Health::fault("fan", format!("fan stopped {}", "!".repeat(244))));
    assert_eq!(now[1], Health::fault("ok", "ok"));
    node.put("all", "\n");
    fs::write(node.path("own"), [0xff, 0xfe]).unwrap();
    let now = healths();
    assert!(unknown(&now[0], "is empty") && unknown(&now[1], "no text"), "{now:?}");
}

#[test]
fn a_file_that_hangs_holds_nobody_up_and_costs_no_second_thread() {
    let node = Node::new();
    let mut described = String::new();
    for card in 0..4 {
        node.put(&format!("health/{card}"), "ok");
        node.put(&format!("serial/{card}"), &format!("ACME-{card}"));
        described += &format!(
            "- {{card: {card}, uuid: {{file: ROOT/serial/{card}}}, nodes: [acme{card}], health: {{file: ROOT/health/{card}}}}}\n"
        );
    }
    node.describe("", &described);
    let before = node.look();
    assert!(before.chips.len() == 4 && before.chips.iter().all(|chip| chip.health == Health::Healthy));
    for card in 0..4 {
        node.hang(&format!("health/{card}"));
    }
    node.hang("serial/2");
    for _ in 0..3 {
        let start = Instant::now();
        let inventory = node.look();
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        assert_eq!(names(&inventory), names(&before));
        assert!(
            inventory
                .chips
                .iter()
                .all(|c| matches!(&c.health, Health::Unknown(why) if why.contains("hangs"))),
            "{:?}",
            inventory.chips
        );
        assert_eq!(inventory.chips[2].uuid, before.chips[2].uuid);
    }
    assert!(node.backend.hanging() <= 2, "one for each directory");
    // What hangs ends, and all is well again.
    for card in 0..4 {
        let pipe =
            fs::OpenOptions::new().read(true).write(true).open(node.path(&format!("health/{card}"))).unwrap();
        node.put(&format!("health/{card}"), "ok");
        drop(pipe);
    }
    let pipe = fs::OpenOptions::new().read(true).write(true).open(node.path("serial/2")).unwrap();
    node.put("serial/2", "ACME-2");
    drop(pipe);
    while node.look() != before {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_description_that_hangs_is_said_and_the_one_before_stays() {
    let node = Node::new();
    node.hang("acme.yaml");
    assert_eq!(node.backend.discover().unwrap_err().reason(), "file_hangs");
    let pipe = fs::OpenOptions::new().read(true).write(true).open(node.path("acme.yaml")).unwrap();
    node.describe("", &devices([0]));
    drop(pipe);
    while node.backend.discover().is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    node.hang("acme.yaml");
    let inventory = node.look();
    assert_eq!(names(&inventory), ["chip-0-0"]);
    assert_eq!(inventory.problems[0].reason, "file_hangs");
    let pipe = fs::OpenOptions::new().read(true).write(true).open(node.path("acme.yaml")).unwrap();
    drop(pipe);
}

#[test]
fn a_device_that_is_unplugged_renames_no_other() {
    let node = Node::new();
    node.describe("", &devices(0..4));
    let before = node.look();
    fs::remove_file(node.path("dev/acme1")).unwrap();
    let inventory = node.look();
    assert_eq!(names(&inventory), ["chip-0-0", "chip-2-0", "chip-3-0"]);
    assert_eq!(inventory.chips[1..], before.chips[2..]);
    symlink("/dev/null", node.path("dev/acme1")).unwrap();
    assert_eq!(node.look(), before);
}

#[test]
fn a_source_is_a_vendor_and_an_absolute_path() {
    let source: GenericSource = "acme=/etc/vnpu/acme.yaml".parse().unwrap();
    assert_eq!((source.vendor.as_str(), source.to_string().as_str()), ("acme", "acme=/etc/vnpu/acme.yaml"));
    for odd in ["", "acme", "acme=", "acme=acme.yaml", "=/a", "Acme=/a", "nvidia=/a"] {
        assert!(odd.parse::<GenericSource>().is_err(), "{odd}");
    }
}

#[test]
fn another_word_in_a_health_file_is_told_between_the_looks() {
    let node = Node::new();
    let health = |card: u32| {
        format!(
            "- {{card: {card}, uuid: A{card}, nodes: [acme{card}], health: {{file: ROOT/h{card}/state}}}}\n"
        )
    };
    node.put("h0/state", "ok\n");
    node.hang("h1/state");
    node.describe("", &(health(0) + &health(1)));
    let (tell, told) = std::sync::mpsc::channel();
    node.backend.listen(Heard::new(move || _ = tell.send(())));
    node.look();
    // What the files say first is told as well, since it may be other than the look saw.
    let (soon, quiet) = (Duration::from_secs(10), Duration::from_millis(1500));
    told.recv_timeout(soon).unwrap();
    assert!(told.recv_timeout(quiet).is_err(), "told of nothing, beside a file that hangs");
    for (text, changes) in
        [("ecc error\n", true), ("ecc error\nand more\n", false), ("ok\n", true), ("\n", true)]
    {
        fs::write(node.path("fresh"), text).unwrap();
        fs::rename(node.path("fresh"), node.path("h0/state")).unwrap();
        assert_eq!(told.recv_timeout(if changes { soon } else { quiet }).is_ok(), changes, "{text:?}");
    }
    fs::remove_file(node.path("h0/state")).unwrap();
    told.recv_timeout(soon).unwrap();
    // A file that the next look names is followed, one that it does not name any more is not.
    node.put("h2/state", "ok\n");
    node.describe("", &(health(1) + &health(2)));
    node.look();
    told.recv_timeout(soon).unwrap();
    node.put("h0/state", "ok\n");
    assert!(told.recv_timeout(quiet).is_err());
    node.put("h2/state", "fan\n");
    told.recv_timeout(soon).unwrap();
    // Nobody is told for ever: the thread ends with its backend.
    drop(node);
    assert_eq!(told.recv_timeout(soon), Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
}
