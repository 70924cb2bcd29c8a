//! A recording replayed is the same, byte for byte.

use std::sync::Mutex;

use super::*;
use crate::record::{Sink, replay};

/// Keeps the lines.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Sink for Lines {
    fn line(&mut self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

/// Batches of all kinds come and go.
fn life(planner: &mut Planner, from: u64) -> Vec<Decision> {
    let mut decisions = Vec::new();
    for step in from..from + 30 {
        let claim = match step % 5 {
            0 => whole(2),
            1 => plain_chips(1),
            2 => pair(),
            3 => share(8 * GI, 10),
            _ => even_chips(4),
        };
        let mode = [Mode::Pack, Mode::OnePerNode, Mode::WholeNodes][(step % 3) as usize];
        let pods = 1 + (step * 7 % 6) as usize;
        let patience = Duration::from_secs(step % 4 * 5);
        let batch = Batch { mode, patience, arrived: at(step), ..batch(&format!("b{step}"), pods, claim) };
        planner.submit(batch, at(step));
        decisions.extend(planner.decide(at(step)));
        if step % 4 == 3 {
            let gone = step - 3;
            (0..6).for_each(|pod| planner.update(Change::PodGone(format!("b{gone}-{pod}"))));
            planner.withdraw(&BatchKey(format!("b{}", step - 1).into()));
        }
        if step % 6 == 5 {
            let node = format!("node-{}", step % 4);
            planner.update(Change::Claim(allocated(step, &node, &["chip-0-0"])));
            planner.update(Change::ClaimNamed {
                pod: format!("b{step}-0"),
                index: 0,
                claim: claim_uid(step),
            });
        }
    }
    decisions
}

fn bytes(decisions: &[Decision]) -> String {
    serde_json::to_string(decisions).unwrap()
}

#[test]
fn replayed_from_the_beginning() {
    let lines = Lines::default();
    let mut planner = Planner::default();
    planner.record_to(Some(Box::new(lines.clone())));
    changes(4, 2, 1, 3).into_iter().for_each(|change| planner.update(change));
    let decided = life(&mut planner, 0);
    assert!(decided.iter().filter(|d| matches!(d.outcome, Outcome::Placed(_))).count() > 5);
    let lines = lines.0.lock().unwrap().clone();
    let again = replay(lines.iter().map(String::as_str)).unwrap();
    assert_eq!(bytes(&again), bytes(&decided));
}

#[test]
fn replayed_from_a_snapshot_in_the_middle() {
    let lines = Lines::default();
    let mut planner = planner(changes(4, 2, 1, 3));
    life(&mut planner, 0);
    planner.record_to(Some(Box::new(lines.clone())));
    let decided = life(&mut planner, 30);
    planner.record_to(None);
    life(&mut planner, 60);
    let lines = lines.0.lock().unwrap().clone();
    let again = replay(lines.iter().map(String::as_str)).unwrap();
    assert_eq!(bytes(&again), bytes(&decided));
}

#[test]
fn a_snapshot_knows_everything() {
    let mut planner = planner(changes(4, 2, 1, 3));
    life(&mut planner, 0);
    let snapshot = planner.snapshot();
    assert_eq!(Planner::restore(snapshot.clone()).snapshot(), snapshot);
}

#[test]
fn a_broken_line_is_told_by_its_number() {
    let error = replay(["", "{\"decide\":{\"now\":{\"secs\":1,\"nanos\":0}}}", "nonsense"]).unwrap_err();
    assert!(error.to_string().starts_with("line 3 of the recording"), "{error}");
    assert_eq!((error.reason(), error.retryable()), ("UnreadableRecording", false));
}
