//! Who only looks sees what the agent sees, and leaves every file as it was.
// Helpers of tests may fail by panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use support::{kill, process_with_slot, shares, uid};
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_driver::share::ComputeMode;
use vnpu_quota_agent::{Agent, Reader};

/// All files below `dir` with their bytes and the time of their last change.
fn everything(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(everything(&path));
        } else {
            let found = fs::metadata(&path).unwrap();
            out.insert(path.clone(), (fs::read(&path).unwrap(), found.mtime(), found.mtime_nsec()));
        }
    }
    out
}

#[test]
fn a_reader_sees_claims_terms_and_use() {
    let dir = tempfile::tempdir().unwrap();
    let reader = Reader::new(dir.path());
    assert_eq!(reader.claims().unwrap(), vec![]);
    assert_eq!(reader.read(&uid(1)).unwrap(), None);
    let agent = Agent::open(dir.path()).unwrap();
    let first = agent.create(&shares(1, &[("A", 4), ("B", 2)])).unwrap();
    agent.create(&shares(2, &[("A", 1)])).unwrap();
    assert_eq!(reader.claims().unwrap(), vec![uid(1), uid(2)]);
    let pid = process_with_slot(&first.usage, 3, 1000);
    let reading = reader.read(&uid(1)).unwrap().unwrap();
    assert_eq!(reading.usage, agent.usage(&uid(1)).unwrap());
    assert_eq!(reading.usage.chips[0].used, Bytes(1000));
    assert_eq!((reading.occupied, reading.usage.live_slots), (1, 1));
    let terms = reading.terms[1];
    assert_eq!((terms.cores, terms.mode, terms.priority), (Percent(10), ComputeMode::Elastic, 5));
    let second = reader.read(&uid(2)).unwrap().unwrap();
    assert_eq!((terms.entry, second.terms[0].entry), (0, 1));
    kill(pid);
}

#[test]
fn a_reader_neither_reaps_nor_repairs_nor_sweeps() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::open(dir.path()).unwrap();
    let regions = agent.create(&shares(1, &[("A", 4)])).unwrap();
    kill(process_with_slot(&regions.usage, 0, 1000));
    let cut = agent.create(&shares(2, &[("A", 4)])).unwrap().usage;
    fs::File::options().write(true).open(&cut).unwrap().set_len(100).unwrap();
    fs::write(dir.path().join("devices/ORPHAN"), "x").unwrap();
    fs::write(regions.usage.with_extension("tmp"), "x").unwrap();
    let before = everything(dir.path());
    let reader = Reader::new(dir.path());
    let reading = reader.read(&uid(1)).unwrap().unwrap();
    assert_eq!((reading.usage.live_slots, reading.occupied), (0, 1), "nobody reaped the dead one");
    assert_eq!(reader.read(&uid(2)).unwrap_err().reason(), "region_invalid");
    assert_eq!(everything(dir.path()), before);
}
