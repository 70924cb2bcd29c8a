use vnpu_driver::quantity::Bytes;

use super::*;

const OWN: u32 = 500;

fn home(cgroup: &str, container: bool) -> Home {
    Home { cgroup: cgroup.into(), container: container.then(|| "c".into()), ..Home::default() }
}

fn offender(pid: u32) -> Offender {
    let process = OnChip { pid, starttime: 7, bytes: Bytes(1), slot: None, crowded: false };
    Offender { process, home: home("a", true), evidence: Evidence::Mounted }
}

fn witness(starttime: u64, home: Home) -> Witness {
    let mut seen = Witness::nobody();
    (seen.starttime, seen.home) = (starttime, home);
    seen
}

#[test]
fn only_the_process_that_was_judged_is_ended_and_only_in_a_container_with_the_claim() {
    let (same, mounted) = (witness(7, home("a", true)), Some(Evidence::Mounted));
    assert_eq!(may_kill(&offender(10), Some(&same), mounted, OWN), Ok(()));
    assert_eq!(may_kill(&offender(10), Some(&same), Some(Evidence::Cgroup), OWN), Ok(()));

    assert_eq!(may_kill(&offender(10), None, mounted, OWN), Err(Spared::Gone));
    let younger = witness(8, home("a", true));
    assert_eq!(may_kill(&offender(10), Some(&younger), mounted, OWN), Err(Spared::Gone));
    let moved = witness(7, home("b", true));
    assert_eq!(may_kill(&offender(10), Some(&moved), mounted, OWN), Err(Spared::Moved));
    for evidence in [None, Some(Evidence::Mapped)] {
        assert_eq!(may_kill(&offender(10), Some(&same), evidence, OWN), Err(Spared::NotInContainer));
    }
    let host = Offender { home: home("a", false), ..offender(10) };
    let on_host = witness(7, home("a", false));
    assert_eq!(may_kill(&host, Some(&on_host), mounted, OWN), Err(Spared::NotInContainer));
}

#[test]
fn the_first_process_and_the_agent_itself_are_never_ended() {
    let same = witness(7, home("a", true));
    for pid in [0, 1, OWN] {
        let kept = may_kill(&offender(pid), Some(&same), Some(Evidence::Mounted), OWN);
        assert_eq!(kept, Err(Spared::Protected), "{pid}");
    }
}
