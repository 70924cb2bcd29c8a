use std::os::unix::fs::{FileExt, PermissionsExt};

use vnpu_driver::hardware::{Health, Traits};
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_quota_abi::slot::owner_word;
use vnpu_quota_abi::usage::slots_offset;

use super::*;

fn chip() -> Chip {
    Chip {
        card: 0,
        die: 0,
        uuid: DeviceUuid::new("A").unwrap(),
        module: None,
        model: String::new(),
        product_name: String::new(),
        memory: Bytes::gib(64),
        phys_id: 0,
        pci: None,
        numa_node: None,
        pcie_root: None,
        health: Health::Healthy,
        traits: Traits::default(),
    }
}

fn base(dir: &Path) -> Base {
    Base::find(Some(&dir.join("base"))).unwrap()
}

fn start(base: &Base, name: &str, cores: u32) -> Result<RunRegions, RunError> {
    let wish = Wish { memory: Some(Bytes::gib(1)), cores: Some(Percent(cores)), mode: None, priority: 5 };
    RunRegions::create(base, &chip(), &wish, &Note { name: name.to_owned(), pid: 7 })
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// What is in `base`, `node` included.
fn left_over(base: &Base) -> usize {
    fs::read_dir(base.dir()).unwrap().count()
}

fn entry_of(base: &Base, run: &RunRegions) -> u16 {
    let uid = ClaimUid::new(run.dir().file_name().unwrap().to_str().unwrap().strip_prefix(PREFIX).unwrap());
    Reader::new(base.node()).read(&uid.unwrap()).unwrap().unwrap().terms[0].entry
}

/// This process in the ledger of the run in `dir`, without any lock: as after closing all files.
fn take_slot(dir: &Path) -> memmap2::MmapRaw {
    let claim = fs::read_dir(dir.join("claims")).unwrap().next().unwrap().unwrap().path();
    let file = File::options().read(true).write(true).open(claim.join("usage")).unwrap();
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

/// As if the run's process had been killed: its lock is gone, and nothing else.
fn killed(run: RunRegions) -> PathBuf {
    let dir = run.dir.clone();
    drop(run);
    dir
}

#[test]
fn the_regions_of_a_run_are_this_users_alone_and_show_no_other_claim() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let first = start(&base, "first", 30).unwrap();
    let second = start(&base, "second", 70).unwrap();
    for path in [base.dir(), &base.node(), first.dir()] {
        assert_eq!(mode(path), 0o700);
    }
    let claims: Vec<PathBuf> =
        fs::read_dir(first.dir().join("claims")).unwrap().map(|e| e.unwrap().path()).collect();
    let [only] = claims.as_slice() else { panic!("{claims:?}") };
    assert!(only.join("quota").exists() && first.dir().join("devices/A").exists());
    let path = first.dir().to_path_buf();
    first.remove();
    assert!(!path.exists() && !only.exists() && second.dir().join("devices/A").exists());
    second.remove();
    assert_eq!(left_over(&base), 0);
}

#[test]
fn runs_on_one_chip_have_entries_of_one_region_and_a_killed_ones_is_given_away() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let (first, second) = (start(&base, "first", 30).unwrap(), start(&base, "second", 30).unwrap());
    assert_eq!((entry_of(&base, &first), entry_of(&base, &second)), (0, 1));
    let dead = killed(first);
    assert!(dead.exists());
    let third = start(&base, "third", 70).unwrap();
    assert!(!dead.exists());
    assert_eq!((entry_of(&base, &second), entry_of(&base, &third)), (1, 0), "the neighbour keeps its own");
}

#[test]
fn what_other_runs_have_is_not_promised_again() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let first = start(&base, "first", 30).unwrap();
    let message = start(&base, "second", 71).unwrap_err().to_string();
    assert!(message.contains("\n  first (process 7): 1Gi, 30 percent hard"), "{message}");
    assert_eq!(left_over(&base), 2, "the refused one leaves nothing");
    first.remove();
    start(&base, "second", 71).unwrap();
}

#[test]
fn a_run_whose_program_closed_all_its_files_is_not_over() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let run = start(&base, "first", 30).unwrap();
    let path = run.dir().to_path_buf();
    let mapped = take_slot(&path);
    run.remove();
    assert!(path.exists(), "its ledger is in use");
    sweep(&base, &base.turn().unwrap());
    assert!(path.exists());
    drop(mapped);
    sweep(&base, &base.turn().unwrap());
    assert_eq!(left_over(&base), 0);
}

#[test]
fn a_run_that_cannot_be_looked_at_is_not_over() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let run = killed(start(&base, "first", 30).unwrap());
    // The agent cannot open this.
    fs::rename(base.node(), dir.path().join("aside")).unwrap();
    fs::create_dir(base.node()).unwrap();
    fs::write(base.node().join("claims"), "").unwrap();
    sweep(&base, &base.turn().unwrap());
    assert!(run.exists());
    fs::remove_dir_all(base.node()).unwrap();
    fs::rename(dir.path().join("aside"), base.node()).unwrap();
    sweep(&base, &base.turn().unwrap());
    assert_eq!(left_over(&base), 0);
}

#[test]
fn what_a_killed_start_or_removal_left_half_done_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let run = killed(start(&base, "first", 30).unwrap());
    let claims = run.join("claims");
    fs::remove_dir_all(&run).unwrap();
    assert!(!claims.exists() && base.node().join("devices/A").exists());
    // Killed before its claim was made.
    fs::create_dir(base.dir().join("run-00000002-0000-4000-8000-000000000000")).unwrap();
    sweep(&base, &base.turn().unwrap());
    assert_eq!(left_over(&base), 0);
}

#[test]
fn tending_gives_back_and_mends_for_all_runs() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let (first, second) = (start(&base, "first", 30).unwrap(), start(&base, "second", 30).unwrap());
    drop(take_slot(second.dir()));
    let region = first.dir().join("devices/A");
    let size = fs::metadata(&region).unwrap().len();
    File::options().write(true).open(&region).unwrap().set_len(0).unwrap();
    let turn = base.turn().unwrap();
    first.tend();
    assert_eq!(fs::metadata(&region).unwrap().len(), 0, "somebody else has the turn");
    drop(turn);
    first.tend();
    assert_eq!(fs::metadata(&region).unwrap().len(), size);
    let uid =
        runs(base.dir()).unwrap().into_iter().find(|(_, n)| n.as_ref().unwrap().name == "second").unwrap().0;
    assert_eq!(Reader::new(base.node()).read(&uid).unwrap().unwrap().occupied, 0);
}
