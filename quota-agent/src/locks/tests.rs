use std::time::Instant;

use proptest::prelude::*;

use super::*;

/// As the kernel does it: the first lock of the list that is in the range.
fn first_of(locks: &[RangeInclusive<usize>], range: &RangeInclusive<usize>) -> Found {
    let hit = locks.iter().find(|lock| lock.start() <= range.end() && lock.end() >= range.start());
    hit.map_or(Found::Free, |lock| Found::Locked(lock.clone()))
}

proptest! {
    #[test]
    fn splitting_finds_every_lock_and_asks_about_each_once(
        bytes in proptest::collection::btree_set(0..512_usize, 0..100),
        starts in proptest::collection::vec((0..600_usize, 0..20_usize), 0..40),
    ) {
        let locks: Vec<_> = starts.iter().map(|(start, more)| *start..=start + more).collect();
        let bytes: Vec<usize> = bytes.into_iter().collect();
        let mut asked = 0;
        let found = split(&bytes, |range| {
            asked += 1;
            first_of(&locks, &range)
        });
        let wanted = bytes.iter().copied().filter(|byte| locks.iter().any(|lock| lock.contains(byte)));
        prop_assert_eq!(found, wanted.collect::<BTreeSet<_>>());
        prop_assert!(asked <= 2 * locks.len() + 1, "{} questions about {} locks", asked, locks.len());
    }
}

#[test]
fn what_there_is_no_time_for_counts_as_locked() {
    let bytes: Vec<usize> = (0..512).collect();
    let mut asked = 0;
    let found = split(&bytes, |range| {
        asked += 1;
        if asked > 3 { Found::Unknown } else { first_of(&[10..=10, 30..=500], &range) }
    });
    assert!(found.is_superset(&(30..=500).chain(0..=10).collect()), "{found:?}");
    assert!((501..512).all(|byte| !found.contains(&byte)), "what was asked about is free");
    let nothing = split(&bytes, |_| Found::Unknown);
    assert_eq!(nothing.len(), 512);
    let nonsense = split(&bytes, |_| Found::Locked(600..=700));
    assert_eq!(nonsense.len(), 512, "an answer that is none ends");
}

#[test]
fn a_spent_budget_asks_nobody() {
    let file = tempfile::tempfile().unwrap();
    let mut budget = Budget::of_claim();
    assert_eq!(locked(&file, &[1, 5], &mut budget), BTreeSet::new());
    assert!(!budget.is_spent());
    budget.left = Duration::ZERO;
    assert_eq!(locked(&file, &[1, 5], &mut budget), BTreeSet::from([1, 5]));
    let mut budget = Budget { left: Duration::from_nanos(1) };
    budget.charge(|| (0..1000).map(std::hint::black_box).sum::<u64>());
    assert!(budget.is_spent());
}

#[test]
fn the_kernels_locks_are_found_one_and_many_and_to_the_end() {
    let file = tempfile::tempfile().unwrap();
    // SAFETY: the child only calls async-signal-safe functions.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: as above.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            for (start, length) in [(3, 1), (7, 2), (500, 0)] {
                let lock = flock(start, length, libc::F_WRLCK);
                libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock);
            }
            libc::pause();
            libc::_exit(0);
        }
    }
    let bytes: Vec<usize> = (0..512).collect();
    let expected: BTreeSet<usize> = [3, 7, 8].into_iter().chain(500..512).collect();
    let begun = Instant::now();
    while locked(&file, &[511], &mut Budget::of_claim()).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    assert_eq!(locked(&file, &bytes, &mut Budget::of_claim()), expected);
    assert!(try_lock(&file, 3, &mut Budget::of_claim()).is_none());
    let own = try_lock(&file, 4, &mut Budget::of_claim()).unwrap();
    assert_eq!(locked(&file, &bytes, &mut Budget::of_claim()), expected, "one's own is no other's");
    drop(own);
    // SAFETY: signals and reaps a child of this test.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
    assert_eq!(locked(&file, &bytes, &mut Budget::of_claim()), BTreeSet::new());
}
