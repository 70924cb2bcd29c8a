use proptest::prelude::*;

use super::*;

fn slot(owner: u64, before: u64, after: u64) -> Slot {
    let cell = |committed| Cell { committed, reserved: 0 };
    Slot { owner, before: Some(cell(before)), after: cell(after) }
}

fn on_chip(pid: u32, bytes: u64, slot: Option<usize>) -> OnChip {
    OnChip { pid, starttime: 7, bytes: Bytes(bytes), slot, crowded: false }
}

/// So many rounds of the same; the overhead of slot 0 after each.
fn rounds(count: usize, slot_now: Slot, has: &[OnChip]) -> Vec<Option<u64>> {
    let mut samples = Samples::default();
    let slots = BTreeMap::from([(0, slot_now)]);
    let one = |_| balance(&slots, has, &mut samples).overheads.get(&0).map(|b| b.0);
    (0..count).map(one).collect()
}

#[test]
fn overhead_is_what_the_vendor_sees_beyond_the_ledger_three_times_running() {
    let seen = rounds(4, slot(1, 100, 100), &[on_chip(10, 130, Some(0))]);
    assert_eq!(seen, [None, None, Some(30), Some(30)]);
}

#[test]
fn a_ledger_that_moves_says_nothing_about_overhead() {
    assert_eq!(rounds(5, slot(1, 0, 100), &[on_chip(10, 130, Some(0))]), [None; 5]);
    let reserving = Slot { after: Cell { committed: 100, reserved: 5 }, ..slot(1, 100, 100) };
    let reserving = Slot { before: Some(reserving.after), ..reserving };
    assert_eq!(rounds(5, reserving, &[on_chip(10, 130, Some(0))]), [None; 5]);
}

#[test]
fn the_next_process_of_a_slot_begins_anew() {
    let mut samples = Samples::default();
    let mut overhead = |owner| {
        let slots = BTreeMap::from([(0, slot(owner, 0, 0))]);
        balance(&slots, &[on_chip(10, 30, Some(0))], &mut samples).overheads.get(&0).copied()
    };
    assert_eq!([overhead(1), overhead(1), overhead(1)], [None, None, Some(Bytes(30))]);
    assert_eq!([overhead(2), overhead(2), overhead(2)], [None, None, Some(Bytes(30))]);
}

#[test]
fn a_process_that_says_less_than_it_has_pays_the_rest_as_overhead() {
    // It wrote a zero over its own cell.
    assert_eq!(rounds(3, slot(1, 0, 0), &[on_chip(10, 4000, Some(0))])[2], Some(4000));
    // And one that says more than it has pays what it says.
    assert_eq!(rounds(3, slot(1, u64::MAX, u64::MAX), &[on_chip(10, 4000, Some(0))])[2], Some(0));
}

#[test]
fn whoever_has_no_slot_is_outside_unless_there_was_none() {
    let crowded = OnChip { crowded: true, ..on_chip(12, 1, None) };
    // Slot 5 is nobody's.
    let processes = [on_chip(10, 4, Some(0)), on_chip(11, 2, None), crowded, on_chip(13, 8, Some(5))];
    let got = balance(&BTreeMap::from([(0, slot(1, 4, 4))]), &processes, &mut Samples::default());
    assert_eq!(got.outside.iter().map(|p| p.pid).collect::<Vec<_>>(), [11, 13]);
    assert_eq!((got.attached, got.vendor, got.ledger), (2, Bytes(15), Bytes(4)));
}

/// A process of the model: what it allocates is in its ledger, its context is not.
#[derive(Debug, Clone)]
struct Model {
    slot: usize,
    allocated: u64,
    context: u64,
    quiet: Vec<bool>,
}

#[derive(Debug, Clone)]
enum Step {
    Start {
        slot: usize,
        context: u64,
    },
    End {
        slot: usize,
    },
    /// A round; the slot allocates so much before the vendor looks, and so much after.
    Round {
        busy: Option<usize>,
        first: i64,
        then: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6usize, 0..1000u64).prop_map(|(slot, context)| Step::Start { slot, context }),
        (0..6usize).prop_map(|slot| Step::End { slot }),
        (prop::option::of(0..6usize), -500..500i64, -500..500i64)
            .prop_map(|(busy, first, then)| Step::Round { busy, first, then }),
        Just(Step::Round { busy: None, first: 0, then: 0 }),
    ]
}

proptest! {
    /// Against processes that are simulated whole: sums are right at every round, the overhead of a process that
    /// was left alone for three rounds is its context to the byte, and never is one charged more than it has.
    #[test]
    fn balances_agree_with_the_processes(steps in prop::collection::vec(step(), 1..80)) {
        let mut alive: Vec<Model> = Vec::new();
        let mut samples = Samples::default();
        let mut owner = 0;
        let mut owners = BTreeMap::new();
        for step in steps {
            match step {
                Step::Start { slot, context } => {
                    if alive.iter().all(|p| p.slot != slot) {
                        owner += 1;
                        owners.insert(slot, owner);
                        alive.push(Model { slot, allocated: 100, context, quiet: Vec::new() });
                    }
                }
                Step::End { slot } => alive.retain(|p| p.slot != slot),
                Step::Round { busy, first, then } => {
                    let cell = |p: &Model| Cell { committed: p.allocated, reserved: 0 };
                    let before: BTreeMap<usize, Cell> = alive.iter().map(|p| (p.slot, cell(p))).collect();
                    let mut seen = Vec::new();
                    for process in &mut alive {
                        let moves = |process: &mut Model, by: i64| {
                            process.allocated = process.allocated.saturating_add_signed(by);
                        };
                        let its = busy == Some(process.slot);
                        if its { moves(process, first); }
                        let has = process.allocated + process.context;
                        seen.push(on_chip(process.slot as u32 + 10, has, Some(process.slot)));
                        if its { moves(process, then); }
                        process.quiet.push(!its);
                    }
                    let slots: BTreeMap<usize, Slot> = alive
                        .iter()
                        .map(|p| (p.slot, Slot {
                            owner: owners[&p.slot],
                            before: before.get(&p.slot).copied(),
                            after: cell(p),
                        }))
                        .collect();
                    let got = balance(&slots, &seen, &mut samples);
                    prop_assert_eq!(got.ledger.0, alive.iter().map(|p| p.allocated).sum::<u64>());
                    prop_assert_eq!(got.vendor.0, seen.iter().map(|p| p.bytes.0).sum::<u64>());
                    prop_assert!(got.outside.is_empty());
                    for (process, seen) in alive.iter().zip(&seen) {
                        let overhead = got.overheads.get(&process.slot).map(|b| b.0);
                        prop_assert!(overhead.unwrap_or(0) <= seen.bytes.0);
                        if process.quiet.len() >= 3 && process.quiet.iter().rev().take(3).all(|q| *q) {
                            prop_assert_eq!(overhead, Some(process.context));
                        }
                        // One lonely misjudged round is not believed.
                        if process.quiet.iter().rev().take(3).any(|q| *q) && process.quiet.iter().filter(|q| **q).count() >= 3 {
                            let last: Vec<bool> = process.quiet.iter().rev().take(3).copied().collect();
                            if last.iter().filter(|q| !**q).count() <= 1 && last.len() == 3 {
                                prop_assert!(overhead.unwrap_or(0) <= process.context);
                            }
                        }
                    }
                }
            }
        }
    }
}
