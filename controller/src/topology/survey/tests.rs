//! What is done about nodes, and how often.

use super::super::label::Held;
use super::*;

fn survey() -> Survey {
    Survey::new(TopologySources::default())
}

fn seen(uid: &str, leaf: &str) -> NodeSeen {
    let labels = [("network.topology.nvidia.com/leaf".to_owned(), leaf.to_owned())];
    NodeSeen { uid: uid.to_owned(), labels: labels.into(), ..NodeSeen::default() }
}

/// The node as it is after a leaf has been written.
fn labelled(uid: &str, leaf: &str) -> NodeSeen {
    let held = Held { value: Some(leaf.to_owned()), ours: true, other: None };
    NodeSeen { leaf: held, ..seen(uid, leaf) }
}

fn place(leaf: &str) -> Place {
    Place { leaf: Some(leaf.to_owned()), superpod: None }
}

fn write(leaf: &str) -> Option<Task> {
    Some(Task::Write { node: "n".to_owned(), uid: "u".to_owned(), place: place(leaf) })
}

fn written(leaf: &str, version: &str) -> Outcome {
    Outcome::Written(Box::new(labelled("u", leaf)), version.to_owned())
}

fn later(now: Instant, seconds: u64) -> Instant {
    now + Duration::from_secs(seconds)
}

#[test]
fn a_node_is_written_once() {
    let (mut survey, now) = (survey(), Instant::now());
    survey.see("n", seen("u", "a"), "1");
    assert_eq!(survey.next(now), write("a"));
    assert_eq!(survey.next(now), None, "one write at a time");
    survey.done("n", place("a"), written("a", "3"), now);
    assert_eq!(survey.next(now), None);
    // The watch is behind: it tells of the node before the write, then of the write.
    survey.see("n", seen("u", "a"), "2");
    survey.see("n", labelled("u", "a"), "3");
    assert_eq!(survey.next(later(now, 60)), None);
    assert_eq!(survey.alarm(), None);
}

#[test]
fn whoever_takes_labels_away_again_and_again_does_not_keep_us_busy() {
    let (mut survey, now) = (survey(), Instant::now());
    survey.see("n", seen("u", "a"), "1");
    assert_eq!(survey.next(now), write("a"));
    survey.done("n", place("a"), written("a", "2"), now);
    survey.see("n", seen("u", "a"), "3");
    assert_eq!(survey.next(now), None);
    assert_eq!(survey.alarm(), Some(now + QUIET));
    assert_eq!(survey.next(now + QUIET), write("a"));
}

#[test]
fn failures_are_tried_again_later_and_later() {
    let (mut survey, mut now) = (survey(), Instant::now());
    survey.see("n", seen("u", "a"), "1");
    for pause in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        assert_eq!(survey.next(now), write("a"));
        survey.done("n", place("a"), Outcome::Failed, now);
        assert_eq!(survey.next(now), None);
        now = later(now, pause);
        assert_eq!(survey.alarm(), Some(now), "{pause}");
    }
    assert_eq!(survey.disagreeing(), 0);
}

#[test]
fn what_is_not_taken_is_told_once_and_tried_again_when_the_node_changes() {
    let (mut survey, now) = (survey(), Instant::now());
    survey.see("n", seen("u", "a"), "1");
    assert_eq!(survey.next(now), write("a"));
    // Answered as done, and it is not.
    survey.done("n", place("a"), Outcome::Written(Box::new(seen("u", "a")), "2".to_owned()), now);
    let told = survey.next(now);
    assert!(matches!(&told, Some(Task::Tell { message, .. }) if message.contains("webhook")), "{told:?}");
    assert_eq!((survey.next(later(now, 600)), survey.disagreeing()), (None, 1));
    survey.see("n", seen("u", "b"), "3");
    assert_eq!(survey.next(later(now, 600)), write("b"));
    assert_eq!(survey.disagreeing(), 0);
}

#[test]
fn a_conflict_is_told_when_it_lasts() {
    let (mut survey, now) = (survey(), Instant::now());
    survey.see("n", seen("u", "a"), "1");
    assert_eq!(survey.next(now), write("a"));
    let conflict = || Outcome::Conflict("conflict with \"kubectl-label\"".to_owned());
    survey.done("n", place("a"), conflict(), now);
    assert_eq!((survey.next(now), survey.disagreeing()), (None, 0));
    let now = later(now, 1);
    assert_eq!(survey.next(now), write("a"));
    survey.done("n", place("a"), conflict(), now);
    let told = survey.next(now);
    assert!(
        matches!(&told, Some(Task::Tell { message, .. }) if message.contains("kubectl-label")),
        "{told:?}"
    );
    assert_eq!((survey.next(later(now, 600)), survey.disagreeing()), (None, 1));
}

#[test]
fn a_table_that_changes_is_looked_up_for_all_nodes() {
    let (mut survey, now) = (survey(), Instant::now());
    survey.see("n", labelled("u", "a"), "1");
    assert_eq!(survey.next(now), None);
    survey.know_table(&super::super::read_table("node,leaf\nn,b\n").unwrap());
    assert_eq!(survey.next(now), write("b"));
    let told = survey.next(now);
    let message = "leaf of n: the table says b, label network.topology.nvidia.com/leaf says a";
    assert_eq!(
        told,
        Some(Task::Tell { node: "n".to_owned(), uid: "u".to_owned(), message: message.to_owned() })
    );
    assert_eq!(survey.next(now), None);
}

#[test]
fn another_node_of_the_same_name_is_another_node() {
    let (mut survey, now) = (survey(), Instant::now());
    survey.see("n", seen("old", "a"), "1");
    assert!(survey.next(now).is_some());
    survey.see("n", seen("u", "b"), "5");
    survey.done("n", place("a"), Outcome::Written(Box::new(labelled("old", "a")), "2".to_owned()), now);
    assert_eq!(survey.next(now), write("b"));
    survey.forget("n");
    survey.done("n", place("b"), written("b", "6"), now);
    assert_eq!(survey.next(later(now, 60)), None);
}
