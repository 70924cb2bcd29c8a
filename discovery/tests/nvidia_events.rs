//! Errors that the driver of GPUs reports by itself (XIDs): they are told at once, remembered as long as they count,
//! and stay with the device that they are about.
// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod machine;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use machine::Node;
use standin_protocol::{Fault, Instance, Machine, Mig, Xid};
use vnpu_discovery::nvidia::{Nvidia, NvidiaOptions};
use vnpu_discovery::{Backend, Heard};
use vnpu_driver::hardware::{Health, Inventory};

/// A machine of which one listens to the errors.
struct Listening {
    node: Node,
    machine: Machine,
    nvidia: Nvidia,
    told: Arc<AtomicUsize>,
}

impl Listening {
    fn start(machine: Machine, hold: Option<Duration>) -> Self {
        let node = Node::gpus(&machine);
        std::fs::create_dir_all(node.root().join("sys/module/nvidia")).unwrap();
        let nvidia = Nvidia::new(NvidiaOptions { hold, ..node.nvidia_options() });
        let told = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&told);
        nvidia.listen(Heard::new(move || _ = counted.fetch_add(1, Ordering::SeqCst)));
        nvidia.discover().unwrap();
        Self { node, machine, nvidia, told }
    }

    /// The driver reports an error, again and again until one was heard: the thread that waits for them may not wait yet.
    fn report(&mut self, minor: usize, code: u64, gpu_instance: Option<u32>) {
        let before = self.told.load(Ordering::SeqCst);
        let report = |machine: &mut Machine| {
            machine.nvidia.as_mut().unwrap().gpus[minor].xids.push(Xid { code, gpu_instance });
        };
        let (node, machine, told) = (&self.node, &mut self.machine, &self.told);
        node.wait(|| {
            report(machine);
            node.change(machine);
            std::thread::sleep(Duration::from_millis(200));
            (told.load(Ordering::SeqCst) > before).then_some(())
        });
    }

    fn look(&self) -> Inventory {
        self.nvidia.discover().unwrap()
    }
}

/// The codes of each device's faults.
fn codes(inventory: &Inventory) -> Vec<Vec<String>> {
    let of = |health: &Health| match health {
        Health::Healthy => Vec::new(),
        Health::Unhealthy(faults) => faults.iter().flat_map(|fault| fault.codes.clone()).collect(),
        Health::Unknown(why) => vec![why.clone()],
    };
    inventory.chips.iter().map(|chip| of(&chip.health)).collect()
}

#[test]
fn an_error_is_told_and_stays_with_its_gpu_until_the_driver_is_loaded_anew() {
    let mut machine = Machine::nvidia_h100(3, 1024);
    machine.nvidia.as_mut().unwrap().gpus[0].rows_failed = true;
    // What was reported before anybody listened is not told.
    machine.nvidia.as_mut().unwrap().gpus[2].xids = vec![Xid { code: 48, gpu_instance: None }];
    let mut it = Listening::start(machine, None);
    assert_eq!(codes(&it.look()), [vec!["row-remap-failed"], vec![], vec![]]);
    it.report(1, 95, None);
    it.report(0, 79, None);
    assert_eq!(codes(&it.look()), [vec!["row-remap-failed", "xid-79"], vec!["xid-95"], vec![]]);
    let health = it.look().chips[1].health.to_string();
    assert!(health.contains("XID 95 (uncontained ECC error)"), "{health}");

    // Another initialisation of the library is not another driver.
    machine::install_nvml(it.node.root());
    assert_eq!(codes(&it.look())[1], ["xid-95"]);
    // And the new library's errors are heard.
    it.report(2, 119, None);
    assert_eq!(codes(&it.look())[2], ["xid-119"]);

    // Another time of the same directory says nothing in /sys; another directory does.
    let module = it.node.root().join("sys/module/nvidia");
    std::fs::write(module.join("version"), "").unwrap();
    assert_eq!(codes(&it.look())[1], ["xid-95"]);
    let other = it.node.root().join("sys/module/other");
    std::fs::create_dir(&other).unwrap();
    std::fs::remove_dir_all(&module).unwrap();
    std::fs::rename(&other, &module).unwrap();
    assert_eq!(codes(&it.look()), [vec!["row-remap-failed"], vec![], vec![]]);
}

#[test]
fn an_error_counts_as_long_as_it_was_configured() {
    let mut it = Listening::start(Machine::nvidia_h100(1, 1024), Some(Duration::from_secs(3)));
    it.report(0, 64, None);
    assert_eq!(codes(&it.look()), [["xid-64"]]);
    it.node.until_gpus(&it.nvidia, |inventory| inventory.chips[0].health == Health::Healthy);
}

#[test]
fn a_gpu_of_unknown_health_does_not_become_healthy_by_an_error_that_does_not_count() {
    let mut it = Listening::start(Machine::nvidia_h100(1, 1024), None);
    it.report(0, 31, None);
    assert_eq!(codes(&it.look()), [["xid-31"]]);
    it.machine.faults = vec![Fault {
        function: "nvmlDeviceGetMinorNumber".to_owned(),
        card: Some(0),
        device: None,
        error: 999,
        hang: false,
    }];
    it.node.change(&it.machine);
    it.node.until_gpus(&it.nvidia, |inventory| matches!(inventory.chips[0].health, Health::Unknown(_)));
}

#[test]
fn an_error_of_an_instance_is_that_instances_and_one_of_the_gpu_is_all_instances() {
    let mut machine = Machine::nvidia_h100(2, 81559);
    let instance = |gpu_instance: u32| Instance {
        gpu_instance,
        compute_instance: 0,
        uuid: format!("MIG-{gpu_instance}"),
        profile: "1g.10gb".to_owned(),
        memory_mib: 9984,
        slices: 1,
        processes: [].into(),
    };
    let instances = [(0, instance(7)), (1, instance(8))].into();
    machine.nvidia.as_mut().unwrap().gpus[0].mig = Some(Mig { enabled: true, slices: 7, instances });
    let mut it = Listening::start(machine, None);
    it.report(0, 94, Some(8));
    assert_eq!(codes(&it.look()), [vec![], vec!["xid-94"], vec![]]);
    it.report(0, 95, None);
    assert_eq!(codes(&it.look()), [vec!["xid-95"], vec!["xid-94", "xid-95"], vec![]]);
}

#[test]
fn gpus_whose_errors_cannot_be_heard_are_looked_at_all_the_same() {
    let fault = |function: &str, card: Option<i32>, error: i32| Fault {
        function: function.to_owned(),
        card,
        device: None,
        error,
        hang: false,
    };
    for function in ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents", "nvmlEventSetWait_v2"] {
        for error in [3, 15, 999] {
            let mut machine = Machine::nvidia_h100(2, 1024);
            machine.faults = vec![fault(function, None, error)];
            let it = Listening::start(machine, None);
            assert_eq!(codes(&it.look()), [[""; 0]; 2], "{function} {error}");
        }
    }
    // One GPU that refuses keeps no other from being heard.
    let mut machine = Machine::nvidia_h100(2, 1024);
    machine.faults = vec![fault("nvmlDeviceRegisterEvents", Some(0), 999)];
    let mut it = Listening::start(machine, None);
    it.report(1, 79, None);
    assert_eq!(codes(&it.look()), [vec![], vec!["xid-79"]]);
}

#[test]
fn a_library_is_closed_while_errors_are_waited_for() {
    let it = Listening::start(Machine::nvidia_h100(1, 1024), None);
    for _ in 0..3 {
        machine::install_nvml(it.node.root());
        let begun = std::time::Instant::now();
        assert_eq!(it.look().chips.len(), 1);
        assert!(begun.elapsed() < Duration::from_secs(8), "who waits holds it up: {:?}", begun.elapsed());
    }
}
