//! What the kernel's account of a process says about its device memory.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[allow(dead_code, unreachable_pub)]
#[path = "../src/liveness.rs"]
mod liveness;

use std::fs;

use liveness::{Life, life, lives, own_word};
use vnpu_quota_abi::slot::{owner_starttime, owner_word};

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
    assert_eq!(life(&stat('D', 0), 777, || 1), Life::Holds, "its mappings may be locked for ever");
    assert_eq!(life("what?", 777, || 1), Life::Holds, "not understood, so not judged");
}

#[test]
fn a_process_that_does_not_map_the_ledger_has_executed_another_program() {
    assert!(!lives(own_word(), u64::MAX));
    // No such pid.
    assert!(!lives(owner_word(0x7fff_fff0, 1), 1));
    assert!(lives(owner_word(0x7fff_fff0, 0), 1), "whose start nobody knows is the node agent's to judge");
}

#[test]
fn a_name_that_is_not_utf8_hides_nobody() {
    // The name of this test's first thread, which is the process's.
    fs::write("/proc/self/comm", b"\xff) Z \xfe").unwrap();
    let stat = fs::read("/proc/self/stat").unwrap();
    assert!(String::from_utf8(stat).is_err());
    let word = own_word();
    assert!(owner_starttime(word) != 0, "its slot would pass for a dead process's");
    assert!(!lives(word, u64::MAX), "it is seen to map no ledger");
}

extern "C" fn wait_in_the_kernel(_: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: as vfork, but with a memory of its own for the child: this thread waits in the kernel until that one ends.
    unsafe {
        if libc::syscall(libc::SYS_clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0) == 0 {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::pause();
        }
    }
    std::ptr::null_mut()
}

#[test]
fn mappings_of_a_process_that_waits_in_the_kernel_are_not_read() {
    // SAFETY: the child makes a thread, which this process's only other threads (of the test harness) do not disturb.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: as above.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let mut thread = std::mem::zeroed();
            libc::pthread_create(&raw mut thread, std::ptr::null(), wait_in_the_kernel, std::ptr::null_mut());
            libc::pause();
            libc::_exit(0);
        }
    }
    let states = || -> Vec<String> {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let stats = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("stat")).unwrap());
        stats.map(|stat| stat.rsplit_once(')').unwrap().1.to_owned()).collect()
    };
    while !states().iter().any(|stat| stat.starts_with(" D")) {
        std::thread::yield_now();
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let starttime = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    // It maps no such file, and would pass for one that executed another program.
    assert!(lives(owner_word(pid as u32, starttime), u64::MAX));
    // SAFETY: signals and reaps a child of this test.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
    assert!(!lives(owner_word(pid as u32, starttime), u64::MAX));
}
