//! The agent ended by SIGKILL at each step of what it does: the next one brings everything right, and claims that it had
//! nothing to do with do not notice. Run with `--features fault`.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use support::{kill, map, process_with_slot, shares, uid};
use vnpu_driver::quantity::Bytes;
use vnpu_driver::share::ClaimShares;
use vnpu_quota_abi::DEVICE_ENTRIES;
use vnpu_quota_abi::mark::{Mark, on_mark};
use vnpu_quota_abi::quota::QuotaEntry;
use vnpu_quota_abi::view::{DeviceView, QuotaView};
use vnpu_quota_agent::{Agent, Attached};

const DIRECTORY: &str = "VNPU_KILLED_TEST_DIRECTORY";
const AT: &str = "VNPU_KILLED_AT";

/// What the killed agent works on: claim 1 is changed and has a dead process, claim 2 is its neighbour on chip A, with a
/// living one, and claim 3 comes and goes.
fn before() -> ClaimShares {
    shares(1, &[("A", 4), ("B", 4)])
}
fn changed() -> ClaimShares {
    shares(1, &[("A", 2), ("B", 6)])
}
fn neighbour() -> ClaimShares {
    shares(2, &[("A", 3)])
}
fn passing() -> ClaimShares {
    shares(3, &[("A", 1), ("C", 1)])
}

fn device(dir: &Path, chip: &str) -> PathBuf {
    dir.join("devices").join(chip)
}

fn cut(dir: &Path) {
    fs::File::options().write(true).open(device(dir, "A")).unwrap().set_len(100).unwrap();
}

static CHOSEN: OnceLock<(String, u32)> = OnceLock::new();
static MET: AtomicU32 = AtomicU32::new(0);

fn end_at_the_chosen(mark: Mark) {
    let Some((name, time)) = CHOSEN.get() else { return };
    if mark.name() == name && MET.fetch_add(1, Ordering::Relaxed) + 1 == *time {
        // SAFETY: a signal to this process, which it cannot handle.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

/// What is killed.
#[test]
fn the_work_that_is_cut_off() {
    let Some(dir) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let at = std::env::var(AT).unwrap();
    let (name, time) = at.split_once(':').unwrap();
    CHOSEN.set((name.to_owned(), time.parse().unwrap())).unwrap();
    on_mark(end_at_the_chosen);
    let agent = Agent::open(&dir).unwrap();
    agent.change(&changed()).unwrap();
    agent.create(&passing()).unwrap();
    cut(&dir);
    agent.reap().unwrap();
    agent.remove(&uid(3)).unwrap();
}

/// One world for each kill.
struct World {
    dir: tempfile::TempDir,
    living: i32,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::open(dir.path()).unwrap();
        let usage = agent.create(&before()).unwrap().usage;
        let dead = process_with_slot(&usage, 3, 1000);
        let living = process_with_slot(&agent.create(&neighbour()).unwrap().usage, 0, 500);
        kill(dead);
        Self { dir, living }
    }

    /// Ends an agent at the given time that it comes to `mark`; whether it came so far.
    fn is_killed(&self, mark: Mark, time: u32) -> bool {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_work_that_is_cut_off"])
            .env(DIRECTORY, self.dir.path())
            .env(AT, format!("{}:{time}", mark.name()))
            .output()
            .unwrap()
            .status;
        assert!(
            status.success() || status.signal() == Some(libc::SIGKILL),
            "{} {time}: {status}",
            mark.name()
        );
        !status.success()
    }

    /// Bytes of a claim's quota on each of its chips, as its processes read them.
    fn quota(&self, n: u32) -> Vec<Option<u64>> {
        let (_raw, mapping) = map(&self.dir.path().join("claims").join(uid(n).as_str()).join("quota"));
        let view = QuotaView::open(mapping).unwrap();
        let entries = (0..view.devices()).map(|i| view.entry(i).and_then(QuotaEntry::read));
        entries.map(|entry| entry.map(|values| values.memory)).collect()
    }

    /// Shares of all entries of a chip.
    fn entries(&self, chip: &str) -> Vec<u32> {
        let (_raw, mapping) = map(&device(self.dir.path(), chip));
        let view = DeviceView::open(mapping).unwrap();
        let shares = (0..DEVICE_ENTRIES).map(|i| view.entry(i).unwrap().share_milli.load(Ordering::Relaxed));
        shares.collect()
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join(dir)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The neighbour has what it had, to the byte, and lives.
    fn the_neighbour_is_well(&self, agent: &Agent, told: &str) {
        let usage = agent.usage(&uid(2)).unwrap();
        assert_eq!((usage.chips[0].used, usage.chips[0].reserved), (Bytes(500), Bytes(0)), "{told}");
        assert_eq!(usage.attached(), Attached::True, "{told}");
        assert_eq!(self.quota(2), [Some(3 << 30)], "{told}");
        assert_eq!(self.entries("A")[1], 100, "{told}");
    }

    fn judge(&self, told: &str) {
        let agent = Agent::open(self.dir.path()).unwrap();
        // A change is made on a chip or is not; there is no third.
        for (chip, values) in self.quota(1).into_iter().zip([[4, 2], [4, 6]]) {
            assert!(values.map(|gib: u64| Some(gib << 30)).contains(&chip), "{told}: {chip:?}");
        }
        let temporary = |name: &String| name.ends_with(".tmp");
        for dir in self.names("claims") {
            assert!(!self.names(&format!("claims/{dir}")).iter().any(temporary), "{told}");
        }
        assert!(!self.names("devices").iter().any(temporary), "{told}");
        assert_eq!(agent.reap().unwrap().unreadable, vec![], "{told}");
        let usage = agent.usage(&uid(1)).unwrap();
        assert_eq!((usage.chips[0].used, usage.live_slots), (Bytes(0), 0), "{told}");
        self.the_neighbour_is_well(&agent, told);
        let there = agent.regions(&uid(3)).unwrap().is_some();
        let shares = self.entries("A");
        assert_eq!(shares[..4], [100, 100, if there { 100 } else { 0 }, 0], "{told}");
        // The kubelet asks again for what it was not answered.
        agent.change(&changed()).unwrap();
        assert_eq!(self.quota(1), [Some(2 << 30), Some(6 << 30)], "{told}");
        agent.create(&passing()).unwrap();
        let usage = agent.usage(&uid(3)).unwrap();
        assert_eq!((usage.chips[0].used, usage.chips[1].used), (Bytes(0), Bytes(0)), "{told}");
        assert_eq!(self.entries("A")[..4], [100, 100, 100, 0], "{told}");
        for n in [3, 1] {
            agent.remove(&uid(n)).unwrap();
            self.the_neighbour_is_well(&agent, told);
        }
        assert_eq!((self.names("devices"), self.names("claims").len()), (vec!["A".to_owned()], 1), "{told}");
        assert_eq!(self.entries("A").iter().sum::<u32>(), 100, "{told}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        kill(self.living);
    }
}

#[test]
fn a_kill_at_any_step_leaves_nothing_that_the_next_agent_does_not_bring_right() {
    if std::env::var_os(DIRECTORY).is_some() {
        return;
    }
    for mark in Mark::AGENT {
        let mut time = 0;
        loop {
            let world = World::new();
            time += 1;
            if !world.is_killed(*mark, time) {
                break;
            }
            world.judge(&format!("killed at {} for the {time}. time", mark.name()));
        }
        assert!(time > 1, "{} is never reached", mark.name());
        println!("{}: {} kills", mark.name(), time - 1);
    }
}
