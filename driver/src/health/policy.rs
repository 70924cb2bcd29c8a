//! Which faults count, and for what.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::judge::ABSENT;
use crate::hardware::{Fault, Health, Vendor};

/// What a fault means for its chip. Ordered: of several faults the strongest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Nothing: it is logged, and the chip counts as healthy.
    Ignore,
    /// The chip gets a `NoSchedule` taint: who has it keeps it, nobody else gets it.
    NoSchedule,
    /// The same, and once it has lasted for `evictAfterSeconds` a `NoExecute` taint: Kubernetes ends the pods that have
    /// the chip and do not tolerate it.
    Evict,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthRule {
    /// Whose chips, such as `nvidia`; without it, everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub vendor: Option<Vendor>,
    /// Codes of faults, in any case; one that ends in `*` stands for all that begin so.
    #[schemars(length(min = 1))]
    pub codes: Vec<String>,
    /// What they mean.
    pub action: Action,
}

impl HealthRule {
    fn matches(&self, vendor: Vendor, fault: &Fault) -> bool {
        let code_matches = |pattern: &String| {
            fault.codes.iter().any(|code| match pattern.strip_suffix('*') {
                Some(start) => code.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start)),
                None => code.eq_ignore_ascii_case(pattern),
            })
        };
        self.vendor.is_none_or(|of| of == vendor) && self.codes.iter().any(code_matches)
    }
}

/// The table and its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPolicy {
    /// The administrator's rules: the first that matches counts, before those of [`builtin`]. What none matches is
    /// [`Action::NoSchedule`].
    pub rules: Vec<HealthRule>,
    /// How long a chip must have been well before its taint is lifted. Each time that it falls sick again within the hour
    /// doubles it, up to 32 times.
    pub recovery: Duration,
    /// How long a fault must have lasted before pods are evicted for it.
    pub eviction: Duration,
    /// How long a chip's health may be unknown before it gets a `NoSchedule` taint; `None`: for ever.
    pub unknown: Option<Duration>,
}

impl Default for HealthPolicy {
    /// No rules, 60 s, 30 s, 60 s.
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { rules: Vec::new(), recovery: minute, eviction: minute / 2, unknown: Some(minute) }
    }
}

/// What counts where the administrator says nothing.
///
/// - Ascend: a chip with alarms of the lowest level (1, "minor" in the DCMI manual) goes on working, and its alarm is told.
/// - NVIDIA: errors that programs make themselves, and their echoes, by the XID catalogue of the vendor: 13 (graphics
///   engine exception), 31 (page fault), 43 (reset channel), 45 (preemptive cleanup), 68 (video processor), 109 (context
///   switch timeout). The vendor's own device plugin passes over the same ones.
pub fn builtin() -> Vec<HealthRule> {
    let ignore = |vendor, codes: &[&str]| HealthRule {
        vendor: Some(vendor),
        codes: codes.iter().map(|code| (*code).to_owned()).collect(),
        action: Action::Ignore,
    };
    vec![
        ignore(Vendor::Ascend, &["alarm-1"]),
        ignore(Vendor::Nvidia, &["xid-13", "xid-31", "xid-43", "xid-45", "xid-68", "xid-109"]),
    ]
}

impl HealthPolicy {
    /// What a fault of a vendor's chip means.
    pub fn action(&self, vendor: Vendor, fault: &Fault) -> Action {
        let matches = |rule: &&HealthRule| rule.matches(vendor, fault);
        if let Some(rule) = self.rules.iter().find(matches) {
            return rule.action;
        }
        builtin().iter().find(matches).map_or(Action::NoSchedule, |rule| rule.action)
    }

    /// What it means that a chip is not there any more. Only rules that name the code itself are meant: who wrote `*` for
    /// all faults did not think of it.
    pub(crate) fn action_if_absent(&self, vendor: Vendor) -> Action {
        let named = |rule: &&HealthRule| {
            rule.vendor.is_none_or(|of| of == vendor)
                && rule.codes.iter().any(|code| code.eq_ignore_ascii_case(ABSENT))
        };
        self.rules.iter().find(named).map_or(Action::NoSchedule, |rule| rule.action)
    }

    /// A chip's health without the faults that are ignored, and what the rest of them means.
    pub(crate) fn weigh(&self, vendor: Vendor, health: &Health) -> (Health, Action) {
        let Health::Unhealthy(faults) = health else { return (health.clone(), Action::Ignore) };
        let weighed = faults.iter().map(|fault| (fault, self.action(vendor, fault)));
        let counted: Vec<(&Fault, Action)> =
            weighed.filter(|(_, action)| *action != Action::Ignore).collect();
        match counted.iter().map(|(_, action)| *action).max() {
            None => (Health::Healthy, Action::Ignore),
            Some(action) => {
                (Health::Unhealthy(counted.into_iter().map(|(f, _)| f.clone()).collect()), action)
            }
        }
    }
}
