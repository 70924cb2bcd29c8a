//! What programs, users and machines do that libraries do not expect: none of it loses a byte of the ledger, hangs, or
//! goes around the quota.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use support::{Driver, GIB, MIB, Node, OUT_OF_MEMORY, libraries, share, uid};
use vnpu_quota_abi::LAYOUT_VERSION;
use vnpu_quota_agent::Attached;

/// The program of `fake/trouble.c`.
fn trouble() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/trouble.c");
        build(&source, "trouble", &["-ldl", "-lpthread"])
    })
}

/// Compiles a file beside the fake runtime.
fn build(source: &Path, name: &str, options: &[&str]) -> PathBuf {
    let program = support::fakes().join(name);
    let mut cc = support::arch::compiler();
    cc.args(["-O1", "-Wall", "-fPIC", "-o"]).arg(&program).arg(source).args(options);
    let built = cc.env_remove("LD_LIBRARY_PATH").output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    program
}

fn start(node: &Node) -> Driver {
    Driver::start(&mut node.command(trouble()))
}

/// A C file for a test, built into a program or library.
fn built_from(text: &str, name: &str, options: &[&str]) -> PathBuf {
    let source = support::fakes().join(format!("{name}.c"));
    fs::write(&source, text).unwrap();
    build(&source, name, options)
}

/// A command that runs `script` in new namespaces; the script ends with `exec "$@"`-like use of `$RUN`. `None` where
/// they cannot be had.
fn namespaced(node: &Node, options: &[&str], script: &str) -> Option<Command> {
    if !Command::new("unshare").args(options).arg("true").status().is_ok_and(|s| s.success()) {
        println!("NOT RUN: no new namespaces here ({})", options.join(" "));
        return None;
    }
    let mut command = Command::new("unshare");
    let run = format!("{script}\nexec env LD_PRELOAD=\"$LIBRARY\" \"$PROGRAM\"");
    command.args(options).args(["sh", "-ec", &run]);
    command
        .env("LIBRARY", libraries().join("libvnpu.so"))
        .env("PROGRAM", trouble())
        .env("REGIONS", node.dir.path())
        .env("VNPU_REGION_DIR", node.dir.path())
        .env("LD_LIBRARY_PATH", support::fakes());
    Some(command)
}

#[test]
fn threads_that_allocate_and_launch_while_others_fork_hang_nobody_and_lose_no_byte() {
    let node = Node::empty();
    let mut chip = share(0, GIB);
    chip.cores = vnpu_driver::quantity::Percent(100);
    node.claim(1, vec![chip]);
    let mut drivers = [start(&node), start(&node)];
    for driver in &mut drivers {
        assert_eq!(driver.ask("device 0"), "0");
        driver.send("forks 60");
    }
    for driver in &mut drivers {
        assert_eq!(driver.answer(), "60", "children that ended as they should");
    }
    node.agent.reap().unwrap();
    assert_eq!((node.used(1), node.agent.usage(&uid(1)).unwrap().live_slots), (0, 2));
}

#[test]
fn a_process_that_becomes_another_user_keeps_its_slot_and_its_limit() {
    let node = Node::with_quota(GIB);
    let (mut first, mut other) = (start(&node), start(&node));
    assert_eq!(first.ask("alloc 536870912"), "0");
    assert_eq!(first.ask("setuid 65534"), "0", "tests run as root");
    assert_eq!(first.ask("alloc 268435456"), "0");
    assert_eq!(other.info(), (GIB / 4, GIB));
    assert_eq!(first.ask("alloc 536870912"), OUT_OF_MEMORY);
    assert_eq!(first.ask("free"), "0");
    assert_eq!(other.info(), (GIB / 2, GIB));
    first.kill();
    assert_eq!(other.info(), (GIB, GIB));
}

#[test]
fn who_may_not_look_into_a_process_does_not_take_it_for_dead() {
    let node = Node::with_quota(GIB);
    let (mut daemon, mut other) = (start(&node), start(&node));
    assert_eq!(daemon.ask("alloc 1073741824"), "0");
    // Its record lock is gone, and what it has mapped is only for root to see.
    assert_eq!(daemon.ask("closefds"), "ok");
    assert_eq!(other.ask("device 0"), "0");
    assert_eq!(other.ask("setuid 65534"), "0");
    assert_eq!(other.info(), (0, GIB));
    assert_eq!(other.ask("alloc 512"), OUT_OF_MEMORY);
    daemon.kill();
    assert_eq!(other.info(), (GIB, GIB));
}

/// A process under the pid of one that is dead; `None` where a pid cannot be chosen. It starts in a later hundredth of
/// a second than the dead one: the kernel tells starts in those (`proc_pid_stat(5)`), and no host comes round to a pid
/// sooner by itself.
fn under_pid(node: &Node, pid: &str, program: &[&str]) -> Option<Driver> {
    std::thread::sleep(std::time::Duration::from_millis(20));
    let mut command = node.command(trouble());
    command.args(["again", pid]).args(program);
    let mut driver = Driver::start(&mut command);
    driver.send("pid");
    let answer = driver.answer();
    if answer != pid {
        println!("NOT RUN: no pid can be chosen here ({answer})");
        return None;
    }
    Some(driver)
}

#[test]
fn a_pid_that_is_somebody_elses_now_holds_nothing_of_the_dead_one() {
    let node = Node::with_quota(GIB);
    let mut other = start(&node);
    assert_eq!(other.ask("device 0"), "0");
    let mut first = start(&node);
    let pid = first.ask("pid");
    assert_eq!(first.ask("alloc 805306368"), "0");
    first.kill();
    // One that has nothing to do with the claim: it answers, and never touches the runtime.
    let Some(stranger) = under_pid(&node, &pid, &["sh", "-c", "read x; echo $$; exec sleep 1000"]) else {
        return;
    };
    assert_eq!(other.info(), (GIB, GIB));
    drop(stranger);

    // One of the same claim: it has its own slot, and the dead one's is given back.
    let mut first = start(&node);
    let pid = first.ask("pid");
    assert_eq!(first.ask("alloc 805306368"), "0");
    first.kill();
    let program = trouble().to_str().unwrap().to_owned();
    let Some(mut next) = under_pid(&node, &pid, &[&program]) else { return };
    assert_eq!(next.ask("alloc 268435456"), "0");
    assert_eq!(other.info(), (GIB - GIB / 4, GIB));
    node.agent.reap().unwrap();
    assert_eq!(node.used(1), GIB / 4);
    assert_eq!(next.ask("free"), "0");
}

#[test]
fn first_processes_of_many_containers_are_told_apart() {
    let node = Node::with_quota(GIB);
    let options = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let Some(mut command) = namespaced(&node, &options, ":") else { return };
    let mut all: Vec<Driver> = (0..8).map(|_| Driver::start(&mut command)).collect();
    for driver in &mut all {
        assert_eq!(driver.ask("pid"), "1", "each is the first of its namespace");
        assert_eq!(driver.ask("alloc 134217728"), "0");
    }
    assert_eq!(all[0].ask("alloc 512"), OUT_OF_MEMORY);
    // From inside another container the dead are not to be told from the living; the agent can.
    all[3].kill();
    // It dies with the namespace's keeper, a moment later.
    let begun = Instant::now();
    while node.used(1) != 7 * 128 * MIB && begun.elapsed() < Duration::from_secs(10) {
        node.agent.reap().unwrap();
    }
    assert_eq!((node.used(1), node.agent.usage(&uid(1)).unwrap().live_slots), (7 * 128 * MIB, 7));
    assert_eq!(all[0].ask("alloc 134217728"), "0");
}

/// Steps of the wall clock change nothing: nobody asks it. The library in front makes it jump by hours.
#[test]
fn nothing_asks_the_wall_clock() {
    let spy = built_from(
        r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static int asked;
static long jump(void) { asked++; return (asked % 2 ? 7200 : -7200); }
int clock_gettime(clockid_t clock, struct timespec *to) {
    int code = (int)syscall(SYS_clock_gettime, clock, to);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI) to->tv_sec += jump();
    return code;
}
time_t time(time_t *to) { time_t now = 1000000000 + jump(); if (to != NULL) *to = now; return now; }
int gettimeofday(struct timeval *restrict to, void *restrict zone) {
    (void)zone; to->tv_sec = time(NULL); to->tv_usec = 0; return 0;
}
__attribute__((destructor)) static void tell(void) { fprintf(stderr, "asked %d\n", asked); }
"#,
        "libspy.so",
        &["-shared"],
    );
    let node = Node::with_quota(GIB);
    let preload = format!("{} {}", spy.display(), libraries().join("libvnpu.so").display());
    let mut command = node.command(trouble());
    let mut driver = Driver::start(command.env("LD_PRELOAD", preload).stderr(Stdio::piped()));
    assert_eq!(driver.ask("alloc 1073741824"), "0");
    assert_eq!(driver.ask("alloc 512"), OUT_OF_MEMORY);
    assert_eq!(driver.ask("launches 20000"), "ok");
    assert_eq!(driver.ask("free"), "0");
    assert_eq!(driver.info(), (GIB, GIB));
    let told = driver.end();
    assert!(told.contains("asked 0"), "{told}");
}

#[test]
fn two_claims_of_two_chips_each_are_right_in_every_order_of_the_devices() {
    let chips = [2_u32, 3, 6, 7];
    let quotas = [GIB, 2 * GIB, 3 * GIB, 4 * GIB];
    let mut orders = vec![vec![]];
    for _ in 0..4 {
        orders = orders
            .iter()
            .flat_map(|order: &Vec<usize>| {
                (0..4)
                    .filter(|n| !order.contains(n))
                    .map(|n| [order.as_slice(), &[n]].concat())
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    assert_eq!(orders.len(), 24);
    for order in orders {
        let node = Node::empty();
        node.claim(1, vec![share(chips[0], quotas[0]), share(chips[3], quotas[3])]);
        node.claim(2, vec![share(chips[1], quotas[1]), share(chips[2], quotas[2])]);
        let visible: Vec<String> = order.iter().map(|n| chips[*n].to_string()).collect();
        let mut driver = Driver::start(node.command(trouble()).env("FAKE_CHIPS", visible.join(",")));
        for (device, n) in order.iter().enumerate() {
            assert_eq!(driver.ask(&format!("device {device}")), "0");
            assert_eq!(driver.info(), (quotas[*n], quotas[*n]), "{order:?}");
            assert_eq!(driver.ask(&format!("alloc {}", quotas[*n])), "0", "{order:?}");
            assert_eq!(driver.ask("alloc 512"), OUT_OF_MEMORY, "{order:?}");
        }
    }
}

#[test]
fn two_claims_on_one_chip_in_one_container_have_what_both_have_together() {
    let node = Node::empty();
    node.claim(1, vec![share(0, GIB)]);
    node.claim(2, vec![share(0, 2 * GIB)]);
    let mut driver = start(&node);
    assert_eq!(driver.ask("device 0"), "0");
    assert_eq!(driver.info(), (3 * GIB, 3 * GIB));
    for _ in 0..3 {
        assert_eq!(driver.ask("alloc 1073741824"), "0");
    }
    assert_eq!(driver.ask("alloc 512"), OUT_OF_MEMORY);
    assert_eq!(driver.ask("launches 100"), "ok");
    driver.kill();
    node.agent.reap().unwrap();
    assert_eq!((node.used(1), node.used(2)), (0, 0));
}

/// Profilers and allocators are preloaded too, before us or behind us, and wrap `dlsym` and `malloc` as they like.
#[test]
fn libraries_that_others_preload_change_nothing() {
    let other = built_from(
        r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
extern void *__libc_malloc(size_t);
extern void __libc_free(void *);
/* An allocator that is none of the C library's own, as far as its users can tell. */
void *malloc(size_t size) { char *p = __libc_malloc(size + 32); if (p == NULL) return NULL; *(size_t *)p = size; return p + 16; }
void *calloc(size_t n, size_t size) { char *p = malloc(n * size); for (size_t i = 0; p != NULL && i < n * size; i++) p[i] = 0; return p; }
void free(void *p) { if (p != NULL) __libc_free((char *)p - 16); }
void *realloc(void *p, size_t size) {
    char *q = malloc(size);
    size_t old = p == NULL ? 0 : *(size_t *)((char *)p - 16);
    for (size_t i = 0; q != NULL && i < old && i < size; i++) q[i] = ((char *)p)[i];
    if (q != NULL) free(p);
    return q;
}
int posix_memalign(void **to, size_t align, size_t size) { (void)align; *to = malloc(size); return 0; }
/* A profiler: counts the runtime's calls on their way. */
int32_t rtSetDevice(int32_t device) {
    int32_t (*next)(int32_t) = (int32_t (*)(int32_t))dlsym(RTLD_NEXT, "rtSetDevice");
    return next != NULL ? next(device) : 0;
}
"#,
        "libother.so",
        &["-shared", "-ldl"],
    );
    let ours = libraries().join("libvnpu.so");
    for order in [[&other, &ours], [&ours, &other]] {
        let node = Node::with_quota(GIB);
        let preload = format!("{} {}", order[0].display(), order[1].display());
        let mut driver = Driver::start(node.command(trouble()).env("LD_PRELOAD", &preload));
        assert_eq!(driver.ask("device 0"), "0", "{preload}");
        assert_eq!(driver.ask("alloc 1073741824"), "0", "{preload}");
        assert_eq!(driver.ask("alloc 512"), OUT_OF_MEMORY, "{preload}");
        assert_eq!(driver.ask("launches 100"), "ok", "{preload}");
        assert_eq!(driver.info(), (0, GIB), "{preload}");
        assert_eq!(node.agent.attached(&uid(1)).unwrap(), Attached::True);
    }
}

#[test]
fn a_ledger_that_cannot_be_written_refuses_memory_by_policy() {
    let node = Node::with_quota(GIB);
    let script = "mount --bind \"$REGIONS\" \"$REGIONS\"\nmount -o remount,bind,ro \"$REGIONS\"";
    let Some(mut command) = namespaced(&node, &["--mount"], script) else { return };
    let mut driver = Driver::start(command.stderr(Stdio::piped()));
    assert_eq!(driver.ask("alloc 512"), OUT_OF_MEMORY);
    let told = driver.end();
    assert!(told.contains("usage") && told.contains("Read-only"), "{told}");
}

#[test]
fn regions_that_are_removed_under_a_running_process_limit_it_to_its_end() {
    let node = Node::with_quota(GIB);
    let mut driver = start(&node);
    assert_eq!(driver.ask("alloc 536870912"), "0");
    node.agent.remove(&uid(1)).unwrap();
    assert_eq!(driver.ask("alloc 536870912"), "0");
    assert_eq!(driver.ask("alloc 512"), OUT_OF_MEMORY);
    assert_eq!(driver.ask("launches 100"), "ok");
    assert_eq!(driver.ask("free"), "0");
    assert_eq!(driver.info(), (GIB / 2, GIB));
    // Made again, they are another ledger: for processes that start from now on.
    node.claim(1, vec![share(0, GIB)]);
    assert_eq!(start(&node).info(), (GIB, GIB));
}

#[test]
fn regions_of_an_older_layout_are_used_and_newer_ones_if_they_say_so() {
    // Version and lowest reader.
    for (version, reader, answer) in [
        (LAYOUT_VERSION - 1, 0, "0"),
        (LAYOUT_VERSION + 5, LAYOUT_VERSION, "0"),
        (LAYOUT_VERSION + 5, LAYOUT_VERSION + 1, OUT_OF_MEMORY),
    ] {
        let node = Node::with_quota(GIB);
        for file in ["quota", "usage"] {
            let mut bytes = fs::read(node.file(1, file)).unwrap();
            bytes[4..6].copy_from_slice(&version.to_ne_bytes());
            bytes[6..8].copy_from_slice(&reader.to_ne_bytes());
            fs::write(node.file(1, file), bytes).unwrap();
        }
        let mut driver = Driver::start(node.command(trouble()).stderr(Stdio::null()));
        assert_eq!(driver.ask("alloc 1073741824"), answer, "{version} {reader}");
        assert_eq!(driver.ask("alloc 512"), OUT_OF_MEMORY, "{version} {reader}");
    }
}

#[test]
fn another_user_may_use_what_the_agent_made() {
    let node = Node::with_quota(GIB);
    for dir in [node.dir.path().to_path_buf(), node.dir.path().join("claims")] {
        // A container's own mount, whose processes may list it.
        fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    }
    let mut driver = start(&node);
    assert_eq!(driver.ask("setuid 65534"), "0");
    assert_eq!(driver.ask("alloc 1073741824"), "0");
    assert_eq!(driver.ask("alloc 512"), OUT_OF_MEMORY);
}

/// Compute fails open, and not for longer than the damage lasts.
#[test]
fn a_chips_region_that_is_spoiled_at_the_first_launch_limits_from_its_repair_on() {
    type Damage = fn(&fs::File);
    let damages: [(&str, Damage); 3] = [
        ("rubbish in its header", |file| file.write_all_at(&[0xff; 64], 0).unwrap()),
        ("cut", |file| file.set_len(100).unwrap()),
        ("lengthened", |file| file.set_len(file.metadata().unwrap().len() + 1).unwrap()),
    ];
    for (damage, spoil) in damages {
        let node = Node::with_quota(GIB);
        let region = fs::File::options().write(true).open(node.dir.path().join("devices/CHIP-0")).unwrap();
        spoil(&region);
        let mut command = node.driver_command("rt");
        let mut driver = Driver::start(command.stderr(Stdio::null()));
        driver.ask("launches 10");
        node.agent.reap().unwrap();
        let leases = || node.agent.usage(&uid(1)).unwrap().chips[0].compute.leases;
        let (before, begun) = (leases(), Instant::now());
        while leases() == before {
            driver.ask("launches 10");
            assert!(begun.elapsed() < Duration::from_secs(30), "{damage}: never limited again");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
