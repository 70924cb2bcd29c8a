//! The agent itself: one runtime directory and every region in it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::share::ClaimShares;
use vnpu_quota_abi::mark::{Mark, reached};
use vnpu_quota_abi::slot::{FREE, REAPING};

use crate::aside::Aside;
use crate::chip::{self, Entries, Party};
use crate::claim::Claim;
use crate::file::TEMPORARY;
use crate::layout::{Layout, make_dir, names, remove_dir, remove_file};
use crate::process::Processes;
use crate::quota::{QuotaRegion, count, values};
use crate::usage::{Expected, Suspect, UsageRegion};
use crate::{AgentError, Attached, ClaimRegions, ClaimUsage, ReapReport};

/// The inode of a usage file with slots in it that may be dead processes'.
type Found = (u64, Vec<Suspect>);

/// Owner of the regions under one runtime directory: `claims/<uid>/{quota,usage}` and `devices/<uuid>`.
///
/// One agent per runtime directory and process: closing any file drops all record locks of a process on it, so
/// two agents in one process would unlock each other's slots in the middle of reaping.
#[derive(Debug)]
pub struct Agent {
    layout: Layout,
    // Held for every operation on regions: they take microseconds on a tmpfs, and POSIX locks do not exclude
    // threads of one process from each other.
    entries: Mutex<Entries>,
    aside: Aside,
}

impl Agent {
    /// Opens `runtime_dir` (made if absent) and takes up the regions that are already there; what a killed agent
    /// or a tenant left of them is brought right.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(runtime_dir: impl AsRef<Path>) -> Result<Self, AgentError> {
        let agent = Self {
            layout: Layout { root: runtime_dir.as_ref().to_path_buf() },
            entries: Mutex::new(Entries::default()),
            aside: Aside::default(),
        };
        for dir in [&agent.layout.root, &agent.layout.claims(), &agent.layout.devices()] {
            make_dir(dir, false)?;
        }
        let mut entries = agent.lock();
        for uid in agent.claims()? {
            // Its next `create` makes it anew; the others must be served meanwhile.
            if let Err(error) = agent.take_up(&uid, &mut entries) {
                tracing::warn!(claim = %uid, %error, "regions are unusable");
                entries.incomplete = true;
            }
        }
        agent.sweep(&entries)?;
        drop(entries);
        Ok(agent)
    }

    /// Makes the regions of one claim, or brings existing ones to these shares; processes that are attached
    /// keep their slots and bytes.
    ///
    /// # Errors
    /// Unusable shares, regions of the same claim for other chips, a chip with too many claims, I/O.
    pub fn create(&self, shares: &ClaimShares) -> Result<ClaimRegions, AgentError> {
        self.create_locked(&mut self.lock(), shares)
    }

    pub(crate) fn create_locked(
        &self,
        entries: &mut Entries,
        shares: &ClaimShares,
    ) -> Result<ClaimRegions, AgentError> {
        check_shares(shares)?;
        let generation = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX));
        let readable = |quota: Option<QuotaRegion>| quota.map(|q| Ok((q.chips()?, q))).transpose();
        let existing = match QuotaRegion::open(&self.layout, &shares.claim).and_then(readable) {
            Ok(existing) => existing,
            Err(error @ AgentError::Invalid { .. }) => {
                tracing::warn!(claim = %shares.claim, %error, "the quota is made anew");
                None
            }
            Err(error) => return Err(error),
        };
        if let Some((chips, _)) = &existing {
            let there: BTreeSet<_> = chips.iter().map(|(uuid, _)| uuid).collect();
            if there != shares.chips.iter().map(|c| &c.uuid).collect() {
                return Err(AgentError::Mismatch(shares.claim.clone()));
            }
        }
        let existing = existing.map(|(_, quota)| quota);
        let mut numbers = Vec::new();
        for share in &shares.chips {
            numbers.push(entries.pick(&share.uuid, &shares.claim)?);
        }
        for (share, (entry, fresh)) in shares.chips.iter().zip(&numbers) {
            self.mend(&share.uuid, entries)?;
            chip::write_entry(&self.layout, &share.uuid, &values(share, *entry), *fresh, generation)?;
            entries.insert(&share.uuid, *entry, &shares.claim);
        }
        let numbers: Vec<u16> = numbers.into_iter().map(|(entry, _)| entry).collect();
        let expected = match &existing {
            Some(existing) => Expected::by(existing)?,
            None => {
                Expected { devices: count(shares)?, uid: shares.claim.bytes(), versions: None, generation }
            }
        };
        // Quota last: the interposer takes a claim's directory by its quota file.
        UsageRegion::ensure(&self.layout, &shares.claim, expected)?;
        match existing {
            Some(existing) => existing.update(shares, &numbers)?,
            None => QuotaRegion::create(&self.layout, shares, &numbers, generation)?,
        }
        Ok(self.paths(&shares.claim, shares.chips.iter().map(|c| &c.uuid)))
    }

    /// Removes the regions of one claim; a chip's region goes with its last claim. A claim that has none is fine.
    ///
    /// # Errors
    /// I/O; what was removed stays removed and a retry goes on.
    pub fn remove(&self, claim: &ClaimUid) -> Result<(), AgentError> {
        let mut entries = self.lock();
        // The directory first: whoever starts in between finds no claim rather than one without its chip.
        remove_dir(&self.layout.claim(claim))?;
        reached(Mark::ClaimDirRemoved);
        while let Some((uuid, entry, last)) = entries.take(claim) {
            let result = if last {
                remove_file(&self.layout.device(&uuid)).map(drop)
            } else {
                chip::clear_entry(&self.layout, &uuid, entry)
            };
            if result.is_err() {
                // Still its entry, for the retry.
                entries.insert(&uuid, entry, claim);
                return result;
            }
        }
        Ok(())
    }

    /// The claims that have regions here, sorted.
    ///
    /// # Errors
    /// The runtime directory cannot be read.
    pub fn claims(&self) -> Result<Vec<ClaimUid>, AgentError> {
        let names = names(&self.layout.claims())?;
        Ok(names.iter().filter_map(|name| ClaimUid::new(name.as_str()).ok()).collect())
    }

    /// Where the claim's regions are; `None` when it has none.
    ///
    /// # Errors
    /// The regions exist and are not readable.
    pub fn regions(&self, claim: &ClaimUid) -> Result<Option<ClaimRegions>, AgentError> {
        let _entries = self.lock();
        let Some(open) = Claim::open(&self.layout, claim)? else { return Ok(None) };
        let chips = open.quota.chips()?;
        Ok(Some(self.paths(claim, chips.iter().map(|(uuid, _)| uuid))))
    }

    /// What the claim uses now, by its ledger.
    ///
    /// # Errors
    /// The claim has no regions, or they are unusable.
    pub fn usage(&self, claim: &ClaimUid) -> Result<ClaimUsage, AgentError> {
        let _entries = self.lock();
        self.open_claim(claim)?.read()
    }

    /// [`ClaimUsage::attached`] of what the claim uses now.
    ///
    /// # Errors
    /// The claim has no regions, or they are unusable.
    pub fn attached(&self, claim: &ClaimUid) -> Result<Attached, AgentError> {
        self.usage(claim).map(|usage| usage.attached())
    }

    /// Gives back the slots of dead processes in all claims, and repairs ledgers and chips' regions that a tenant
    /// spoiled.
    ///
    /// # Errors
    /// The runtime directory cannot be read; a single unreadable claim is in the report instead.
    pub fn reap(&self) -> Result<ReapReport, AgentError> {
        let mut report = ReapReport::default();
        self.mend_chips();
        let mut suspects = Vec::new();
        for uid in self.claims()? {
            let _entries = self.lock();
            match self.suspects(&uid, &mut report) {
                Ok(Some(found)) => suspects.push((uid, found)),
                Ok(None) => (),
                Err(error) => report.unreadable.push((uid, error.to_string())),
            }
        }
        if suspects.is_empty() {
            return Ok(report);
        }
        // Without the lock: how long this takes is up to the tenants, within a few seconds. After the suspects were read, so that none
        // of them can be younger than the look.
        let owners = suspects.iter().flat_map(|(_, (_, found))| found).map(|s| s.owner);
        let nobodys = |owner| owner == FREE || owner == REAPING;
        let mut processes = Processes::look(Path::new("/proc"), &self.aside, owners);
        for (_, (inode, found)) in &mut suspects {
            let before = found.len();
            found.retain(|s| nobodys(s.owner) || !processes.lives(s.owner, s.namespace, *inode));
            report.live = report.live.saturating_add(u32::try_from(before - found.len()).unwrap_or(u32::MAX));
        }
        for (uid, (inode, dead)) in suspects {
            let _entries = self.lock();
            let result = match Claim::open(&self.layout, &uid) {
                Ok(Some(claim)) if claim.usage.file.inode == inode => claim.usage.bury(&dead, &mut report),
                // Removed or made anew since.
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                report.unreadable.push((uid, error.to_string()));
            }
        }
        Ok(report)
    }

    /// Notes the entries of a claim that is there, and repairs its regions.
    fn take_up(&self, uid: &ClaimUid, entries: &mut Entries) -> Result<(), AgentError> {
        let Some(quota) = QuotaRegion::open(&self.layout, uid)? else { return Ok(()) };
        for (uuid, values) in quota.chips()? {
            entries.insert(&uuid, values.entry, uid);
        }
        quota.finish_changes()?;
        match UsageRegion::open(&self.layout, &quota)? {
            Some(usage) if usage.damage()?.is_some() => usage.repair(),
            _ => Ok(()),
        }
    }

    /// The slots of a claim that may be dead processes', with the inode of its usage file; `None` without any.
    fn suspects(&self, uid: &ClaimUid, report: &mut ReapReport) -> Result<Option<Found>, AgentError> {
        // Removed since it was listed.
        let Some(claim) = Claim::open(&self.layout, uid)? else { return Ok(None) };
        if let Some(damage) = claim.usage.damage()? {
            claim.usage.repair()?;
            report.unreadable.push((uid.clone(), damage.to_owned()));
            return Ok(None);
        }
        let (live, found) = claim.usage.owned()?;
        report.live = report.live.saturating_add(live);
        Ok((!found.is_empty()).then_some((claim.usage.file.inode, found)))
    }

    /// What the claims on `chip` have of it, by their quotas and ledgers.
    fn parties_on(&self, entries: &Entries, chip: &DeviceUuid) -> Vec<Party> {
        let mut out = Vec::new();
        for (entry, uid) in entries.claims_on(chip) {
            match self.party_on(&uid, chip) {
                // A quota that a disk has spoiled names any entry, another claim's or none that there is.
                Ok(party) => out.extend(party.filter(|party| party.values.entry == entry)),
                Err(error) => {
                    tracing::warn!(claim = %uid, %error, "its entry of a chip is not brought right")
                }
            }
        }
        out
    }

    fn party_on(&self, uid: &ClaimUid, chip: &DeviceUuid) -> Result<Option<Party>, AgentError> {
        let Some(quota) = QuotaRegion::open(&self.layout, uid)? else { return Ok(None) };
        let found = quota.chips()?.into_iter().enumerate().find(|(_, (uuid, _))| uuid == chip);
        let Some((device, (_, values))) = found else { return Ok(None) };
        // A ledger that its processes spoiled is no reason to leave the chip spoiled.
        let busy =
            UsageRegion::open(&self.layout, &quota).and_then(|u| u.map(|u| u.busy(device)).transpose());
        Ok(Some(Party { values, busy: busy.ok().flatten() }))
    }

    fn mend(&self, chip: &DeviceUuid, entries: &mut Entries) -> Result<(), AgentError> {
        let parties = self.parties_on(entries, chip);
        chip::mend(&self.layout, chip, &parties, entries)
    }

    /// Brings right what tenants wrote into the regions that they share.
    fn mend_chips(&self) {
        let mut entries = self.lock();
        let chips: Vec<DeviceUuid> = entries.chips().cloned().collect();
        for chip in chips {
            if let Err(error) = self.mend(&chip, &mut entries) {
                tracing::warn!(%chip, %error, "a chip's region is not brought right yet");
            }
        }
    }

    pub(crate) fn open_claim(&self, claim: &ClaimUid) -> Result<Claim, AgentError> {
        Claim::open(&self.layout, claim)?.ok_or_else(|| AgentError::UnknownClaim(claim.clone()))
    }

    fn paths<'a>(&self, claim: &ClaimUid, chips: impl Iterator<Item = &'a DeviceUuid>) -> ClaimRegions {
        ClaimRegions {
            quota: self.layout.quota(claim),
            usage: self.layout.usage(claim),
            devices: chips.map(|uuid| (uuid.clone(), self.layout.device(uuid))).collect(),
        }
    }

    /// Removes what a killed agent left half-made: temporary files, and chips' regions without a claim.
    fn sweep(&self, entries: &Entries) -> Result<(), AgentError> {
        let devices = self.layout.devices();
        for name in names(&devices)? {
            let used = !name.ends_with(TEMPORARY)
                && DeviceUuid::new(name.as_str()).is_ok_and(|uuid| entries.serves(&uuid));
            if !used {
                remove_file(&devices.join(&name))?;
            }
        }
        for uid in self.claims()? {
            let dir = self.layout.claim(&uid);
            for name in names(&dir)?.iter().filter(|name| name.ends_with(TEMPORARY)) {
                remove_file(&dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Reads what a tenant can make wait.
    pub(crate) fn aside(&self) -> &Aside {
        &self.aside
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Entries> {
        // A panic in between leaves files that `create` and `remove` bring right; going on is safe.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_shares(shares: &ClaimShares) -> Result<(), AgentError> {
    let bad = |problem| Err(AgentError::BadShares { claim: shares.claim.clone(), problem });
    if shares.chips.is_empty() {
        return bad("there is no chip");
    }
    let distinct: BTreeSet<_> = shares.chips.iter().map(|c| &c.uuid).collect();
    if distinct.len() != shares.chips.len() {
        return bad("a chip stands twice");
    }
    Ok(())
}
