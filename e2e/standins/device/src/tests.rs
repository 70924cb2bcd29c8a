//! The driver's books, without a socket.

use std::path::Path;

use standin_protocol::{Fault, Machine, Reply, Request, Selector};

use crate::machine_file::{MachineFile, parse};
use crate::state::{PeerId, State};

const ONE: PeerId = PeerId(1);
const TWO: PeerId = PeerId(2);

fn driver(machine: Machine) -> State {
    let mut state = State::new(machine);
    state.connect(ONE, 100);
    state.connect(TWO, 200);
    state
}

fn allocate(state: &mut State, peer: PeerId, phys_id: u32, bytes: u64) -> Option<u64> {
    match state.answer(peer, &Request::Allocate { phys_id, bytes }) {
        Reply::Address { address, .. } => Some(address),
        Reply::OutOfMemory => None,
        other => panic!("{other:?}"),
    }
}

fn free_bytes(state: &mut State, phys_id: u32) -> u64 {
    match state.answer(ONE, &Request::MemoryInfo { phys_id }) {
        Reply::Memory { free, .. } => free,
        other => panic!("{other:?}"),
    }
}

#[test]
fn memory_is_exact_to_the_byte_and_per_die() {
    let mut state = driver(Machine::ascend_910c(1, 1));
    let all = allocate(&mut state, ONE, 0, (1 << 20) - 1).unwrap();
    assert!(allocate(&mut state, TWO, 0, 2).is_none());
    assert!(allocate(&mut state, TWO, 0, 1).is_some());
    assert_eq!(free_bytes(&mut state, 0), 0);
    assert_eq!(free_bytes(&mut state, 1), 1 << 20);
    assert_eq!(state.answer(TWO, &Request::Free { address: all }), Reply::NotFound, "not its own");
    assert_eq!(state.answer(ONE, &Request::Free { address: all }), Reply::Done);
    assert_eq!(state.answer(ONE, &Request::Free { address: all }), Reply::NotFound, "once only");
}

#[test]
fn a_process_that_ends_leaves_nothing() {
    let mut state = driver(Machine::ascend_910c(1, 1));
    let address = allocate(&mut state, ONE, 0, 1 << 20).unwrap();
    let Reply::Key(key) = state.answer(ONE, &Request::Export { address }) else { panic!() };
    assert!(matches!(state.answer(TWO, &Request::Import { key }), Reply::Address { .. }));
    assert_eq!(free_bytes(&mut state, 0), 0, "importers are not charged");
    state.disconnect(ONE);
    assert_eq!(free_bytes(&mut state, 0), 1 << 20);
    assert_eq!(state.answer(TWO, &Request::Import { key }), Reply::NotFound);
}

#[test]
fn a_context_costs_what_the_machine_says_once_per_process() {
    let mut machine = Machine::ascend_910c(1, 1);
    machine.context_bytes = 300 << 10;
    let mut state = driver(machine);
    for peer in [ONE, ONE, TWO] {
        assert_eq!(state.answer(peer, &Request::Open { phys_id: 0 }), Reply::Done);
    }
    assert_eq!(free_bytes(&mut state, 0), (1024 - 600) << 10);
    state.answer(TWO, &Request::Close { phys_id: 0 });
    assert_eq!(free_bytes(&mut state, 0), (1024 - 300) << 10);
}

#[test]
fn memory_stays_with_its_die_through_a_renumbering() {
    let mut machine = Machine::ascend_910c(1, 1);
    let mut state = driver(machine.clone());
    allocate(&mut state, ONE, 0, 1 << 20).unwrap();
    machine.cards[0].dies[0].phys_id = 5;
    state.set_machine(machine);
    assert_eq!(free_bytes(&mut state, 5), 0);
    assert_eq!(state.answer(ONE, &Request::MemoryInfo { phys_id: 0 }), Reply::NotFound);
}

#[test]
fn faults_hit_what_they_name() {
    let mut machine = Machine::ascend_910c(1, 1);
    let named = |device: i32| Fault {
        function: "f".to_owned(),
        card: Some(0),
        device: Some(device),
        error: 0,
        hang: false,
    };
    machine.faults = vec![Fault { error: -8005, ..named(0) }, Fault { hang: true, ..named(1) }];
    let mut state = driver(machine);
    let ask = |function: &str, selector| Request::Manage { function: function.to_owned(), selector };
    assert_eq!(state.answer(ONE, &ask("f", Selector::Die(0, 0))), Reply::Code(-8005));
    assert_eq!(state.answer(ONE, &ask("f", Selector::Logic(0))), Reply::Code(-8005));
    assert!(state.hangs(&ask("f", Selector::Physical(1))));
    assert!(!state.hangs(&ask("g", Selector::Die(0, 1))));
    assert!(matches!(state.answer(ONE, &ask("g", Selector::Die(0, 0))), Reply::Die(_)));
    assert_eq!(state.answer(ONE, &ask("g", Selector::Die(3, 0))), Reply::Code(-8008));
}

#[test]
fn a_sample_machine_reads_back_and_unknown_fields_are_errors() {
    let machine = Machine::ascend_910c(2, 65536);
    let yaml = serde_saphyr::to_string(&machine).unwrap();
    assert_eq!(parse(&yaml, Path::new("m")).unwrap(), machine);
    assert!(parse(&format!("{yaml}\nnonsense: 1\n"), Path::new("m")).is_err());
}

#[test]
fn a_file_is_read_when_it_changed_and_a_bad_one_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("machine.yaml");
    let mut file = MachineFile::new(&path);
    assert_eq!(file.changed(), Ok(None), "no file yet");
    let write = |text: &str| {
        let fresh = directory.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, &path).unwrap();
    };
    write("cards: []\n");
    assert!(file.changed().unwrap().is_some());
    assert_eq!(file.changed(), Ok(None));
    write("cards: 7\n");
    assert!(file.changed().is_err());
}
