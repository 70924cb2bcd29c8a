//! The deadline.

use std::sync::mpsc;
use std::time::Duration;

use super::{CallKey, Hangs, Late, Worker};

fn key(place: i32) -> CallKey<i32> {
    CallKey { function: "f", place: Some(place) }
}

#[test]
fn answers_pass_through_one_thread() {
    let worker = Worker::new("calls", 7, Duration::from_secs(10));
    let first = worker.call(key(0), |n| (*n, std::thread::current().id())).unwrap();
    let second = worker.call(key(1), |n| (*n, std::thread::current().id())).unwrap();
    assert_eq!(first, second);
}

#[test]
fn a_call_that_hangs_is_refused_until_it_returned_and_others_go_on() {
    let worker = Worker::new("calls", (), Duration::from_millis(300));
    let (go, wait) = mpsc::channel::<()>();
    assert_eq!(worker.call(key(0), move |()| wait.recv().is_ok()), Err(Late::TimedOut));
    assert_eq!(worker.call(key(0), |()| true), Err(Late::StillHanging));
    assert_eq!(worker.call(key(1), |()| true), Ok(true));
    go.send(()).unwrap();
    while worker.hanging() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(worker.call(key(0), |()| true), Ok(true));
}

#[test]
fn threads_that_hang_have_a_limit() {
    let worker = Worker::new("calls", (), Duration::from_millis(100));
    let mut holds = Vec::new();
    for card in 0..16 {
        let (go, wait) = mpsc::channel::<()>();
        assert_eq!(worker.call(key(card), move |()| wait.recv().is_ok()), Err(Late::TimedOut));
        holds.push(go);
    }
    assert_eq!(worker.call(key(99), |()| ()), Err(Late::TooMany));
    drop(holds);
    while worker.hanging() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(worker.call(key(99), |()| ()), Ok(()));
}

#[test]
fn the_calls_of_a_visit_are_made_on_one_thread_and_their_results_brought_back() {
    let worker = Worker::new("calls", 7, Duration::from_secs(10));
    let here = std::thread::current().id();
    let sum = worker.visit(1, move |steps| {
        assert_ne!(std::thread::current().id(), here);
        let calls = ["f", "g", "h"].map(|function| steps.call(function, |n| *n).unwrap());
        calls.iter().sum::<i32>()
    });
    assert_eq!(sum, Ok((21, None)));
}

#[test]
fn a_visit_in_which_a_call_hangs_is_made_again_without_it_and_what_comes_after_is_not_asked() {
    let worker = Worker::new("calls", (), Duration::from_millis(300));
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let answers = worker.visit(1, move |steps| {
        let first = steps.call("f", |()| 1);
        let second = steps.call("g", |()| wait.lock().is_ok_and(|wait| wait.recv().is_ok()));
        (first, second.map(|_| 2), steps.call("h", |()| 3))
    });
    let hangs = Hangs("g");
    assert_eq!(answers, Ok(((Ok(1), Err(hangs), Err(hangs)), Some("g"))));
    assert_eq!(worker.hanging(), 1);
    // It is not made again, at no cost of time; nor is it anybody else's matter.
    let start = std::time::Instant::now();
    let again = worker.visit(1, |steps| (steps.call("f", |()| 1), steps.call("g", |()| 2)));
    assert_eq!(again, Ok(((Ok(1), Err(hangs)), Some("g"))));
    assert_eq!(worker.visit(2, |steps| steps.call("g", |()| 2)), Ok((Ok(2), None)));
    assert!(start.elapsed() < Duration::from_millis(250), "{:?}", start.elapsed());
    go.send(()).unwrap();
    while worker.hanging() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(worker.visit(1, |steps| steps.call("g", |()| 2)), Ok((Ok(2), None)));
}

#[test]
fn the_deadline_is_each_calls_and_not_the_visits() {
    let worker = Worker::new("calls", (), Duration::from_millis(400));
    let slow = || std::thread::sleep(Duration::from_millis(150));
    let answers = worker.visit(1, move |steps| [0; 6].map(|_| steps.call("f", |()| slow()).is_ok()));
    assert_eq!(answers, Ok(([true; 6], None)));
}

#[test]
fn a_visit_that_hangs_between_its_calls_is_given_up_and_can_be_made_when_it_ended() {
    let worker = Worker::new("calls", (), Duration::from_millis(200));
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let answer = worker.visit(1, move |steps| {
        let _ = wait.lock().is_ok_and(|wait| wait.recv().is_ok());
        steps.call("f", |()| 1)
    });
    assert!(answer.is_err());
    assert!(worker.visit(1, |_| ()).is_err());
    assert_eq!(worker.visit(2, |_| ()), Ok(((), None)));
    drop(go);
    while worker.hanging() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(worker.visit(1, |_| ()), Ok(((), None)));
}

#[test]
fn visits_keep_the_limit_of_threads_that_hang() {
    let worker = Worker::new("calls", (), Duration::from_millis(50));
    let mut holds = Vec::new();
    for card in 0..16 {
        let (go, wait) = mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let visit = worker.visit(card, move |steps| {
            steps.call("f", |()| wait.lock().is_ok_and(|wait| wait.recv().is_ok()))
        });
        assert_eq!(visit, Ok((Err(Hangs("f")), Some("f"))));
        holds.push(go);
    }
    assert_eq!(worker.visit(99, |steps| steps.call("f", |()| 1)), Ok((Err(Hangs("f")), Some("f"))));
    assert_eq!(worker.hanging(), 16);
    drop(holds);
    while worker.hanging() > 0 {
        std::thread::yield_now();
    }
}
