//! The deadline.

use std::sync::mpsc;
use std::time::Duration;

use crate::ascend::dcmi::Slot;
use crate::ascend::worker::{CallKey, Late, Worker};

fn key(card: i32) -> CallKey {
    CallKey { function: "f", slot: Some(Slot { card, device: 0 }) }
}

#[test]
fn answers_pass_through_one_thread() {
    let worker = Worker::new(7, Duration::from_secs(10));
    let first = worker.call(key(0), |n| (*n, std::thread::current().id())).unwrap();
    let second = worker.call(key(1), |n| (*n, std::thread::current().id())).unwrap();
    assert_eq!(first, second);
}

#[test]
fn a_call_that_hangs_is_refused_until_it_returned_and_others_go_on() {
    let worker = Worker::new((), Duration::from_millis(300));
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
    let worker = Worker::new((), Duration::from_millis(100));
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
