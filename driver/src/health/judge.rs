//! A chip's health over time. Faults count at once, and are forgotten slowly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::policy::{Action, HealthPolicy};
use crate::hardware::{Fault, Health, Inventory, Vendor};
use crate::id::DeviceUuid;
use crate::slices::TaintEffect;

/// A chip that was well for so long has no history.
const FORGIVEN: Duration = Duration::from_secs(3600);
/// The most that falling sick again and again multiplies the time of recovery by.
const MOST: u32 = 32;
/// The code by which the table says what becomes of pods whose chip is not there any more. Claims are told it, too.
pub const ABSENT: &str = "absent";
/// The code of a fault that is only that nothing is known now, beside what was known before.
const UNKNOWN: &str = "unknown";

/// What counts for a chip now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Its health as published and told: still unhealthy, by the same faults, while it recovers, and while nothing is
    /// known of it; then also why not.
    pub health: Health,
    /// The taint that it has; `None` when it has none. A chip of unknown health may have one.
    pub taint: Option<TaintEffect>,
}

/// What is remembered of one chip. Times are spans since one fixed moment, and never go back.
#[derive(Debug, Clone)]
struct Case {
    /// Whose it is; `None` before the first look.
    vendor: Option<Vendor>,
    /// It was not in the newest look at its vendor's.
    away: bool,
    /// What the newest look said, without what is ignored.
    now: Health,
    /// What that means.
    action: Action,
    /// Since when it is so: healthy, unhealthy (whatever the fault), or unknown.
    since: Duration,
    /// The taint, and why.
    tainted: Option<(TaintEffect, Health)>,
    /// How often the taint was lifted, and when last.
    lifted: (u32, Duration),
}

/// Judges the chips of one node. Cheap to ask again: the same looks at the same times give the same.
#[derive(Debug)]
pub struct Judge {
    policy: HealthPolicy,
    cases: BTreeMap<DeviceUuid, Case>,
    /// Chips that claims hold and that are not there any more.
    gone: BTreeMap<DeviceUuid, Gone>,
    /// Chips that were gone, and pods evicted from them, before this process began.
    gone_before: BTreeSet<DeviceUuid>,
    /// When it judged last.
    judged: Duration,
}

/// A chip that is not there any more.
#[derive(Debug, Clone, Copy)]
struct Gone {
    vendor: Vendor,
    since: Duration,
    action: Action,
    /// Pods are evicted from it.
    evicts: bool,
}

impl Judge {
    /// No chip is known.
    pub const fn new(policy: HealthPolicy) -> Self {
        Self {
            policy,
            cases: BTreeMap::new(),
            gone: BTreeMap::new(),
            gone_before: BTreeSet::new(),
            judged: Duration::ZERO,
        }
    }

    /// A chip was tainted before this process began: it has to be well for a while first, and a fault that is there now
    /// counts from now.
    pub fn remember(&mut self, now: Duration, uuid: &DeviceUuid, effect: TaintEffect) {
        let case = self.cases.entry(uuid.clone()).or_insert_with(|| Case {
            vendor: None,
            away: true,
            now: Health::Healthy,
            action: Action::Ignore,
            since: now,
            tainted: None,
            lifted: (0, Duration::ZERO),
        });
        if case.lifted.0 == 0 {
            let before = || Health::fault("before", "it was unhealthy before the node plugin started anew");
            let (now, why) = case.tainted.take().unwrap_or_else(|| (effect, before()));
            case.tainted = Some((now.max(effect), why));
        }
    }

    /// A chip was gone before this process began, and pods were evicted from it: where the rules still say so, that goes on
    /// until it is back.
    pub fn remember_gone(&mut self, uuid: &DeviceUuid) {
        self.gone_before.insert(uuid.clone());
    }

    /// These chips of a vendor are held by claims and not there any more: pods may have to be evicted from them, by what
    /// the rules say of the code [`ABSENT`] itself. All others of the vendor are forgotten. Whether that is news.
    pub fn miss<'c>(
        &mut self,
        now: Duration,
        vendor: Vendor,
        chips: impl IntoIterator<Item = &'c DeviceUuid>,
    ) -> bool {
        let chips: BTreeSet<&DeviceUuid> = chips.into_iter().collect();
        let before = self.gone.len();
        self.gone.retain(|uuid, gone| gone.vendor != vendor || chips.contains(uuid));
        let forgotten = before != self.gone.len();
        let kept = self.gone.len();
        let action = self.policy.action_if_absent(vendor);
        for uuid in chips {
            let evicts = action == Action::Evict && self.gone_before.contains(uuid);
            self.gone.entry(uuid.clone()).or_insert(Gone { vendor, since: now, action, evicts });
        }
        forgotten || kept != self.gone.len()
    }

    /// Takes a look at a vendor's chips in, and brings its chips' health to what counts. `now` never goes back. What is
    /// known of chips that are not in it stays. The taints of the vendor's chips, those that are [missed](Self::miss)
    /// among them.
    pub fn judge(&mut self, now: Duration, inventory: &mut Inventory) -> BTreeMap<DeviceUuid, TaintEffect> {
        let vendor = inventory.vendor;
        self.judged = now;
        let mut taints = BTreeMap::new();
        for chip in &mut inventory.chips {
            let weighed = self.policy.weigh(vendor, &chip.health);
            let verdict = self.one(now, vendor, &chip.uuid, weighed);
            if let Some(effect) = verdict.taint {
                taints.insert(chip.uuid.clone(), effect);
            }
            chip.health = verdict.health;
            self.gone.remove(&chip.uuid);
            self.gone_before.remove(&chip.uuid);
        }
        for (uuid, case) in self.cases.iter_mut().filter(|(_, case)| case.vendor == Some(vendor)) {
            case.away = !inventory.chips.iter().any(|chip| chip.uuid == *uuid);
        }
        let policy = &self.policy;
        for (uuid, gone) in self.gone.iter_mut().filter(|(_, gone)| gone.vendor == vendor) {
            gone.evicts |= gone.action == Action::Evict && now.saturating_sub(gone.since) >= policy.eviction;
            // The fault that it had is not over because it went.
            if let Some(case) = self.cases.get_mut(uuid).filter(|case| case.evicts(now, policy)) {
                case.tainted = Some((TaintEffect::NoExecute, case.now.clone()));
            }
        }
        taints.extend(self.missed(vendor));
        taints
    }

    /// Nothing can be seen of a vendor's chips now, its library is not there: nobody is evicted for what is not seen, and
    /// what was evicted for stays. The taints of those that are [missed](Self::miss).
    pub fn blind(&mut self, now: Duration, vendor: Vendor) -> BTreeMap<DeviceUuid, TaintEffect> {
        self.judged = now;
        self.cases.values_mut().filter(|case| case.vendor == Some(vendor)).for_each(|case| case.away = true);
        self.gone.values_mut().filter(|gone| gone.vendor == vendor).for_each(|gone| gone.since = now);
        self.missed(vendor).collect()
    }

    /// The taints of a vendor's chips that are [missed](Self::miss), as of the last look.
    pub fn missed(&self, vendor: Vendor) -> impl Iterator<Item = (DeviceUuid, TaintEffect)> {
        self.gone.iter().filter(move |(_, gone)| gone.vendor == vendor).map(|(uuid, gone)| {
            // What pods were evicted for keeps others away.
            let before = self.cases.get(uuid).and_then(|case| case.tainted.as_ref());
            let evicts = gone.evicts || before.is_some_and(|(effect, _)| *effect == TaintEffect::NoExecute);
            (uuid.clone(), if evicts { TaintEffect::NoExecute } else { TaintEffect::NoSchedule })
        })
    }

    fn one(
        &mut self,
        now: Duration,
        vendor: Vendor,
        uuid: &DeviceUuid,
        (health, action): (Health, Action),
    ) -> Verdict {
        let fresh = || Case {
            vendor: None,
            away: false,
            now: health.clone(),
            action,
            since: now,
            tainted: None,
            lifted: (0, Duration::ZERO),
        };
        let case = self.cases.entry(uuid.clone()).or_insert_with(fresh);
        // The time that it was away says nothing.
        if std::mem::take(&mut case.away)
            || std::mem::discriminant(&case.now) != std::mem::discriminant(&health)
        {
            case.since = now;
        }
        case.vendor = Some(vendor);
        (case.now, case.action) = (health, action);
        case.settle(now, &self.policy);
        case.verdict()
    }

    /// When a verdict may change although the hardware stays as it is; `None` when none will.
    pub fn next(&self) -> Option<Duration> {
        let evicts = |gone: &Gone| {
            (gone.action == Action::Evict).then(|| gone.since.saturating_add(self.policy.eviction))
        };
        let cases = self.cases.values().filter_map(|case| case.next(&self.policy));
        // A chip that is gone, and that nobody holds, is not judged when its time comes.
        cases.chain(self.gone.values().filter_map(evicts)).filter(|next| *next > self.judged).min()
    }
}

impl Case {
    fn recovery(&self, now: Duration, policy: &HealthPolicy) -> Duration {
        let (times, last) = self.lifted;
        let times = if now.saturating_sub(last) > FORGIVEN { 0 } else { times };
        policy.recovery.saturating_mul(2_u32.saturating_pow(times).min(MOST))
    }

    /// Whether pods are to be evicted for what it has now.
    fn evicts(&self, now: Duration, policy: &HealthPolicy) -> bool {
        let lasted = now.saturating_sub(self.since);
        matches!(self.now, Health::Unhealthy(_)) && self.action == Action::Evict && lasted >= policy.eviction
    }

    fn settle(&mut self, now: Duration, policy: &HealthPolicy) {
        let lasted = now.saturating_sub(self.since);
        match &self.now {
            Health::Unhealthy(_) => {
                let evict = self.evicts(now, policy);
                let effect = if evict { TaintEffect::NoExecute } else { TaintEffect::NoSchedule };
                // What pods were evicted for keeps others away as strongly until it is over.
                let before = self.tainted.take().map(|(effect, _)| effect);
                let strongest =
                    if before == Some(TaintEffect::NoExecute) { TaintEffect::NoExecute } else { effect };
                self.tainted = Some((strongest, self.now.clone()));
            }
            Health::Unknown(_) => {
                if self.tainted.is_none() && policy.unknown.is_some_and(|patience| lasted >= patience) {
                    self.tainted = Some((TaintEffect::NoSchedule, self.now.clone()));
                }
            }
            Health::Healthy => {
                if self.tainted.is_some() && lasted >= self.recovery(now, policy) {
                    self.tainted = None;
                    let times = if now.saturating_sub(self.lifted.1) > FORGIVEN { 0 } else { self.lifted.0 };
                    self.lifted = (times.saturating_add(1), now);
                }
            }
        }
    }

    fn verdict(&self) -> Verdict {
        let Some((effect, why)) = &self.tainted else {
            return Verdict { health: self.now.clone(), taint: None };
        };
        let health = match (why, &self.now) {
            (Health::Unhealthy(faults), Health::Unknown(reason)) => {
                let unknown = Fault::new(UNKNOWN, format!("nothing is known of it now: {reason}"));
                Health::Unhealthy(faults.iter().cloned().chain([unknown]).collect())
            }
            (Health::Unknown(_), Health::Unknown(_)) => self.now.clone(),
            _ => why.clone(),
        };
        Verdict { health, taint: Some(*effect) }
    }

    fn next(&self, policy: &HealthPolicy) -> Option<Duration> {
        let after = match (&self.now, &self.tainted) {
            (Health::Healthy, Some(_)) => self.recovery(self.since, policy),
            (Health::Unhealthy(_), Some((TaintEffect::NoSchedule, _))) if self.action == Action::Evict => {
                policy.eviction
            }
            (Health::Unknown(_), None) => policy.unknown?,
            _ => return None,
        };
        Some(self.since.saturating_add(after))
    }
}

#[cfg(test)]
mod tests;
