use std::os::unix::fs::{FileExt, PermissionsExt};

use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_driver::share::{ChipShare, ComputeMode, OnFailure, Overhead};
use vnpu_quota_abi::slot::owner_word;
use vnpu_quota_abi::usage::slots_offset;

use super::*;

fn shares() -> ClaimShares {
    let chip = ChipShare {
        uuid: DeviceUuid::new("A").unwrap(),
        phys_id: 0,
        memory: Bytes::gib(1),
        cores: Percent(100),
        mode: ComputeMode::BestEffort,
        priority: 5,
        on_failure: OnFailure::Closed,
        overhead: Overhead::Charge,
    };
    let claim = ClaimUid::new("00000001-0000-4000-8000-000000000000").unwrap();
    ClaimShares { claim, chips: vec![chip] }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// This process in the ledger of `dir`, without any lock: as after closing all files.
fn take_slot(dir: &Path) -> memmap2::MmapRaw {
    let file = File::options()
        .read(true)
        .write(true)
        .open(dir.join("claims").join(shares().claim.as_str()).join("usage"))
        .unwrap();
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let starttime = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let pids = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap();
    let pid = pids.split_whitespace().last().unwrap().parse().unwrap();
    let link = fs::read_link("/proc/self/ns/pid").unwrap();
    let namespace: u32 = link.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    let slot = slots_offset(1) as u64;
    file.write_all_at(&owner_word(pid, starttime).to_ne_bytes(), slot).unwrap();
    file.write_all_at(&namespace.to_ne_bytes(), slot + 8).unwrap();
    memmap2::MmapOptions::new().map_raw(&file).unwrap()
}

#[test]
fn the_regions_of_a_run_are_this_users_alone() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("below/base");
    let regions = RunRegions::create(&base, &shares()).unwrap();
    assert_eq!((mode(&base), mode(regions.dir())), (0o700, 0o700));
    let path = regions.dir().to_path_buf();
    regions.remove();
    assert!(base.exists() && !path.exists());
}

#[test]
fn a_run_whose_program_closed_all_its_files_is_not_over() {
    let dir = tempfile::tempdir().unwrap();
    let regions = RunRegions::create(dir.path(), &shares()).unwrap();
    let path = regions.dir().to_path_buf();
    let mapped = take_slot(&path);
    regions.remove();
    assert!(path.exists(), "its ledger is in use");
    sweep(dir.path());
    assert!(path.exists());
    drop(mapped);
    sweep(dir.path());
    assert!(!path.exists());
}

#[test]
fn a_run_that_cannot_be_looked_at_is_not_over() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run-x");
    fs::create_dir(&run).unwrap();
    File::create(run.join(LOCK)).unwrap();
    // The agent cannot open this.
    fs::write(run.join("claims"), "").unwrap();
    sweep(dir.path());
    assert!(run.exists());
    fs::remove_file(run.join("claims")).unwrap();
    sweep(dir.path());
    assert!(!run.exists());
}

#[test]
fn files_are_where_the_option_says_else_in_the_session_else_in_roots_place() {
    let session = tempfile::tempdir().unwrap();
    let session = session.path();
    let choose = |option: Option<&str>, session, root| choose_base(option.map(Path::new), session, root);
    for root in [true, false] {
        assert_eq!(choose(Some("/x"), Some(session), root).unwrap(), Path::new("/x"));
        assert_eq!(choose(None, Some(session), root).unwrap(), session.join("vnpu"));
    }
    let here = std::env::current_dir().unwrap();
    assert_eq!(choose(Some("x"), None, false).unwrap(), here.join("x"));
    assert_eq!(choose(None, None, true).unwrap(), Path::new("/run/vnpu-cli"));
    let message = choose(None, None, false).unwrap_err().to_string();
    assert!(message.contains("XDG_RUNTIME_DIR is not set") && message.contains("--run-dir"), "{message}");
}

#[test]
fn a_session_directory_that_cannot_be_used_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (absent, file, foreign) =
        (dir.path().join("absent"), dir.path().join("file"), dir.path().join("foreign"));
    fs::write(&file, "").unwrap();
    fs::create_dir(&foreign).unwrap();
    let refused = |session: &Path, problem: &str| {
        let message = choose_base(None, Some(session), true).unwrap_err().to_string();
        let start = format!("XDG_RUNTIME_DIR is {}, which {problem}", session.display());
        assert!(message.starts_with(&start) && message.contains("--run-dir"), "{message}");
        assert!(choose_base(Some(dir.path()), Some(session), true).is_ok(), "the option needs no session");
    };
    refused(Path::new("run/user"), "is not absolute");
    refused(&absent, "cannot be used (No such file or directory");
    refused(&file, "is no directory");
    assert!(!absent.exists(), "it is not ours to make");
    // Only root can give a directory away.
    if std::os::unix::fs::chown(&foreign, Some(65534), None).is_ok() {
        refused(&foreign, "belongs to user 65534, not to user 0");
    }
}
