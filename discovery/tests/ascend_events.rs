//! Faults that the driver of Ascend chips tells by itself, and a driver that is replaced. One test: the library tells a
//! process, whichever part of it asked.
// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod machine;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use machine::Node;
use standin_protocol::{Fault, Machine};
use vnpu_discovery::{Backend, Heard};
use vnpu_driver::hardware::Health;

#[test]
fn faults_are_told_as_they_come_and_go_also_by_a_driver_that_was_replaced() {
    let mut machine = Machine::ascend_910c(2, 1024);
    let node = Node::start(&machine);
    let ascend = node.ascend();
    let told = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&told);
    ascend.listen(Heard::new(move || _ = counted.fetch_add(1, Ordering::SeqCst)));
    assert!(ascend.discover().unwrap().chips.iter().all(|chip| chip.health == Health::Healthy));

    let heard = |before: usize| node.wait(|| Some(told.load(Ordering::SeqCst)).filter(|now| *now > before));
    let die = |machine: &mut Machine, level, codes: &[u32]| {
        let die = &mut machine.cards[1].dies[0];
        (die.health, die.error_codes) = (level, codes.to_vec());
    };
    // Nothing is asked meanwhile: what is heard was told.
    die(&mut machine, 3, &[0x80E0_1801]);
    node.change(&machine);
    let now = heard(0);
    assert!(matches!(ascend.discover().unwrap().chips[2].health, Health::Unhealthy(_)));
    die(&mut machine, 0, &[]);
    node.change(&machine);
    let now = heard(now);
    assert_eq!(ascend.discover().unwrap().chips[2].health, Health::Healthy);

    machine::install_dcmi(node.root());
    assert_eq!(ascend.discover().unwrap().chips.len(), 4);
    // The old library, which cannot be closed, still tells; a driver that does not know the old one says what is new.
    die(&mut machine, 2, &[0x8073_8009]);
    node.change(&machine);
    heard(now + 1);
    assert!(matches!(ascend.discover().unwrap().chips[2].health, Health::Unhealthy(_)));

    // Where it cannot be had, the hardware is looked at all the same.
    for error in [-8255, -8005] {
        let mut machine = machine.clone();
        machine.faults = vec![Fault {
            function: "dcmi_subscribe_fault_event".to_owned(),
            card: None,
            device: None,
            error,
            hang: false,
        }];
        let other = Node::start(&machine);
        let mute = other.ascend();
        mute.listen(Heard::new(|| {}));
        assert_eq!(mute.discover().unwrap().chips.len(), 4);
    }
    // A driver that was not ready tells once it is.
    let mut late = machine.clone();
    late.faults = vec![Fault {
        function: "dcmi_subscribe_fault_event".to_owned(),
        card: None,
        device: None,
        error: -8012,
        hang: false,
    }];
    let other = Node::start(&late);
    let patient = other.ascend();
    let (tell, words) = std::sync::mpsc::channel();
    patient.listen(Heard::new(move || _ = tell.send(())));
    assert_eq!(patient.discover().unwrap().chips.len(), 4);
    late.faults.clear();
    other.change(&late);
    // The stand-in reads its file now and then.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(patient.discover().unwrap().chips.len(), 4);
    while words.try_recv().is_ok() {}
    let sick = &mut late.cards[0].dies[0];
    (sick.health, sick.error_codes) = (3, vec![0x80E0_1801]);
    other.change(&late);
    words.recv_timeout(Duration::from_secs(30)).expect("it never told of anything");
    // Whoever let go of it is not told any more.
    drop(ascend);
    std::thread::sleep(Duration::from_millis(500));
    let before = told.load(Ordering::SeqCst);
    die(&mut machine, 0, &[]);
    node.change(&machine);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(told.load(Ordering::SeqCst), before);
}
