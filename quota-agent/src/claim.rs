//! The two regions of one claim, open: who it is by the quota, what it uses by the ledger.

use vnpu_driver::id::ClaimUid;
use vnpu_quota_abi::SLOT_COUNT;

use crate::layout::Layout;
use crate::quota::QuotaRegion;
use crate::usage::UsageRegion;
use crate::{AgentError, ClaimUsage};

/// The regions of one claim.
pub(crate) struct Claim {
    pub(crate) quota: QuotaRegion,
    pub(crate) usage: UsageRegion,
}

impl Claim {
    /// Opens the regions of `uid`; `None` when one of them does not exist.
    pub(crate) fn open(layout: &Layout, uid: &ClaimUid) -> Result<Option<Self>, AgentError> {
        let Some(quota) = QuotaRegion::open(layout, uid)? else { return Ok(None) };
        let usage = UsageRegion::open(layout, &quota)?;
        Ok(usage.map(|usage| Self { quota, usage }))
    }

    /// Reads the ledger.
    pub(crate) fn read(&self) -> Result<ClaimUsage, AgentError> {
        let without_slot = self.usage.without_slot()?;
        let mut chips = self.usage.chips(self.quota.chips()?)?;
        if without_slot == 0 {
            // Nobody was there to be refused.
            chips.iter_mut().for_each(|chip| chip.denied_without_slot = 0);
        }
        Ok(ClaimUsage {
            claim: self.quota.uid.clone(),
            chips,
            live_slots: self.usage.owned()?.0,
            slot_count: u32::from(SLOT_COUNT),
            without_slot,
            unhooked_functions: self.usage.unhooked_functions()?,
        })
    }
}
