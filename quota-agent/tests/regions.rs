//! Regions on a real file system, with real processes that die.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::Ordering;

use support::{kill, map, mode, process_with_slot, shares, uid};
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_driver::share::ComputeMode;
use vnpu_quota_abi::SLOT_COUNT;
use vnpu_quota_abi::line::Mode;
use vnpu_quota_abi::slot::{self, SlotTable};
use vnpu_quota_abi::view::{DeviceView, QuotaView, UsageView};
use vnpu_quota_agent::{Agent, AgentError, Attached, ChipUsage};

#[test]
fn a_claims_regions_carry_its_shares_and_the_right_modes() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path().join("run")).unwrap();
    let regions = agent.create(&shares(1, &[("A", 4), ("B", 2)])).unwrap();
    assert_eq!(regions.quota, dir.path().join("run/claims").join(uid(1).as_str()).join("quota"));
    assert_eq!((mode(&regions.quota), mode(&regions.usage)), (0o644, 0o666));
    assert_eq!(mode(&regions.devices[0].1), 0o666);
    for path in [dir.path().join("run"), dir.path().join("run/claims"), dir.path().join("run/devices")] {
        assert_eq!(mode(&path), 0o711);
    }
    let (_raw, mapping) = map(&regions.quota);
    let quota = QuotaView::open(mapping).unwrap();
    assert_eq!(mapping.header().unwrap().claim(), uid(1).bytes());
    let second = quota.entry(1).unwrap().read().unwrap();
    assert_eq!((second.uuid_bytes(), second.memory, second.phys_id), (&b"B"[..], 2 << 30, 3));
    assert_eq!((second.share_milli, second.mode, second.priority, second.flags), (100, 1, 5, 3));
    assert_eq!(agent.regions(&uid(1)).unwrap(), Some(regions));
    assert_eq!(agent.claims().unwrap(), vec![uid(1)]);
}

#[test]
fn create_again_keeps_the_slots_and_brings_the_quota_to_the_new_shares() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let regions = agent.create(&shares(1, &[("A", 4)])).unwrap();
    let pid = process_with_slot(&regions.usage, 7, 1000);
    assert_eq!(agent.create(&shares(1, &[("A", 8)])).unwrap(), regions);
    let usage = agent.usage(&uid(1)).unwrap();
    assert_eq!((usage.chips[0].used, usage.chips[0].quota), (Bytes(1000), Bytes::gib(8)));
    assert_eq!(usage.live_slots, 1);
    kill(pid);
    assert!(matches!(agent.create(&shares(1, &[("B", 8)])), Err(AgentError::Mismatch(_))));
}

#[test]
fn a_killed_process_gives_its_slot_back_and_a_living_one_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let usage = agent.create(&shares(1, &[("A", 4)])).unwrap().usage;
    assert_eq!(agent.attached(&uid(1)).unwrap(), Attached::Unknown);
    let dies = process_with_slot(&usage, 0, 1000);
    let lives = process_with_slot(&usage, 1, 500);
    assert_eq!(agent.attached(&uid(1)).unwrap(), Attached::True);
    kill(dies);
    let report = agent.reap().unwrap();
    assert_eq!((report.reaped, report.live, report.bytes), (1, 1, Bytes(1000)));
    assert_eq!(agent.usage(&uid(1)).unwrap().chips[0].used, Bytes(500));
    kill(lives);
    assert_eq!(agent.reap().unwrap().bytes, Bytes(500));
    assert_eq!(agent.reap().unwrap().reaped, 0);
    assert_eq!(agent.attached(&uid(1)).unwrap(), Attached::Unknown);
}

#[test]
fn processes_without_a_slot_are_told_beside_those_with_one() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let usage = agent.create(&shares(1, &[("A", 4), ("B", 4)])).unwrap().usage;
    let (_raw, mapping) = map(&usage);
    let view = UsageView::open(mapping).unwrap();
    view.device(0).unwrap().slotless_processes.store(1, Ordering::SeqCst);
    view.device(1).unwrap().slotless_denied.store(3, Ordering::SeqCst);
    view.device(1).unwrap().unhooked.store(4, Ordering::SeqCst);
    view.device(0).unwrap().unhooked_functions.store(5, Ordering::SeqCst);
    view.raise_high_water(usize::from(SLOT_COUNT));
    assert_eq!(agent.attached(&uid(1)).unwrap(), Attached::Unknown, "nobody is held to the quota");
    let pid = process_with_slot(&usage, usize::from(SLOT_COUNT) - 1, 1000);
    assert_eq!(agent.attached(&uid(1)).unwrap(), Attached::Crowded);
    let found = agent.usage(&uid(1)).unwrap();
    assert_eq!((found.without_slot, found.unhooked_functions), (1, 5));
    let of_chips = |of: fn(&ChipUsage) -> u64| found.chips.iter().map(of).collect::<Vec<_>>();
    assert_eq!(of_chips(|c| c.denied_without_slot), [0, 3]);
    assert_eq!(of_chips(|c| c.unaccounted), [0, 4]);
    kill(pid);
}

#[test]
fn a_slot_that_a_dead_reaper_left_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let usage = agent.create(&shares(1, &[("A", 4)])).unwrap().usage;
    let (_raw, mapping) = map(&usage);
    let view = UsageView::open(mapping).unwrap();
    assert!(slot::claim(&view, 3, 42, 0));
    view.cell(3, 0).unwrap().committed.store(9, Ordering::SeqCst);
    assert!(slot::begin_reap(&view, 3, 42));
    assert_eq!(agent.reap().unwrap().bytes, Bytes(9));
    assert_eq!(view.head(3).unwrap().owner.load(Ordering::SeqCst), slot::FREE);
}

#[test]
fn claims_on_one_chip_have_their_own_entries_and_the_region_goes_with_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let device = agent.create(&shares(1, &[("A", 4)])).unwrap().devices[0].1.clone();
    let second = agent.create(&shares(2, &[("A", 4)])).unwrap();
    let entry = |regions: &Path| {
        let (_raw, mapping) = map(regions);
        QuotaView::open(mapping).unwrap().entry(0).unwrap().read().unwrap().entry
    };
    assert_eq!(entry(&second.quota), 1);
    // A new agent knows what the last one gave out.
    drop(agent);
    let agent = Agent::open(dir.path()).unwrap();
    agent.remove(&uid(1)).unwrap();
    assert_eq!(entry(&agent.create(&shares(3, &[("A", 1)])).unwrap().quota), 0);
    let (_raw, mapping) = map(&device);
    assert_eq!(DeviceView::open(mapping).unwrap().entry(1).unwrap().share_milli.load(Ordering::SeqCst), 100);
    for claim in [uid(2), uid(3), uid(3)] {
        assert!(device.exists());
        agent.remove(&claim).unwrap();
        if claim == uid(3) {
            break;
        }
    }
    assert!(!device.exists());
    agent.remove(&uid(3)).unwrap();
    assert_eq!(agent.claims().unwrap(), vec![]);
}

#[test]
fn a_chip_serves_128_claims_and_refuses_the_next_as_retryable() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    for n in 0..128 {
        agent.create(&shares(n, &[("A", 1)])).unwrap();
    }
    let error = agent.create(&shares(128, &[("A", 1)])).unwrap_err();
    assert!(matches!(error, AgentError::DeviceFull(_)) && error.retryable());
    agent.remove(&uid(50)).unwrap();
    agent.create(&shares(128, &[("A", 1)])).unwrap();
}

#[test]
fn an_unusable_region_is_an_error_to_read_and_made_anew_by_create() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let regions = agent.create(&shares(1, &[("A", 4)])).unwrap();
    fs::File::options().write(true).open(&regions.usage).unwrap().set_len(100).unwrap();
    assert_eq!(agent.usage(&uid(1)).unwrap_err().reason(), "region_invalid");
    assert_eq!(agent.reap().unwrap().unreadable.len(), 1);
    agent.create(&shares(1, &[("A", 4)])).unwrap();
    assert_eq!(agent.usage(&uid(1)).unwrap().chips[0].used, Bytes(0));
    fs::remove_file(&regions.quota).unwrap();
    assert!(matches!(agent.usage(&uid(1)), Err(AgentError::UnknownClaim(_))));
    agent.create(&shares(1, &[("A", 4)])).unwrap();
    assert_eq!(agent.regions(&uid(1)).unwrap(), Some(regions));
}

#[test]
fn opening_sweeps_what_a_killed_agent_left() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let regions = agent.create(&shares(1, &[("A", 4)])).unwrap();
    drop(agent);
    let temporary = regions.usage.with_extension("tmp");
    fs::write(dir.path().join("devices/ORPHAN"), b"x").unwrap();
    fs::write(&temporary, b"x").unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    assert!(!dir.path().join("devices/ORPHAN").exists() && !temporary.exists());
    assert!(regions.devices[0].1.exists());
    assert_eq!(agent.usage(&uid(1)).unwrap().chips[0].quota, Bytes::gib(4));
}

#[test]
fn a_quota_changes_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let regions = agent.create(&shares(1, &[("A", 4)])).unwrap();
    let (_raw, mapping) = map(&regions.quota);
    let (_raw_chip, chip) = map(&regions.devices[0].1);
    let mut changed = shares(1, &[("A", 4)]);
    let share = &mut changed.chips[0];
    (share.memory, share.cores, share.mode) = (Bytes(12345), Percent(7), ComputeMode::Elastic);
    assert!(agent.change(&changed).unwrap());
    let values = QuotaView::open(mapping).unwrap().entry(0).unwrap().read().unwrap();
    assert_eq!((values.memory, values.share_milli, values.mode), (12345, 70, Mode::Elastic as u8));
    let chip = DeviceView::open(chip).unwrap();
    let entry = chip.entry(values.entry).unwrap();
    assert_eq!(entry.share_milli.load(Ordering::SeqCst), 70, "what the neighbours go by");
    assert_eq!(agent.shares(&uid(1)).unwrap().as_ref(), Some(&changed));
    assert!(!agent.change(&changed).unwrap(), "nothing was left to change");
    assert_eq!(agent.change(&shares(1, &[("Z", 4)])).unwrap_err().reason(), "region_mismatch");
    assert_eq!(agent.change(&shares(2, &[("A", 4)])).unwrap_err().reason(), "region_unknown_claim");
    assert_eq!(agent.shares(&uid(2)).unwrap(), None);
}

#[test]
fn shares_that_name_no_chip_or_one_twice_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    assert_eq!(agent.create(&shares(1, &[])).unwrap_err().reason(), "region_bad_shares");
    assert_eq!(agent.create(&shares(1, &[("A", 1), ("A", 1)])).unwrap_err().reason(), "region_bad_shares");
}

#[test]
fn the_helper_process_really_holds_its_lock() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let usage = agent.create(&shares(1, &[("A", 4)])).unwrap().usage;
    let pid = process_with_slot(&usage, 2, 1);
    let file = fs::File::options().read(true).write(true).open(&usage).unwrap();
    // SAFETY: F_GETLK writes the struct only.
    let kind = unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = libc::F_WRLCK as _;
        lock.l_start = 2;
        lock.l_len = 1;
        libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock);
        i32::from(lock.l_type)
    };
    assert_eq!(kind, libc::F_WRLCK);
    kill(pid);
}
