use super::*;

/// A region of one chip with slot 0 of `owner`, who holds 1000 bytes and no lock.
fn region(owner: u64) -> (tempfile::TempDir, UsageRegion) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout { root: dir.path().to_path_buf() };
    let uid = ClaimUid::new("00000001-0000-4000-8000-000000000000").unwrap();
    let expected = Expected { devices: 1, uid: uid.bytes(), versions: None, generation: 1 };
    UsageRegion::ensure(&layout, &uid, expected).unwrap();
    let file = SharedFile::open(&layout.usage(&uid)).unwrap().unwrap();
    let region = UsageRegion { file, expected };
    set_owner(&region, owner);
    region.file.write(slots_offset(1) + SLOT_HEAD_SIZE, &1000_u64.to_ne_bytes()).unwrap();
    (dir, region)
}

fn set_owner(region: &UsageRegion, owner: u64) {
    region.file.write(slots_offset(1), &owner.to_ne_bytes()).unwrap();
}

fn bury(region: &UsageRegion, dead: &[Suspect]) -> (u32, u64) {
    let mut report = ReapReport::default();
    region.bury(dead, &mut report).unwrap();
    (report.reaped, report.bytes.0)
}

#[test]
fn a_slot_that_got_another_owner_since_it_was_found_dead_is_left_alone() {
    let (_dir, region) = region(42);
    let (live, dead) = region.owned().unwrap();
    assert_eq!((live, dead.len()), (0, 1));
    for owner in [43, FREE] {
        set_owner(&region, owner);
        assert_eq!(bury(&region, &dead), (0, 0));
        assert_eq!(region.read(|view| vnpu_quota_abi::ledger::sum(view, 0).committed).unwrap(), 1000);
    }
    set_owner(&region, 42);
    assert_eq!(bury(&region, &dead), (1, 1000));
    assert_eq!(region.owned().unwrap(), (0, vec![]));
}

#[test]
fn a_slot_whose_reaper_died_meanwhile_is_finished() {
    let (_dir, region) = region(42);
    let (_, dead) = region.owned().unwrap();
    set_owner(&region, REAPING);
    assert_eq!(bury(&region, &dead), (1, 1000));
}

#[test]
fn a_ledger_without_a_quota_is_taken_over_and_not_replaced() {
    let (dir, region) = region(42);
    let layout = Layout { root: dir.path().to_path_buf() };
    region.file.write(0, &[0xff; HEADER_SIZE]).unwrap();
    let uid = ClaimUid::new("00000001-0000-4000-8000-000000000000").unwrap();
    UsageRegion::ensure(&layout, &uid, region.expected).unwrap();
    assert_eq!(SharedFile::open(&layout.usage(&uid)).unwrap().unwrap().inode, region.file.inode);
    assert_eq!(region.damage().unwrap(), None);
}

#[test]
fn bytes_in_a_slot_that_nobody_has_are_cleared() {
    let (_dir, region) = region(FREE);
    let (live, found) = region.owned().unwrap();
    assert_eq!((live, found.as_slice()), (0, [Suspect { slot: 0, owner: FREE, namespace: 0 }].as_slice()));
    set_owner(&region, 42);
    assert_eq!(bury(&region, &found), (0, 0), "somebody has it by now");
    set_owner(&region, FREE);
    assert_eq!(bury(&region, &found), (0, 1000));
    assert_eq!(region.owned().unwrap(), (0, vec![]));
    let overhead = slots_offset(1) + SLOT_HEAD_SIZE + offset_of!(SlotCell, overhead);
    region.file.write(overhead, &1_u64.to_ne_bytes()).unwrap();
    assert_eq!(region.owned().unwrap().1.len(), 1, "overhead alone too");
}

#[test]
fn overhead_that_comes_while_its_slot_is_given_back_is_taken_off_again() {
    let (_dir, region) = region(42);
    let overhead = slots_offset(1) + SLOT_HEAD_SIZE + offset_of!(SlotCell, overhead);
    for _ in 0..5000 {
        region.file.write(overhead, &0_u64.to_ne_bytes()).unwrap();
        set_owner(&region, 42);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                set_owner(&region, REAPING);
                region.file.write(overhead, &0_u64.to_ne_bytes()).unwrap();
                set_owner(&region, FREE);
            });
            region.put_overhead(0, 42, 0, Bytes(77)).unwrap();
        });
        assert_eq!(word(&region.file.read(overhead, 8).unwrap(), 0), 0);
    }
}
