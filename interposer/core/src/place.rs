//! One claim of the container as this process stands to it: takes part in it, or why it does not.

use std::path::PathBuf;

use crate::broken::Broken;
use crate::chips::Chip;
use crate::claim::{Claim, Identity};
use crate::once::Once;

/// One claim of the container.
pub(crate) struct Place {
    dir: PathBuf,
    // Set at the first try that succeeds, and never again.
    claim: Once<Claim>,
    // Why the first try failed; means nothing once the claim is set.
    broken: Option<Broken>,
    // The first try that found the regions sound and every slot taken; says more than `broken`, and is counted
    // once however often it is tried again.
    full: Once<Broken>,
}

impl Place {
    /// The first try.
    pub(crate) fn first(dir: PathBuf, identity: Identity) -> Self {
        let (claim, broken) = match Claim::attach(&dir, identity) {
            Ok(claim) => (Once::from(claim), None),
            Err(broken) => (Once::new(), Some(broken)),
        };
        let mut place = Self { dir, claim, broken: None, full: Once::new() };
        place.broken = broken.and_then(|b| place.note(b));
        place
    }

    /// Another try, if it is needed.
    pub(crate) fn retry(&self, identity: Identity) {
        if self.claim().is_none() {
            match Claim::attach(&self.dir, identity) {
                Ok(claim) => drop(self.claim.set(claim)),
                Err(broken) => drop(self.note(broken)),
            }
        }
    }

    /// The claim, if we take part in it.
    pub(crate) fn claim(&self) -> Option<&Claim> {
        self.claim.get()
    }

    /// Keeps why a try failed, and counts this process, if it is the first that found every slot taken; else
    /// returns it.
    fn note(&self, broken: Broken) -> Option<Broken> {
        if broken.full.is_none() {
            return Some(broken);
        }
        self.full.set(broken).err().or_else(|| {
            self.full.get()?.count_process();
            None
        })
    }

    /// Why we take no part, if we do not.
    pub(crate) fn failure(&self) -> Option<&Broken> {
        if self.claim().is_some() { None } else { self.last_failure() }
    }

    /// The claim's chips, as far as they are known.
    pub(crate) fn chips(&self) -> Option<&[Chip]> {
        match self.claim() {
            Some(claim) => Some(claim.chips()),
            // Another thread may have set the claim since; its chips are the same.
            None => self.last_failure()?.chips.as_deref(),
        }
    }

    /// Whether allocations are refused that cannot be accounted.
    pub(crate) fn is_closed(&self) -> bool {
        self.claim().map_or_else(|| self.last_failure().is_some_and(|b| b.closed), Claim::is_closed)
    }

    fn last_failure(&self) -> Option<&Broken> {
        self.full.get().or(self.broken.as_ref())
    }
}
