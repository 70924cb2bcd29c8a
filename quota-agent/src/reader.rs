//! Regions as seen by somebody who only looks: beside the agent of the directory, whoever that is, without a write,
//! a repair, a reaping or a lock.

use std::path::Path;

use vnpu_driver::id::ClaimUid;
use vnpu_driver::quantity::Percent;
use vnpu_driver::share::ComputeMode;
use vnpu_quota_abi::SLOT_COUNT;
use vnpu_quota_abi::line::Mode;
use vnpu_quota_abi::quota::QuotaValues;
use vnpu_quota_abi::slot::FREE;

use crate::layout::{Layout, names};
use crate::quota::QuotaRegion;
use crate::usage::UsageRegion;
use crate::{AgentError, ClaimUsage};

/// The regions under one runtime directory, read-only.
#[derive(Debug, Clone)]
pub struct Reader {
    layout: Layout,
}

/// What a claim may use and what it uses, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimReading {
    /// What it uses.
    pub usage: ClaimUsage,
    /// What it may use of compute, chip by chip in the order of `usage.chips`.
    pub terms: Vec<ChipTerms>,
    /// Slots that somebody has: those of living processes, and of dead ones that nobody has reaped yet.
    pub occupied: u32,
    /// What its processes did to the ledger's size or header; the agent's next round repairs it.
    pub damage: Option<&'static str>,
}

/// What a claim may use of one chip's compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChipTerms {
    /// Percent of the chip.
    pub cores: Percent,
    /// Treatment of compute over the share.
    pub mode: ComputeMode,
    /// 0 to 10, more goes first.
    pub priority: u8,
    /// The claim's entry in the chip's region.
    pub entry: u16,
}

impl From<&QuotaValues> for ChipTerms {
    fn from(values: &QuotaValues) -> Self {
        let mode = match Mode::from_raw(values.mode) {
            Mode::Hard => ComputeMode::Hard,
            Mode::Elastic => ComputeMode::Elastic,
            Mode::BestEffort => ComputeMode::BestEffort,
        };
        let cores = Percent(values.share_milli / 10);
        Self { cores, mode, priority: values.priority, entry: values.entry }
    }
}

impl Reader {
    /// Of `runtime_dir`, which need not exist.
    pub fn new(runtime_dir: impl AsRef<Path>) -> Self {
        Self { layout: Layout { root: runtime_dir.as_ref().to_path_buf() } }
    }

    /// The claims that have regions here, sorted; none when the directory does not exist.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn claims(&self) -> Result<Vec<ClaimUid>, AgentError> {
        let names = names(&self.layout.claims())?;
        Ok(names.iter().filter_map(|name| ClaimUid::new(name.as_str()).ok()).collect())
    }

    /// One claim; `None` when it has no regions (any more).
    ///
    /// # Errors
    /// The regions exist and are not readable.
    pub fn read(&self, claim: &ClaimUid) -> Result<Option<ClaimReading>, AgentError> {
        let Some(quota) = QuotaRegion::open_to_read(&self.layout, claim)? else { return Ok(None) };
        let Some(region) = UsageRegion::open_to_read(&self.layout, &quota)? else { return Ok(None) };
        let chips = quota.chips_beside_writer()?;
        let terms = chips.iter().map(|(_, values)| ChipTerms::from(values)).collect();
        let damage = region.damage()?;
        let (live_slots, others) = region.owned()?;
        let others = others.iter().filter(|slot| slot.owner != FREE).count();
        let occupied = live_slots.saturating_add(u32::try_from(others).unwrap_or(u32::MAX));
        let usage = ClaimUsage {
            claim: claim.clone(),
            chips: region.chips(chips)?,
            live_slots,
            slot_count: u32::from(SLOT_COUNT),
            without_slot: region.without_slot()?,
            unhooked_functions: region.unhooked_functions()?,
        };
        Ok(Some(ClaimReading { usage, terms, occupied, damage }))
    }
}
