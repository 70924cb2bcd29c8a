//! The quota region of one claim: the only file of it that tenants cannot write, and so the only record of what
//! the claim is and which entries of its chips' regions are its own.

use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_driver::share::{ChipShare, ClaimShares, ComputeMode, OnFailure, Overhead};
use vnpu_quota_abi::DEVICE_ENTRIES;
use vnpu_quota_abi::header::Header;
use vnpu_quota_abi::line::Mode;
use vnpu_quota_abi::quota::{CHARGE_OVERHEAD, FAIL_CLOSED, QuotaEntry, QuotaValues, UUID_SIZE, quota_size};
use vnpu_quota_abi::view::QuotaView;

use crate::AgentError;
use crate::file;
use crate::layout::Layout;
use crate::map::{Copy, MappedFile};

/// An open quota region that is the claim's.
pub(crate) struct QuotaRegion {
    pub(crate) uid: ClaimUid,
    file: MappedFile,
}

impl QuotaRegion {
    /// Opens the region of `uid`; `None` when there is none.
    pub(crate) fn open(layout: &Layout, uid: &ClaimUid) -> Result<Option<Self>, AgentError> {
        Self::of(uid, MappedFile::open(&layout.quota(uid))?)
    }

    /// As [`Self::open`], for a look that must change nothing.
    pub(crate) fn open_to_read(layout: &Layout, uid: &ClaimUid) -> Result<Option<Self>, AgentError> {
        Self::of(uid, MappedFile::open_to_read(&layout.quota(uid))?)
    }

    fn of(uid: &ClaimUid, file: Option<MappedFile>) -> Result<Option<Self>, AgentError> {
        let Some(file) = file else { return Ok(None) };
        let region = Self { uid: uid.clone(), file };
        if region.view()?.header().map(Header::claim) != Some(uid.bytes()) {
            return Err(region.file.invalid("it belongs to another claim"));
        }
        Ok(Some(region))
    }

    /// Makes the region anew.
    pub(crate) fn create(
        layout: &Layout,
        shares: &ClaimShares,
        entries: &[u16],
        generation: u64,
    ) -> Result<(), AgentError> {
        let path = layout.quota(&shares.claim);
        let devices = count(shares)?;
        let copy = Copy::zeroed(quota_size(devices));
        let view =
            QuotaView::prepare(copy.mapping(), devices).map_err(|e| crate::map::invalid(&path, e.words()))?;
        for (i, (chip, entry)) in shares.chips.iter().zip(entries).enumerate() {
            if let Some(to) = view.entry(i) {
                to.write(&values(chip, *entry));
            }
        }
        view.publish(shares.claim.bytes(), generation);
        let bytes = copy.bytes();
        file::put(&path, &bytes, bytes.len(), 0o644)
    }

    /// Brings the region to `shares` in place. Its chips must be those of the region, in any order.
    pub(crate) fn update(&self, shares: &ClaimShares, entries: &[u16]) -> Result<(), AgentError> {
        let view = self.view()?;
        for (i, (uuid, _)) in self.chips()?.iter().enumerate() {
            let share = shares.chips.iter().zip(entries).find(|(chip, _)| chip.uuid == *uuid);
            let (Some((chip, entry)), Some(to)) = (share, view.entry(i)) else { continue };
            let values = values(chip, *entry);
            // What is right already is not touched: nothing can then be left half done.
            if to.try_read() != Some(values) {
                to.write(&values);
            }
        }
        Ok(())
    }

    /// Ends changes that a killed agent left unfinished; until then tenants can read no limit.
    pub(crate) fn finish_changes(&self) -> Result<(), AgentError> {
        let view = self.view()?;
        for entry in (0..view.devices()).filter_map(|i| view.entry(i)) {
            if entry.try_read().is_none() {
                entry.write(&entry.read_unchecked());
            }
        }
        Ok(())
    }

    fn view(&self) -> Result<QuotaView, AgentError> {
        QuotaView::open(self.file.mapping()?).map_err(|e| self.file.unusable(e))
    }

    /// How many chips the claim has.
    pub(crate) fn devices(&self) -> Result<u16, AgentError> {
        u16::try_from(self.view()?.devices()).map_err(|_| self.file.invalid("it has too many chips"))
    }

    /// What `look` sees in the header.
    pub(crate) fn header<T>(&self, look: impl FnOnce(&Header) -> T) -> Result<T, AgentError> {
        self.view()?.header().map(look).ok_or_else(|| self.file.invalid("it has no header"))
    }

    /// The chips with their values, in the region's order. The agent is the only writer and holds its lock, so
    /// an unfinished change is a killed agent's, and what identifies a chip is the same before and after it.
    pub(crate) fn chips(&self) -> Result<Vec<(DeviceUuid, QuotaValues)>, AgentError> {
        self.chips_by(|entry| Ok(entry.read_unchecked()))
    }

    /// What tenants read: nothing of a chip whose change was never finished.
    pub(crate) fn chips_in_force(&self) -> Result<Vec<Option<QuotaValues>>, AgentError> {
        let view = self.view()?;
        Ok((0..view.devices()).filter_map(|i| view.entry(i)).map(QuotaEntry::try_read).collect())
    }

    /// As [`Self::chips`], beside an agent that may be changing them.
    pub(crate) fn chips_beside_writer(&self) -> Result<Vec<(DeviceUuid, QuotaValues)>, AgentError> {
        let unfinished = || self.file.invalid("a change of it was never finished");
        self.chips_by(|entry| entry.read().ok_or_else(unfinished))
    }

    fn chips_by(
        &self,
        read: impl Fn(&QuotaEntry) -> Result<QuotaValues, AgentError>,
    ) -> Result<Vec<(DeviceUuid, QuotaValues)>, AgentError> {
        let view = self.view()?;
        (0..view.devices())
            .filter_map(|i| view.entry(i))
            .map(|entry| {
                let values = read(entry)?;
                let uuid = core::str::from_utf8(values.uuid_bytes())
                    .ok()
                    .and_then(|text| DeviceUuid::new(text).ok())
                    .ok_or_else(|| self.file.invalid("a chip's identity in it is no identity"))?;
                if values.entry >= DEVICE_ENTRIES {
                    return Err(self.file.invalid("it names an entry that no chip has"));
                }
                Ok((uuid, values))
            })
            .collect()
    }
}

/// Chips of a claim, as regions count them.
pub(crate) fn count(shares: &ClaimShares) -> Result<u16, AgentError> {
    u16::try_from(shares.chips.len())
        .map_err(|_| AgentError::BadShares { claim: shares.claim.clone(), problem: "too many chips" })
}

/// A share as a quota entry carries it.
pub(crate) fn values(chip: &ChipShare, entry: u16) -> QuotaValues {
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

/// The share that a quota entry carries: [`values`] the other way round.
pub(crate) fn share(uuid: DeviceUuid, values: &QuotaValues) -> ChipShare {
    let has = |flag| values.flags & flag != 0;
    ChipShare {
        uuid,
        phys_id: values.phys_id,
        memory: Bytes(values.memory),
        cores: Percent(values.share_milli / 10),
        mode: match Mode::from_raw(values.mode) {
            Mode::Hard => ComputeMode::Hard,
            Mode::Elastic => ComputeMode::Elastic,
            Mode::BestEffort => ComputeMode::BestEffort,
        },
        priority: values.priority,
        on_failure: if has(FAIL_CLOSED) { OnFailure::Closed } else { OnFailure::Open },
        overhead: if has(CHARGE_OVERHEAD) { Overhead::Charge } else { Overhead::Headroom },
    }
}

/// The compute mode as regions carry it.
fn mode_number(mode: ComputeMode) -> u8 {
    let mode = match mode {
        ComputeMode::Hard => Mode::Hard,
        ComputeMode::Elastic => Mode::Elastic,
        ComputeMode::BestEffort => Mode::BestEffort,
    };
    mode as u8
}
