//! What the kernel's account of a process says about its device memory.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[allow(dead_code, unreachable_pub)]
#[path = "../src/liveness.rs"]
mod liveness;

use liveness::{Life, life, lives, own_word};

/// `/proc/<pid>/stat` of a process with this state, these flags and start time 777.
fn stat(state: char, flags: u64) -> String {
    format!("42 (a ) Z 4 name) {state} 1 42 42 0 -1 {flags} 9 9 9 9 9 9 9 9 20 0 1 0 777 0 0")
}

#[test]
fn a_dying_process_holds_its_memory_until_it_is_a_zombie_without_threads() {
    let exiting = 0x4 | 0x40_0000;
    assert_eq!(life(&stat('S', 0x40_0000), 777, || 1), Life::Runs);
    assert_eq!(life(&stat('R', exiting), 777, || 1), Life::Holds, "its mappings are gone, its device is not");
    assert_eq!(life(&stat('D', exiting), 777, || 1), Life::Holds);
    assert_eq!(life(&stat('Z', exiting), 777, || 2), Life::Holds, "only the first thread has ended");
    assert_eq!(life(&stat('Z', exiting), 777, || 1), Life::Gone);
    assert_eq!(life(&stat('X', exiting), 777, || 0), Life::Gone);
    assert_eq!(life(&stat('S', 0), 778, || 1), Life::Gone, "the pid is another process's now");
    assert_eq!(life("what?", 777, || 1), Life::Holds, "not understood, so not judged");
}

#[test]
fn a_process_that_does_not_map_the_ledger_has_executed_another_program() {
    assert!(!lives(own_word(), u64::MAX));
    // No such pid.
    assert!(!lives(0x7fff_fff0, 1));
}
