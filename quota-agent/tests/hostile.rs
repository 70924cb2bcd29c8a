//! What tenants, and kills at the wrong moment, do to regions: the agent lives, and nobody's quota grows by it.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;

use support::{kill, map, mode, process_with_slot, shares, uid};
use vnpu_driver::quantity::Bytes;
use vnpu_driver::share::ComputeMode;
use vnpu_quota_abi::device::{DEVICE_SIZE, DeviceEntry};
use vnpu_quota_abi::header::HEADER_SIZE;
use vnpu_quota_abi::slot::{self, SlotTable, owner_word};
use vnpu_quota_abi::usage::{USAGE_DEVICE_SIZE, USAGE_DEVICES_OFFSET, slot_stride, slots_offset, usage_size};
use vnpu_quota_abi::view::{DeviceView, QuotaView, UsageView};
use vnpu_quota_abi::{SLOT_COUNT, bucket};
use vnpu_quota_agent::{Agent, AgentError, Attached, ClaimRegions, MOST_WITHOUT_SLOT, Reader};

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn memory(quota: &Path, device: usize) -> Option<u64> {
    let (_raw, mapping) = map(quota);
    QuotaView::open(mapping).unwrap().entry(device).unwrap().read().map(|v| v.memory)
}

#[test]
fn a_tenant_that_cuts_its_ledger_all_the_time_does_not_kill_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let regions = agent.create(&shares(1, &[("A", 4)])).unwrap();
    let size = usage_size(1, SLOT_COUNT) as libc::off_t;
    let path = std::ffi::CString::new(regions.usage.as_os_str().as_encoded_bytes()).unwrap();
    let device = std::ffi::CString::new(regions.devices[0].1.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: the child only calls async-signal-safe functions.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: as above.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let fds = [libc::open(path.as_ptr(), libc::O_RDWR), libc::open(device.as_ptr(), libc::O_RDWR)];
            loop {
                for fd in fds {
                    libc::ftruncate(fd, 0);
                    libc::ftruncate(fd, size);
                }
            }
        }
    }
    for _ in 0..60 {
        let _ = agent.usage(&uid(1));
        let _ = agent.reap().unwrap();
        let _ = agent.create(&shares(1, &[("A", 4)]));
    }
    kill(pid);
    agent.create(&shares(1, &[("A", 4)])).unwrap();
    assert_eq!(agent.usage(&uid(1)).unwrap().chips[0].used, Bytes(0));
}

#[test]
fn a_tenant_does_not_choose_how_large_its_ledger_is() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let usage = agent.create(&shares(1, &[("A", 4)])).unwrap().usage;
    let size = usage_size(1, SLOT_COUNT) as u64;
    let file = open(&usage);
    file.set_len(usage_size(1, u16::MAX) as u64).unwrap();
    file.write_all_at(&u16::MAX.to_ne_bytes(), 14).unwrap();
    assert_eq!(agent.usage(&uid(1)).unwrap_err().reason(), "region_invalid");
    assert_eq!(agent.reap().unwrap().unreadable.len(), 1);
    assert_eq!(fs::metadata(&usage).unwrap().len(), size, "what it took of the node is given back");
    assert_eq!(agent.usage(&uid(1)).unwrap().slot_count, u32::from(SLOT_COUNT));
}

#[test]
fn slots_full_of_garbage_are_given_back_in_one_pass() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let usage = agent.create(&shares(1, &[("A", 4)])).unwrap().usage;
    let (_raw, mapping) = map(&usage);
    let view = UsageView::open(mapping).unwrap();
    for slot in 0..usize::from(SLOT_COUNT) {
        // A process that there is, which has nothing to do with the claim, and some that there cannot be (Linux counts
        // to 2^22). No others: this test and what it forks hold the ledger, under numbers that may be low ones.
        let pid = if slot.is_multiple_of(2) { 1 } else { (1 << 22) + slot as u32 };
        view.head(slot).unwrap().owner.store(u64::from(pid), Ordering::SeqCst);
        view.cell(slot, 0).unwrap().committed.store(u64::MAX, Ordering::SeqCst);
    }
    assert_eq!(agent.usage(&uid(1)).unwrap().chips[0].used, Bytes(u64::MAX));
    assert_eq!(agent.reap().unwrap().reaped, u32::from(SLOT_COUNT));
    assert_eq!(agent.usage(&uid(1)).unwrap().chips[0].used, Bytes(0));
    assert!((0..view.capacity()).all(|s| view.head(s).unwrap().owner.load(Ordering::SeqCst) == slot::FREE));
}

#[test]
fn bytes_that_nobody_answers_for_are_cleared_in_one_pass() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let usage = agent.create(&shares(1, &[("A", 4)])).unwrap().usage;
    let pid = process_with_slot(&usage, 0, 1000);
    let (_raw, mapping) = map(&usage);
    let view = UsageView::open(mapping).unwrap();
    view.cell(9, 0).unwrap().overhead.store(500, Ordering::SeqCst);
    view.cell(10, 0).unwrap().committed.store(700, Ordering::SeqCst);
    let reading = Reader::new(dir.path()).read(&uid(1)).unwrap().unwrap();
    assert_eq!((reading.occupied, reading.usage.live_slots), (1, 1), "which nobody has");
    let report = agent.reap().unwrap();
    assert_eq!((report.reaped, report.live, report.bytes), (0, 1, Bytes(700)));
    let usage = agent.usage(&uid(1)).unwrap();
    assert_eq!((usage.chips[0].used, usage.chips[0].overhead), (Bytes(1000), Bytes(0)));
    kill(pid);
}

#[test]
fn a_number_of_processes_without_a_slot_that_cannot_be_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let usage = agent.create(&shares(1, &[("A", 4)])).unwrap().usage;
    let pid = process_with_slot(&usage, 0, 1000);
    open(&usage).write_all_at(&[0xff; USAGE_DEVICE_SIZE], USAGE_DEVICES_OFFSET as u64).unwrap();
    let read = || {
        let found = agent.usage(&uid(1)).unwrap();
        (agent.attached(&uid(1)).unwrap(), found.without_slot, found.chips[0].denied_without_slot)
    };
    assert_eq!(read(), (Attached::True, 0, 0), "the last slot was never taken");
    let (_raw, mapping) = map(&usage);
    let view = UsageView::open(mapping).unwrap();
    view.raise_high_water(usize::from(SLOT_COUNT));
    assert_eq!(read(), (Attached::Crowded, MOST_WITHOUT_SLOT, u64::MAX));
    view.device(0).unwrap().slotless_processes.store(u64::from(MOST_WITHOUT_SLOT) + 1, Ordering::SeqCst);
    assert_eq!(read().1, MOST_WITHOUT_SLOT);
    view.device(0).unwrap().slotless_processes.store(0, Ordering::SeqCst);
    assert_eq!(read(), (Attached::True, 0, 0), "nobody was there to be refused");
    kill(pid);
}

#[test]
fn a_spoiled_ledger_is_repaired_in_place_and_its_slots_stay() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let regions = agent.create(&shares(1, &[("A", 4)])).unwrap();
    agent.create(&shares(2, &[("A", 4)])).unwrap();
    let pid = process_with_slot(&regions.usage, 7, 1000);
    let before = inode(&regions.usage);
    let spoil = || open(&regions.usage).write_all_at(&[0xff; HEADER_SIZE], 0).unwrap();
    let sound = |agent: &Agent| {
        let (_raw, mapping) = map(&regions.usage);
        assert_eq!(UsageView::open(mapping).unwrap().capacity(), usize::from(SLOT_COUNT));
        assert_eq!(inode(&regions.usage), before, "attached processes and new ones have one ledger");
        assert_eq!(agent.usage(&uid(1)).unwrap().chips[0].used, Bytes(1000));
    };
    // By the periodic pass; the claim stays a prepared one meanwhile.
    spoil();
    assert_eq!(agent.regions(&uid(1)).unwrap().as_ref(), Some(&regions));
    let report = agent.reap().unwrap();
    assert_eq!(report.unreadable[0].0, uid(1));
    sound(&agent);
    assert_eq!(agent.reap().unwrap().unreadable, vec![]);
    // By preparing it again.
    spoil();
    assert_eq!(agent.create(&shares(1, &[("A", 4)])).unwrap(), regions);
    sound(&agent);
    // By a new agent, which also knows its entry still.
    spoil();
    drop(agent);
    let agent = Agent::open(dir.path()).unwrap();
    sound(&agent);
    agent.create(&shares(3, &[("A", 1)])).unwrap();
    let (_raw, mapping) = map(&agent.regions(&uid(3)).unwrap().unwrap().quota);
    assert_eq!(QuotaView::open(mapping).unwrap().entry(0).unwrap().read().unwrap().entry, 2);
    kill(pid);
}

#[test]
fn a_change_of_a_quota_that_a_kill_left_unfinished_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let regions = agent.create(&shares(1, &[("A", 4), ("B", 4)])).unwrap();
    // The sequence number of the first chip is odd: the agent died between its two stores.
    let cut = || open(&regions.quota).write_all_at(&7_u32.to_ne_bytes(), HEADER_SIZE as u64 + 84).unwrap();
    cut();
    assert_eq!(memory(&regions.quota, 0), None, "tenants can read no limit");
    assert_eq!(agent.regions(&uid(1)).unwrap().as_ref(), Some(&regions));
    assert_eq!(agent.create(&shares(1, &[("A", 8), ("B", 4)])).unwrap(), regions);
    assert_eq!(memory(&regions.quota, 0), Some(8 << 30));
    cut();
    assert!(agent.change(&shares(1, &[("A", 2), ("B", 4)])).unwrap());
    assert_eq!(memory(&regions.quota, 0), Some(2 << 30));
    cut();
    drop(agent);
    let agent = Agent::open(dir.path()).unwrap();
    assert_eq!(memory(&regions.quota, 0), Some(2 << 30), "without anybody's asking");
    assert_eq!(agent.usage(&uid(1)).unwrap().chips[0].quota, Bytes::gib(2));
    // What is right is not written again: nothing can then be left unfinished.
    let before = fs::read(&regions.quota).unwrap();
    agent.create(&shares(1, &[("A", 2), ("B", 4)])).unwrap();
    assert_eq!(fs::read(&regions.quota).unwrap(), before);
}

#[test]
fn a_process_whose_first_thread_ended_keeps_its_slot_without_its_lock() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let usage = agent.create(&shares(1, &[("A", 4)])).unwrap().usage;
    // A shell's children would do as well, but this one must have the file mapped: a fork of this process has.
    let (_raw, mapping) = map(&usage);
    let view = UsageView::open(mapping).unwrap();
    extern "C" fn stay(_: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
        std::ptr::null_mut()
    }
    // SAFETY: the child makes a thread, which this process's only other threads (of the test harness) do not
    // disturb, and ends its first one.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: as above.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let mut thread = std::mem::zeroed();
            libc::pthread_create(&raw mut thread, std::ptr::null(), stay, std::ptr::null_mut());
            libc::syscall(libc::SYS_exit, 0);
        }
    }
    let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let field = |n: usize| stat().rsplit_once(')').unwrap().1.split_whitespace().nth(n).unwrap().to_owned();
    while field(0) != "Z" {
        std::thread::yield_now();
    }
    let link = fs::read_link("/proc/self/ns/pid").unwrap();
    let namespace = link.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    let inner = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let inner = inner.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap();
    let inner: u32 = inner.split_whitespace().last().unwrap().parse().unwrap();
    let owner = owner_word(inner, field(19).parse().unwrap());
    assert!(slot::claim(&view, 0, owner, namespace));
    view.cell(0, 0).unwrap().committed.store(1000, Ordering::SeqCst);
    let report = agent.reap().unwrap();
    assert_eq!((report.reaped, report.live), (0, 1));
    kill(pid);
    assert_eq!(agent.reap().unwrap().bytes, Bytes(1000));
}

#[test]
fn a_spoiled_chip_region_is_repaired_in_place_with_everybodys_entries() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let path = agent.create(&shares(1, &[("A", 4)])).unwrap().devices[0].1.clone();
    agent.create(&shares(2, &[("A", 4)])).unwrap();
    let before = inode(&path);
    let share = |entry| {
        let (_raw, mapping) = map(&path);
        DeviceView::open(mapping).unwrap().entry(entry).unwrap().share_milli.load(Ordering::SeqCst)
    };
    for spoil in [&(|| open(&path).set_len(0).unwrap()) as &dyn Fn(), &|| {
        open(&path).write_all_at(&[0xff; 4096], 0).unwrap()
    }] {
        spoil();
        agent.create(&shares(3, &[("A", 4)])).unwrap();
        assert_eq!(inode(&path), before, "the others have this file mapped");
        assert_eq!([share(0), share(1), share(2)], [100, 100, 100]);
        agent.remove(&uid(3)).unwrap();
    }
}

#[test]
fn a_new_claim_starts_with_nothing_of_its_entrys_last_one() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let path = agent.create(&shares(1, &[("A", 4)])).unwrap().devices[0].1.clone();
    let (_raw, mapping) = map(&path);
    let view = DeviceView::open(mapping).unwrap();
    // A neighbour can write what is nobody's yet.
    view.entry(1).unwrap().tat.store(i64::MAX, Ordering::SeqCst);
    view.entry(0).unwrap().tat.store(5, Ordering::SeqCst);
    agent.create(&shares(2, &[("A", 4)])).unwrap();
    assert_eq!(view.entry(1).unwrap().tat.load(Ordering::SeqCst), 0);
    agent.create(&shares(1, &[("A", 8)])).unwrap();
    assert_eq!(view.entry(0).unwrap().tat.load(Ordering::SeqCst), 5, "a claim that has it goes on");
}

#[test]
fn the_same_chips_in_another_order_are_the_same_claim() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let regions = agent.create(&shares(1, &[("A", 4), ("B", 2)])).unwrap();
    let again = agent.create(&shares(1, &[("B", 3), ("A", 5)])).unwrap();
    assert_eq!(again.devices[0], regions.devices[1]);
    assert_eq!((memory(&regions.quota, 0), memory(&regions.quota, 1)), (Some(5 << 30), Some(3 << 30)));
    let error = agent.create(&shares(1, &[("A", 4)])).unwrap_err();
    assert!(matches!(error, AgentError::Mismatch(_)));
}

#[test]
fn a_runtime_directory_that_was_there_keeps_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o750)).unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    agent.create(&shares(1, &[("A", 4)])).unwrap();
    assert_eq!((mode(dir.path()), mode(&dir.path().join("claims"))), (0o750, 0o711));
}

#[test]
fn a_slot_is_where_the_layout_says() {
    // The agent works on slots by offset; the interposer through its view.
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let usage = agent.create(&shares(1, &[("A", 4), ("B", 4)])).unwrap().usage;
    let (raw, mapping) = map(&usage);
    let view = UsageView::open(mapping).unwrap();
    let cell = view.cell(3, 1).unwrap();
    let offset = std::ptr::from_ref(cell) as usize - raw.as_ptr() as usize;
    assert_eq!(offset, slots_offset(2) + 3 * slot_stride(2) + 128 + 32);
}

#[test]
fn a_round_brings_right_what_a_tenant_wrote_into_a_chips_region() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let regions = agent.create(&shares(1, &[("A", 4)])).unwrap();
    agent.create(&shares(2, &[("A", 4)])).unwrap();
    let path = &regions.devices[0].1;
    let before = fs::read(path).unwrap();
    let inode = inode(path);
    {
        let (_raw, mapping) = map(path);
        let view = DeviceView::open(mapping).unwrap();
        for entry in [0, 1] {
            let entry = view.entry(entry).unwrap();
            entry.share_milli.store(1_000_000, Ordering::Relaxed);
            entry.priority.store(99, Ordering::Relaxed);
            entry.tat.store(i64::MAX, Ordering::Relaxed);
        }
        // Nobody waits there, and everybody would wait for him.
        view.entry(77).unwrap().waiting_until.store(77, Ordering::Relaxed);
    }
    agent.reap().unwrap();
    {
        let (_raw, mapping) = map(path);
        let view = DeviceView::open(mapping).unwrap();
        for entry in [0, 1] {
            let entry = view.entry(entry).unwrap();
            assert!(entry.share_milli.load(Ordering::Relaxed) <= 1000);
            assert!(entry.priority.load(Ordering::Relaxed) <= 10);
            assert_eq!(seconds_ahead(entry), 0, "forgiven");
        }
        assert_eq!(view.entry(77).unwrap().waiting_until.load(Ordering::Relaxed), 0);
    }
    // Cut and overwritten: mended in place, because other claims have this very file mapped.
    open(path).set_len(100).unwrap();
    agent.reap().unwrap();
    assert_eq!(fs::metadata(path).unwrap().len(), before.len() as u64);
    let (_raw, mapping) = map(path);
    let view = DeviceView::open(mapping).unwrap();
    assert!(view.entry(1).unwrap().share_milli.load(Ordering::Relaxed) > 0);
    assert_eq!(self::inode(path), inode);
}

#[test]
fn an_entry_that_may_be_a_claims_whose_quota_cannot_be_read_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let regions = agent.create(&shares(1, &[("A", 4)])).unwrap();
    let unreadable = agent.create(&shares(2, &[("A", 4)])).unwrap();
    fs::write(&unreadable.quota, [0; 64]).unwrap();
    drop(agent);
    Agent::open(dir.path()).unwrap().reap().unwrap();
    let (_raw, mapping) = map(&regions.devices[0].1);
    let view = DeviceView::open(mapping).unwrap();
    assert_eq!(view.entry(1).unwrap().share_milli.load(Ordering::Relaxed), 100);
}

/// The clock of the buckets.
fn now() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the given struct only.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Seconds, to the nearest, that a claim has to wait until its debt is paid; credit is less than nothing.
fn seconds_ahead(entry: &DeviceEntry) -> i64 {
    let ahead = bucket::tat(entry.tat.load(Ordering::Relaxed)) - now();
    (ahead + 500_000_000).div_euclid(1_000_000_000)
}

fn set_ahead(entry: &DeviceEntry, seconds: i64) {
    let share = entry.share_milli.load(Ordering::Relaxed);
    entry.tat.store(bucket::word(now() + seconds * 1_000_000_000, share), Ordering::Relaxed);
}

/// A claim with a tenth of a chip that never gets more, and its neighbour's.
fn two_hard_claims(agent: &Agent) -> (ClaimRegions, ClaimRegions) {
    let mut both = [shares(1, &[("A", 4)]), shares(2, &[("A", 4)])];
    both.iter_mut().for_each(|shares| shares.chips[0].mode = ComputeMode::Hard);
    (agent.create(&both[0]).unwrap(), agent.create(&both[1]).unwrap())
}

#[test]
fn credit_that_nobody_saved_up_is_cut_whether_it_was_written_or_came_with_a_cut() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let (regions, _) = two_hard_claims(&agent);
    let path = &regions.devices[0].1;
    let ahead = |n| {
        let (_raw, mapping) = map(path);
        seconds_ahead(DeviceView::open(mapping).unwrap().entry(n).unwrap())
    };
    {
        let (_raw, mapping) = map(path);
        set_ahead(DeviceView::open(mapping).unwrap().entry(0).unwrap(), -3600);
    }
    agent.reap().unwrap();
    assert_eq!(ahead(0), 0, "20 ms of device time are 200 ms");
    // Zeros would be the machine's uptime.
    for spoil in [&(|| open(path).set_len(0).unwrap()) as &dyn Fn(), &|| {
        open(path).set_len(0).unwrap();
        open(path).set_len(DEVICE_SIZE as u64).unwrap();
    }] {
        spoil();
        agent.reap().unwrap();
        assert_eq!([ahead(0), ahead(1)], [0, 0]);
        spoil();
        agent.create(&shares(3, &[("A", 4)])).unwrap();
        assert_eq!([ahead(0), ahead(1)], [0, 0]);
        agent.remove(&uid(3)).unwrap();
    }
}

#[test]
fn a_neighbour_cannot_put_a_claim_into_debt_that_its_own_ledger_does_not_know_of() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let (regions, _) = two_hard_claims(&agent);
    let (_raw, mapping) = map(&regions.devices[0].1);
    let chip = DeviceView::open(mapping).unwrap();
    let (_raw, mapping) = map(&regions.usage);
    let counters = UsageView::open(mapping).unwrap();
    let entry = chip.entry(0).unwrap();
    agent.reap().unwrap();
    set_ahead(entry, 3599);
    agent.reap().unwrap();
    assert_eq!(seconds_ahead(entry), 0);
    // 30 s of device time are 300 s of a tenth, which stay owed, also when a neighbour cuts them off or adds to them.
    counters.device(0).unwrap().busy_ns.fetch_add(30_000_000_000, Ordering::Relaxed);
    set_ahead(entry, 300);
    agent.reap().unwrap();
    let owed = || (295..=301).contains(&seconds_ahead(entry));
    assert!(owed(), "{}", seconds_ahead(entry));
    open(&regions.devices[0].1).set_len(DEVICE_SIZE as u64 / 2).unwrap();
    set_ahead(entry, 3599);
    agent.reap().unwrap();
    assert!(owed(), "{}", seconds_ahead(entry));
    open(&regions.devices[0].1).set_len(64).unwrap();
    agent.reap().unwrap();
    assert!(owed(), "{}", seconds_ahead(entry));
    // Its next claim owes nothing of that.
    agent.remove(&uid(1)).unwrap();
    agent.create(&shares(3, &[("A", 4)])).unwrap();
    agent.reap().unwrap();
    assert_eq!(seconds_ahead(entry), 0);
}

/// No tenant can write it, a disk can.
#[test]
fn a_quota_that_names_an_entry_that_no_chip_has_spoils_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let regions = agent.create(&shares(1, &[("A", 4)])).unwrap();
    agent.create(&shares(2, &[("A", 4)])).unwrap();
    // The entry number, 72 bytes into the first chip.
    let at = HEADER_SIZE + 72;
    open(&regions.quota).write_all_at(&[0x40, 0x9c], at as u64).unwrap();
    drop(agent);
    let agent = Agent::open(dir.path()).unwrap();
    agent.reap().unwrap();
    agent.create(&shares(3, &[("A", 4)])).unwrap();
    assert_eq!(agent.usage(&uid(2)).unwrap().chips[0].quota, Bytes::gib(4));
    agent.create(&shares(1, &[("A", 4)])).unwrap();
    assert_eq!(agent.usage(&uid(1)).unwrap().chips[0].quota, Bytes::gib(4));
}
