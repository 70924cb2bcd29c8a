//! The two regions of one claim, open: made from shares, read, and rid of dead processes.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;

use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::quantity::Bytes;
use vnpu_driver::share::{ChipShare, ClaimShares, ComputeMode, OnFailure, Overhead};
use vnpu_quota_abi::quota::{CHARGE_OVERHEAD, FAIL_CLOSED, QuotaEntry, QuotaValues, UUID_SIZE, quota_size};
use vnpu_quota_abi::slot::{self, FREE, REAPING, SlotTable};
use vnpu_quota_abi::usage::usage_size;
use vnpu_quota_abi::view::{QuotaView, UsageView};
use vnpu_quota_abi::{SLOT_COUNT, ledger};

use crate::layout::{Layout, make_dir};
use crate::map::RegionFile;
use crate::process;
use crate::{AgentError, ChipUsage, ClaimUsage, ReapReport};

/// The regions of one claim.
pub(crate) struct Claim {
    uid: ClaimUid,
    quota: RegionFile,
    usage: RegionFile,
}

impl Claim {
    /// Opens the regions of `uid`; `None` when one of them does not exist.
    pub(crate) fn open(layout: &Layout, uid: &ClaimUid) -> Result<Option<Self>, AgentError> {
        let (Some(quota), Some(usage)) =
            (RegionFile::open(&layout.quota(uid))?, RegionFile::open(&layout.usage(uid))?)
        else {
            return Ok(None);
        };
        let claim = Self { uid: uid.clone(), quota, usage };
        claim.check()?;
        Ok(Some(claim))
    }

    fn check(&self) -> Result<(), AgentError> {
        let (quota, usage) = (self.quota()?, self.usage()?);
        let of = |header: Option<&vnpu_quota_abi::header::Header>| header.map(|h| h.claim());
        if of(quota.header()) != Some(self.uid.bytes()) || of(usage.header()) != Some(self.uid.bytes()) {
            return Err(self.quota.invalid("it belongs to another claim"));
        }
        if quota.devices() != usage.devices() {
            return Err(self.usage.invalid("it has another number of chips than the quota"));
        }
        Ok(())
    }

    /// Makes the regions anew, quota last: the interposer takes a claim's directory by its quota file.
    pub(crate) fn create(
        layout: &Layout,
        shares: &ClaimShares,
        entries: &[u16],
        generation: u64,
    ) -> Result<(), AgentError> {
        make_dir(&layout.claim(&shares.claim))?;
        let devices = u16::try_from(shares.chips.len())
            .map_err(|_| AgentError::BadShares { claim: shares.claim.clone(), problem: "too many chips" })?;
        let uid = shares.claim.bytes();
        let path = layout.usage(&shares.claim);
        let mut usage = RegionFile::create(&path, usage_size(devices, SLOT_COUNT), 0o666)?;
        UsageView::create(usage.mapping()?, devices, SLOT_COUNT, uid, generation)
            .map_err(|e| usage.unusable(e))?;
        usage.rename(&path)?;
        let path = layout.quota(&shares.claim);
        let mut quota = RegionFile::create(&path, quota_size(devices), 0o644)?;
        let view = QuotaView::prepare(quota.mapping()?, devices).map_err(|e| quota.unusable(e))?;
        write_entries(&view, shares, entries);
        view.publish(uid, generation);
        quota.rename(&path)
    }

    /// Brings the quota to `shares` in place. The chips must be those of the region, in its order.
    pub(crate) fn update(&self, shares: &ClaimShares, entries: &[u16]) -> Result<(), AgentError> {
        write_entries(&self.quota()?, shares, entries);
        Ok(())
    }

    fn quota(&self) -> Result<QuotaView, AgentError> {
        QuotaView::open(self.quota.mapping()?).map_err(|e| self.quota.unusable(e))
    }

    fn usage(&self) -> Result<UsageView, AgentError> {
        UsageView::open(self.usage.mapping()?).map_err(|e| self.usage.unusable(e))
    }

    /// The chips with their values, in the region's order.
    pub(crate) fn chips(&self) -> Result<Vec<(DeviceUuid, QuotaValues)>, AgentError> {
        let quota = self.quota()?;
        (0..quota.devices())
            .map(|i| {
                let values = quota
                    .entry(i)
                    .and_then(QuotaEntry::read)
                    .ok_or_else(|| self.quota.invalid("a change of it was never finished"))?;
                let uuid = core::str::from_utf8(values.uuid_bytes())
                    .ok()
                    .and_then(|text| DeviceUuid::new(text).ok())
                    .ok_or_else(|| self.quota.invalid("a chip's identity in it is no identity"))?;
                Ok((uuid, values))
            })
            .collect()
    }

    /// Changes the memory quota of `chip`; whether the claim has a share of it.
    pub(crate) fn set_memory(&self, chip: &DeviceUuid, memory: Bytes) -> Result<bool, AgentError> {
        let quota = self.quota()?;
        for (i, (uuid, values)) in self.chips()?.into_iter().enumerate() {
            if let (true, Some(entry)) = (uuid == *chip, quota.entry(i)) {
                entry.write(&QuotaValues { memory: memory.0, ..values });
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads the ledger.
    pub(crate) fn read(&self) -> Result<ClaimUsage, AgentError> {
        let usage = self.usage()?;
        let mut chips = Vec::new();
        for (i, (uuid, values)) in self.chips()?.into_iter().enumerate() {
            let sum = ledger::sum(&usage, i);
            let counters = usage.device(i);
            chips.push(ChipUsage {
                uuid,
                phys_id: values.phys_id,
                quota: Bytes(values.memory),
                used: Bytes(sum.committed),
                reserved: Bytes(sum.reserved),
                overhead: Bytes(sum.overhead),
                denied: counters.map_or(0, |c| c.oom_denied.load(Ordering::Relaxed)),
                unknown_frees: counters.map_or(0, |c| c.unknown_frees.load(Ordering::Relaxed)),
            });
        }
        Ok(ClaimUsage {
            claim: self.uid.clone(),
            chips,
            live_slots: self.owned(&usage).filter(|(i, ..)| process::is_locked(&self.usage.file, *i)).count()
                as u32,
            slot_count: usage.capacity() as u32,
        })
    }

    /// Slots with an owner: index, owner word, PID namespace.
    fn owned<'a>(&self, usage: &'a UsageView) -> impl Iterator<Item = (usize, u64, u32)> + 'a {
        (0..usage.high_water().min(usage.capacity())).filter_map(|i| {
            let head = usage.head(i)?;
            let owner = head.owner.load(Ordering::SeqCst);
            (owner != FREE).then(|| (i, owner, head.pidns_inode.load(Ordering::Relaxed)))
        })
    }

    /// Gives back the slots of dead processes, into `report`.
    pub(crate) fn reap(&self, report: &mut ReapReport) -> Result<(), AgentError> {
        let usage = self.usage()?;
        let inode =
            self.usage.file.metadata().map_err(|e| AgentError::io("stat", &self.usage.path, e))?.ino();
        for (i, owner, pidns) in self.owned(&usage) {
            // Held while reaping, so that nobody takes or reaps the slot at the same time.
            let Some(_lock) = process::try_lock(&self.usage.file, i) else {
                report.live += 1;
                continue;
            };
            if owner != REAPING && process::lives(owner, pidns, inode) {
                report.live += 1;
                continue;
            }
            if owner == REAPING || slot::begin_reap(&usage, i, owner) {
                report.bytes.0 = report.bytes.0.saturating_add(slot::finish_reap(&usage, i));
                report.reaped += 1;
            }
        }
        Ok(())
    }
}

fn write_entries(view: &QuotaView, shares: &ClaimShares, entries: &[u16]) {
    for (i, (chip, entry)) in shares.chips.iter().zip(entries).enumerate() {
        if let Some(to) = view.entry(i) {
            to.write(&values(chip, *entry));
        }
    }
}

fn values(chip: &ChipShare, entry: u16) -> QuotaValues {
    let mut uuid = [0; UUID_SIZE];
    for (to, from) in uuid.iter_mut().zip(chip.uuid.as_str().bytes()) {
        *to = from;
    }
    let closed = if chip.on_failure == OnFailure::Closed { FAIL_CLOSED } else { 0 };
    let overhead = if chip.overhead == Overhead::Charge { CHARGE_OVERHEAD } else { 0 };
    QuotaValues {
        uuid,
        phys_id: chip.phys_id,
        minor: u32::MAX,
        entry,
        mode: mode_number(chip.mode),
        priority: chip.priority,
        flags: closed | overhead,
        share_milli: chip.cores.0.saturating_mul(10),
        memory: chip.memory.0,
    }
}

/// The compute mode as regions carry it.
pub(crate) fn mode_number(mode: ComputeMode) -> u8 {
    match mode {
        ComputeMode::Hard => 0,
        ComputeMode::Elastic => 1,
        ComputeMode::BestEffort => 2,
    }
}
