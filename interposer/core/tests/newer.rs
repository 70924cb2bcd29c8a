//! Vendors' libraries that are newer than we are: what they have and we do not know goes by, and is counted if it takes
//! memory or launches.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests may

mod support;

use support::{GIB, Node, gpu_share, share, uid};
use vnpu_driver::share::ChipShare;

/// What a program of `tests/fake` printed and logged in a claim of `chip`, beside the vendor's library that the same
/// file is; and how many functions were counted.
fn run(file: &str, library: &str, chip: ChipShare) -> (String, String, u64) {
    let dir = support::library_and_client(file, library);
    let node = Node::empty();
    node.claim(1, vec![chip]);
    let out = support::client(dir.path(), &node).output().unwrap();
    let (text, log) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert!(out.status.success(), "{text}{log}");
    (text, log, node.agent.usage(&uid(1)).unwrap().unhooked_functions)
}

#[test]
fn what_a_newer_cuda_driver_gives_for_a_name_is_counted() {
    let (text, log, counted) = run("future.c", "libcuda.so.1", gpu_share([7; 16], GIB));
    let mut expected = String::new();
    for (asker, found, missing) in
        [("cuGetProcAddress", -1, -1), ("cuGetProcAddress_v2", 0, 1), ("cuGetProcAddress_v2_ptsz", 0, 1)]
    {
        for (version, known) in [(12_000, "ours"), (14_000, "theirs")] {
            let line = |name: &str, code: i32, status: i32, whose: &str| {
                format!("{asker} {version} {name} {code} {status} {whose}\n")
            };
            expected += &line("cuMemAlloc", 0, found, known);
            for name in ["cuMemAllocSomehow", "cuLaunchHostFunc", "cuPaintItBlack"] {
                expected += &line(name, 0, found, "theirs");
            }
            expected += &line("cuNothing", 500, missing, "nobody");
        }
        expected += &format!("{asker} wrong flags 1 1\n{asker} no status 0\n");
    }
    assert_eq!(text, expected);
    // Of each asker: the new version of cuMemAlloc, and twice the function that nobody knows.
    assert_eq!(counted, 9, "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("cuMemAlloc")).count(), 1, "{log}");
}

/// By `dlsym`, from the caller's own library and from everywhere: whoever asks gets what there is, and what is not there
/// is not counted.
#[test]
fn what_a_newer_cann_has_under_a_name_is_counted() {
    let (text, log, counted) = run("newer_cann.c", "libruntime.so", share(0, GIB));
    let expected = [
        ("aclrtMallocImpl", "ours"),
        ("aclrtMalloc", "theirs"),
        ("aclrtMallocSomehow", "theirs"),
        ("aclrtMallocHostSomehow", "theirs"),
        ("aclrtLaunchCallback", "theirs"),
        ("rtKernelLaunch", "ours"),
        ("rtKernelLaunchAnew", "theirs"),
        ("rtsModelExecuteAnew", "theirs"),
        ("rtMallocSomehow", "nobody"),
        ("rtStreamCreate", "theirs"),
    ];
    let from = |place: &str, (name, whose): &(&str, &str)| format!("{place} {name} {whose}\n");
    let everywhere = expected.iter().map(|line| from("everywhere", line)).collect::<String>();
    let library = expected.iter().map(|line| from("library", line)).collect::<String>();
    assert_eq!(text, library + &everywhere);
    // aclrtMallocSomehow, rtKernelLaunchAnew and rtsModelExecuteAnew: aclrtMalloc only calls what we stand before.
    assert_eq!(counted, 6, "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("aclrtMallocSomehow")).count(), 1, "{log}");
}
