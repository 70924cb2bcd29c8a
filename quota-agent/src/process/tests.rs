use std::os::unix::fs::symlink;
use std::time::Duration;

use vnpu_quota_abi::slot::owner_word;

use super::*;
use crate::aside::tests::{answer, silent};

const NAMESPACE: u32 = 4_026_531_836;
const INODE: u64 = 77;
const MAPPED: &str = "7f00-7f01 rw-s 00000000 00:1a 77 /run/vnpu/claims/x/usage\n";

/// A `/proc` with process 900, known as 5 in its namespace, whose threads have these states, flags and maps.
fn machine(threads: &[(&str, u64, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let process = root.path().join("900");
    let stat = |state: &str, flags: u64| {
        format!("900 (a ) b) {state} 1 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 1234 0 0\n")
    };
    for (i, (state, flags, maps)) in threads.iter().enumerate() {
        let thread = process.join("task").join((900 + i).to_string());
        fs::create_dir_all(&thread).unwrap();
        fs::write(thread.join("stat"), stat(state, *flags)).unwrap();
        fs::write(thread.join("maps"), maps).unwrap();
    }
    let (state, flags, maps) = threads[0];
    fs::write(process.join("stat"), stat(state, flags)).unwrap();
    fs::write(process.join("maps"), maps).unwrap();
    // A name that is not UTF-8.
    fs::write(process.join("status"), b"Name:\t\xff\nNSpid:\t900\t5\n").unwrap();
    fs::create_dir(process.join("ns")).unwrap();
    symlink(format!("pid:[{NAMESPACE}]"), process.join("ns/pid")).unwrap();
    root
}

fn lives_as(root: &tempfile::TempDir, owner: u64, namespace: u32, inode: u64) -> bool {
    let aside = Aside::with_patience(Duration::from_millis(100));
    Processes::look(root.path(), &aside, [owner].into_iter()).lives(owner, namespace, inode)
}

fn lives(threads: &[(&str, u64, &str)]) -> bool {
    lives_as(&machine(threads), owner_word(5, 1234), NAMESPACE, INODE)
}

#[test]
fn a_process_with_the_file_mapped_lives_and_one_without_has_executed_another_program() {
    assert!(lives(&[("S", 0, MAPPED)]));
    assert!(!lives(&[("S", 0, "7f00-7f01 r-xp 00000000 00:1a 12 /bin/sh\n")]));
}

#[test]
fn a_process_on_its_way_out_lives_until_it_is_a_zombie() {
    assert!(lives(&[("R", PF_EXITING | 0x40, "")]), "its memory is gone, the driver's files are not yet");
    assert!(!lives(&[("Z", PF_EXITING, "")]));
    assert!(!lives(&[("X", PF_EXITING, "")]));
}

#[test]
fn a_process_whose_first_thread_has_ended_lives_in_the_others() {
    assert!(lives(&[("Z", PF_EXITING, ""), ("S", 0, MAPPED)]));
    assert!(lives(&[("Z", PF_EXITING, ""), ("D", PF_EXITING, "")]));
    assert!(!lives(&[("Z", PF_EXITING, ""), ("Z", PF_EXITING, "")]));
}

#[test]
fn who_it_is_goes_by_pid_namespace_and_start_time_as_far_as_they_are_known() {
    let root = machine(&[("S", 0, MAPPED)]);
    assert!(!lives_as(&root, owner_word(900, 1234), NAMESPACE, INODE), "the host's pid");
    assert!(!lives_as(&root, owner_word(5, 1235), NAMESPACE, INODE), "another start time");
    assert!(!lives_as(&root, owner_word(5, 1234), 1, INODE), "another namespace");
    assert!(!lives_as(&root, owner_word(5, 1234), NAMESPACE, 78), "another file");
    assert!(lives_as(&root, owner_word(5, 0), 0, INODE), "a container without /proc");
    let hidden = tempfile::tempdir().unwrap();
    let nothing = hidden.path().join("none");
    assert!(
        Processes::look(&nothing, &Aside::default(), std::iter::empty()).lives(1, 1, 1),
        "nobody can say that it is dead"
    );
}

#[test]
fn a_process_whose_mappings_do_not_answer_lives() {
    let root = machine(&[("S", 0, "")]);
    let maps = root.path().join("900/task/900/maps");
    fs::remove_file(&maps).unwrap();
    silent(&maps);
    assert!(lives_as(&root, owner_word(5, 1234), NAMESPACE, INODE));
    answer(&maps, "");
    assert!(lives_as(&root, owner_word(5, 0), 0, INODE), "of whom nothing more is known");
    answer(&maps, "");
}
