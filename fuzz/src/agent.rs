//! The node agent over region files of any content and length.

use std::fs;
use std::path::Path;

use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_driver::share::{ChipShare, ClaimShares, ComputeMode, OnFailure, Overhead};
use vnpu_quota_agent::Agent;

use crate::memory::Input;

fn uid(n: u32) -> ClaimUid {
    ClaimUid::new(format!("{n:08x}-0000-4000-8000-000000000000")).unwrap()
}

fn shares(n: u32) -> ClaimShares {
    let chip = |name: &str| ChipShare {
        uuid: DeviceUuid::new(name).unwrap(),
        phys_id: 3,
        memory: Bytes::gib(4),
        cores: Percent(10),
        mode: ComputeMode::Elastic,
        priority: 5,
        on_failure: OnFailure::Closed,
        overhead: Overhead::Charge,
    };
    ClaimShares { claim: uid(n), chips: vec![chip("A"), chip("B")] }
}

/// Writes of a tenant into a file, and now and then a new length.
fn spoil(input: &mut Input<'_>, path: &Path) {
    let Ok(mut bytes) = fs::read(path) else { return };
    for _ in 0..input.byte() % 16 {
        let (place, patch) = input.patch();
        let place = if place % 2 == 0 { place / 2 % 512 } else { place / 2 % bytes.len().max(1) };
        for (to, from) in bytes.iter_mut().skip(place).zip(patch) {
            *to = *from;
        }
    }
    if input.byte() % 8 == 7 {
        bytes.resize(input.number::<2>() as usize, 0xa5);
    }
    // In place: tenants hold the file, and may not make another.
    let _ = fs::write(path, bytes);
}

/// Reads, reaps, serves another claim, and gives a spoiled claim a new beginning, without a panic; and nobody's quota
/// grows by what a tenant wrote.
pub fn agent(bytes: &[u8]) {
    let mut input = Input(bytes);
    let dir = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let mut agent = Agent::open(dir.path()).unwrap();
    let regions = agent.create(&shares(1)).unwrap();
    agent.create(&shares(2)).unwrap();
    // What a tenant can write: its ledger and its chips' regions. Its quota it cannot, but a disk can.
    spoil(&mut input, &regions.usage);
    for (_, chip) in &regions.devices {
        spoil(&mut input, chip);
    }
    let quota_is_sound = input.byte() % 4 != 3;
    if !quota_is_sound {
        spoil(&mut input, &regions.quota);
    }
    if input.byte() % 2 == 1 {
        drop(agent);
        agent = Agent::open(dir.path()).unwrap();
    }
    let _ = agent.usage(&uid(1));
    let _ = agent.attached(&uid(1));
    let _ = agent.regions(&uid(1));
    agent.reap().unwrap();
    let other = agent.usage(&uid(2)).unwrap();
    assert_eq!(other.chips[0].quota, Bytes::gib(4), "the neighbour's");
    agent.create(&shares(3)).unwrap();
    if quota_is_sound {
        let usage = agent.usage(&uid(1)).unwrap();
        assert_eq!(usage.chips.iter().map(|chip| chip.quota).collect::<Vec<_>>(), [Bytes::gib(4); 2]);
        // All owners that a tenant can make up are dead or not of the claim: what they held is given back, at once
        // or, of a slot that was freed half-way, with the next process that takes it.
        agent.reap().unwrap();
        assert_eq!(agent.usage(&uid(1)).unwrap().live_slots, 0);
        agent.create(&shares(1)).unwrap();
    }
    for n in 1..=3 {
        agent.remove(&uid(n)).unwrap();
    }
}
