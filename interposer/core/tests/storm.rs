//! Many processes, killed and forked at any moment: no byte leaks, none is handed out twice.

// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{Driver, GIB, MIB, Node, OUT_OF_MEMORY, uid};
use vnpu_driver::quantity::Bytes;

/// Kills of the storm; `VNPU_STORM_KILLS` asks for more.
fn kills() -> u64 {
    std::env::var("VNPU_STORM_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(1000)
}

#[test]
fn a_thousand_sigkills_leak_nothing_and_never_overshoot() {
    let node = Node::with_quota(GIB);
    let done = AtomicBool::new(false);
    let greatest = AtomicU64::new(0);
    let start = |seed: u64| {
        let mut driver = Driver::start(node.driver_command("rt").stderr(Stdio::null()));
        driver.send(&format!("churn {seed}"));
        driver
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let usage = node.agent.usage(&uid(1)).unwrap();
                greatest.fetch_max(usage.chips[0].used.0, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        // A small generator is enough: the moments come from the scheduler.
        let mut state = 88_172_645_463_325_252_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut drivers: Vec<Driver> = (0..8).map(start).collect();
        for round in 0..kills() {
            let victim = (random() % 8) as usize;
            // Some die while they attach, most in the middle of their work.
            let pause = Duration::from_micros(random() % 6000);
            let until = Instant::now() + pause;
            while Instant::now() < until {
                std::thread::sleep(Duration::from_micros(100));
            }
            drivers[victim].kill();
            drivers[victim] = start(round + 8);
            if round % 16 == 0 {
                node.agent.reap().unwrap();
            }
        }
        for driver in &mut drivers {
            driver.kill();
        }
        done.store(true, Ordering::Relaxed);
    });
    node.agent.reap().unwrap();
    let usage = node.agent.usage(&uid(1)).unwrap();
    assert_eq!((usage.chips[0].used, usage.chips[0].reserved), (Bytes(0), Bytes(0)), "leaked");
    assert_eq!(usage.live_slots, 0);
    let greatest = greatest.load(Ordering::Relaxed);
    assert!(greatest <= GIB, "{greatest} bytes were given out of {GIB}");
    assert!(greatest > GIB / 2, "the storm hardly used the quota: {greatest}");
    println!("{} kills, at most {} of 1024 MiB in use, 0 leaked", kills(), greatest / MIB);
    // And the quota is whole again for the next process.
    assert_eq!(node.driver("rt").ask("fill 67108864"), format!("16 {OUT_OF_MEMORY}"));
}

#[test]
fn three_hundred_processes_at_once_share_one_quota_exactly() {
    let node = Node::with_quota(150 * MIB);
    let mut drivers: Vec<Driver> = (0..300).map(|_| node.driver("rt")).collect();
    for driver in &mut drivers {
        driver.send("alloc 1048576");
    }
    let answers: Vec<String> = drivers.iter_mut().map(Driver::answer).collect();
    let granted = answers.iter().filter(|a| a.starts_with("0 ")).count();
    let refused = answers.iter().filter(|a| a.starts_with(OUT_OF_MEMORY)).count();
    assert_eq!((granted, refused), (150, 150));
    let usage = node.agent.usage(&uid(1)).unwrap();
    assert_eq!((usage.live_slots, usage.chips[0].used), (300, Bytes(150 * MIB)));
}

#[test]
fn one_process_more_than_there_are_slots_is_refused_until_one_ends() {
    let node = Node::with_quota(GIB);
    let usage = node.file(1, "usage");
    // A region with two slots: the count stands in the header, the rest of the file is unused.
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options().write(true).open(usage).unwrap(),
        &2_u16.to_ne_bytes(),
        14,
    )
    .unwrap();
    let (mut a, mut b) = (node.driver("rt"), node.driver("rt"));
    assert_eq!((a.ask("alloc 512"), b.ask("alloc 512")), ("0 77".to_owned(), "0 77".to_owned()));
    let mut c = Driver::start(node.driver_command("rt").stderr(Stdio::null()));
    assert_eq!(c.ask("alloc 512"), format!("{OUT_OF_MEMORY} 77"));
    a.kill();
    let mut d = node.driver("rt");
    assert_eq!(d.ask("alloc 512"), "0 77");
}

#[test]
fn a_fork_storm_keeps_the_ledger_exact() {
    let node = Node::with_quota(GIB);
    let mut drivers: Vec<Driver> = (0..4).map(|_| node.driver("acl")).collect();
    for driver in &mut drivers {
        assert_eq!(driver.ask("alloc 67108864"), "0 77");
    }
    for _ in 0..25 {
        for driver in &mut drivers {
            driver.send("fork 1048576");
        }
        for driver in &mut drivers {
            let answer = driver.answer();
            assert!(answer.starts_with("0 0 "), "{answer}");
        }
    }
    for driver in &mut drivers {
        // Answered only after the last child was waited for.
        driver.info();
    }
    node.agent.reap().unwrap();
    assert_eq!(node.used(1), 256 * MIB);
}

/// Record locks do not keep threads of one process from each other.
#[test]
fn many_threads_that_reap_at_once_never_wipe_a_living_slot() {
    let node = Node::with_quota(GIB);
    let mut reapers: Vec<Driver> = (0..2)
        .map(|_| {
            let mut driver = Driver::start(node.driver_command("rt").stderr(Stdio::null()));
            assert_eq!(driver.ask("alloc 67108864"), "0 77");
            assert_eq!(driver.ask("press"), "ok");
            driver
        })
        .collect();
    let mut victim = node.driver("rt");
    for round in 0..kills() / 20 {
        assert_eq!(victim.ask("alloc 67108864"), "0 77", "round {round}");
        // Some reapers may still be at the slot that it took over.
        for _ in 0..20 {
            assert!(node.used(1) >= 192 * MIB, "round {round}: {} bytes are left", node.used(1));
        }
        // The next one takes the dead one's slot while it is reaped.
        victim.kill();
        victim = node.driver("rt");
    }
    for driver in &mut reapers {
        assert!(driver.child.try_wait().unwrap().is_none());
    }
}
