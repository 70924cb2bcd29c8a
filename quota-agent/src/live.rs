//! Quotas that change while their claim is in use. Attached processes see a change at their next allocation or launch;
//! what is allocated beyond a lowered quota stays until it is freed.

use vnpu_driver::id::ClaimUid;
use vnpu_driver::share::ClaimShares;

use crate::AgentError;
use crate::agent::Agent;
use crate::quota::{QuotaRegion, share};

impl Agent {
    /// The quotas that are in force, chips in the order of the claim's region; `None` when the claim has no regions.
    ///
    /// # Errors
    /// The regions exist and are not readable.
    pub fn shares(&self, claim: &ClaimUid) -> Result<Option<ClaimShares>, AgentError> {
        let _entries = self.lock();
        let Some(quota) = QuotaRegion::open(self.layout(), claim)? else { return Ok(None) };
        let chips = quota.chips()?.into_iter().map(|(uuid, values)| share(uuid, &values));
        Ok(Some(ClaimShares { claim: claim.clone(), chips: chips.collect() }))
    }

    /// Brings the regions of a claim that has some to these shares; whether there was anything to change.
    ///
    /// # Errors
    /// The claim has no regions, or has them for other chips; I/O.
    pub fn change(&self, shares: &ClaimShares) -> Result<bool, AgentError> {
        let mut entries = self.lock();
        let quota = self.open_claim(&shares.claim)?.quota;
        let before = quota.chips_in_force()?;
        self.create_locked(&mut entries, shares)?;
        Ok(quota.chips_in_force()? != before)
    }
}
