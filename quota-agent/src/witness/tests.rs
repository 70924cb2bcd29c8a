use std::os::unix::fs::symlink;
use std::time::Duration;

use super::*;
use crate::aside::tests::{answer, silent};

const CLAIM: &str = "00000001-0000-4000-8000-000000000000";
const POD: &str = "9f3c1b52-1111-4222-8333-444455556666";
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OUTSIDE_POD: &str = "0::/system.slice/containerd.service\n";

/// A `/proc` with process 900, known as 5 in its namespace.
fn machine(maps: &str, mountinfo: &str, cgroup: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let process = root.path().join("900");
    fs::create_dir_all(process.join("ns")).unwrap();
    let stat = "900 (a ) b) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 12884903122 0 0\n";
    for (name, text) in [
        ("stat", stat),
        ("status", "NSpid:\t900\t5\n"),
        ("maps", maps),
        ("mountinfo", mountinfo),
        ("cgroup", cgroup),
        ("comm", "a\tprogram\n"),
    ] {
        fs::write(process.join(name), text).unwrap();
    }
    symlink("pid:[4026531836]", process.join("ns/pid")).unwrap();
    root
}

/// Inode 77 of device 0:26, of [`CLAIM`].
fn usage() -> UsageFile {
    UsageFile { claim: ClaimUid::new(CLAIM).unwrap(), id: (libc::makedev(0, 26), 77) }
}

fn evidence(maps: &str, mountinfo: &str, cgroup: &str) -> Option<Evidence> {
    let root = machine(maps, mountinfo, cgroup);
    Witness::look(root.path(), &Aside::default(), 900).unwrap().evidence(&usage(), &[POD.to_owned()])
}

#[test]
fn who_it_is_stands_in_proc() {
    let root = machine("", "", "");
    let seen = Witness::look(root.path(), &Aside::default(), 900).unwrap();
    // Start times are longer than owner words have room for.
    assert_eq!((seen.starttime, seen.inner_pid, seen.namespace), (12_884_903_122, 5, 4_026_531_836));
    assert_eq!(seen.home.program, "aprogram", "nothing that a terminal would act on");
    assert!(Witness::look(root.path(), &Aside::default(), 901).is_none());
}

#[test]
fn a_container_with_the_claim_has_its_ledger_mounted() {
    let mount =
        |place: &str| format!("36 35 0:26 {place} /run/vnpu/claims/{CLAIM}/usage rw - tmpfs tmpfs rw\n");
    let of = |place: &str| evidence("", &mount(place), OUTSIDE_POD);
    assert_eq!(of(&format!("/claims/{CLAIM}/usage")), Some(Evidence::Mounted));
    assert_eq!(of(&format!("/vnpu/claims/{CLAIM}/usage")), Some(Evidence::Mounted));
    assert_eq!(
        of(&format!("/claims/{CLAIM}/usage//deleted")),
        Some(Evidence::Mounted),
        "unprepared meanwhile"
    );
    assert_eq!(of(&format!("/claims/{CLAIM}/quota")), None);
    assert_eq!(of("/claims/00000002-0000-4000-8000-000000000000/usage"), None);
}

#[test]
fn a_file_that_a_tenant_mounts_in_the_ledgers_place_is_no_evidence() {
    // Of another file system: what it is called inside that is up to the tenant.
    let forged = format!("36 35 0:99 /claims/{CLAIM}/usage /run/vnpu/claims/{CLAIM}/usage rw - tmpfs t rw\n");
    assert_eq!(evidence("", &forged, OUTSIDE_POD), None);
    // Of the right one, but another file.
    let elsewhere = format!("36 35 0:26 /devices/X /run/vnpu/claims/{CLAIM}/usage rw - tmpfs t rw\n");
    assert_eq!(evidence("", &elsewhere, OUTSIDE_POD), None);
}

#[test]
fn a_mapped_ledger_is_the_weakest_evidence() {
    let maps = "7f00-7f01 rw-s 00000000 00:1a 77 /run/vnpu/claims/x/usage\n";
    assert_eq!(evidence(maps, "", OUTSIDE_POD), Some(Evidence::Mapped));
    assert_eq!(
        evidence(&maps.replace("00:1a", "00:1b"), "", OUTSIDE_POD),
        None,
        "another file system's inode 77"
    );
    assert_eq!(evidence(maps, "", &format!("0::/kubepods/pod{POD}/{ID}\n")), Some(Evidence::Cgroup));
}

#[test]
fn cgroups_name_the_pod_and_the_container() {
    for cgroup in [
        format!("0::/kubepods/besteffort/pod{POD}/{ID}\n"),
        format!("12:cpu:/../../kubepods/pod{POD}/{ID}\n11:memory:/kubepods/pod{POD}/{ID}\n"),
        format!(
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{}.slice/cri-containerd-{ID}.scope\n",
            POD.replace('-', "_")
        ),
        format!("0::/kubepods.slice/kubepods-pod{}.slice/crio-{ID}.scope/container\n", POD.replace('-', "_")),
    ] {
        let home = home(cgroup.clone(), "x");
        assert_eq!((home.pod.as_deref(), home.container.as_deref()), (Some(POD), Some(ID)), "{cgroup}");
        assert_eq!(evidence("", "", &cgroup), Some(Evidence::Cgroup));
    }
    let other = POD.replace('9', "8");
    assert_eq!(evidence("", "", &format!("0::/kubepods/pod{other}/{ID}\n")), None, "another pod");
    for cgroup in ["", OUTSIDE_POD, "0::/podman/pod-of-whales/x\n", "0::/kubepods\n"] {
        let home = home(cgroup.to_owned(), "x");
        assert_eq!((home.pod, home.container), (None, None), "{cgroup}");
    }
}

#[test]
fn what_does_not_need_its_mappings_is_known_of_a_process_that_waits_for_ever() {
    let root =
        machine("", &format!("36 35 0:26 /claims/{CLAIM}/usage /x rw - tmpfs tmpfs rw\n"), OUTSIDE_POD);
    let maps = root.path().join("900/maps");
    fs::remove_file(&maps).unwrap();
    silent(&maps);
    let aside = Aside::with_patience(Duration::from_millis(100));
    let seen = Witness::look(root.path(), &aside, 900).unwrap();
    assert_eq!(seen.evidence(&usage(), &[]), Some(Evidence::Mounted));
    assert!(seen.may_have_mapped(&usage()));
    fs::write(root.path().join("900/mountinfo"), "").unwrap();
    let seen = Witness::look(root.path(), &aside, 900).unwrap();
    assert_eq!(seen.evidence(&usage(), &[]), None, "that it may have the ledger mapped is no evidence");
    answer(&maps, "");
}
