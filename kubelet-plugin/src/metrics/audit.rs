//! What comparing the ledgers with the vendor's numbers shows of claims and chips.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::Bytes;
use vnpu_quota_agent::{ClaimAudit, Verdict};

use super::ClaimChip;

/// One chip.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OneChip {
    /// The chip.
    pub uuid: String,
}

/// The families. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct AuditMetrics {
    /// Memory that the claim's processes have by the vendor's word.
    pub vendor_bytes: Family<ClaimChip, Gauge>,
    /// Of it, what is beyond the processes' own ledgers.
    pub overhead_bytes: Family<ClaimChip, Gauge>,
    /// Processes that use the chip without being in the ledger, for as long as that is held against them.
    pub outside: Family<ClaimChip, Gauge>,
    /// Times that a claim began to have more than its quota and overhead allow.
    pub breaches: Family<ClaimChip, Counter>,
    /// Times that processes of a claim began to use the chip outside of it.
    pub bypasses: Family<ClaimChip, Counter>,
    /// Processes on chips with quotas that no claim explains.
    pub strangers: Family<OneChip, Gauge>,
    /// What these have of the chip's memory.
    pub stranger_bytes: Family<OneChip, Gauge>,
    /// Chips that strangers are shown of.
    chips: Arc<Mutex<BTreeSet<DeviceUuid>>>,
}

impl AuditMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        for (name, help, family) in [
            (
                "vnpu_claim_memory_vendor_bytes",
                "Memory that a claim's processes have by the vendor's word",
                &self.vendor_bytes,
            ),
            (
                "vnpu_claim_memory_overhead_bytes",
                "Memory beyond the processes' own ledgers: contexts, modules, buffers of libraries",
                &self.overhead_bytes,
            ),
            (
                "vnpu_claim_processes_outside",
                "Processes of a claim that use the chip outside its quota",
                &self.outside,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
        for (name, help, family) in [
            (
                "vnpu_claim_breaches",
                "Times that a claim began to have more than its quota and overhead allow",
                &self.breaches,
            ),
            (
                "vnpu_claim_bypasses",
                "Times that processes of a claim began to use the chip outside its quota",
                &self.bypasses,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "vnpu_chip_strangers",
            "Processes on chips with quotas that no claim explains",
            self.strangers.clone(),
        );
        registry.register(
            "vnpu_chip_stranger_bytes",
            "Memory of processes that no claim explains",
            self.stranger_bytes.clone(),
        );
    }

    pub(super) fn show(&self, label: &ClaimChip, audit: &ClaimAudit) {
        let balance = &audit.judgement.balance;
        let outside = match &audit.judgement.verdict {
            Verdict::Bypass { offenders } => offenders.len(),
            _ => 0,
        };
        self.vendor_bytes.get_or_create(label).set(number(balance.vendor.0));
        self.overhead_bytes.get_or_create(label).set(number(balance.overhead.0));
        self.outside.get_or_create(label).set(number(outside as u64));
    }

    pub(super) fn count(&self, label: &ClaimChip, verdict: &Verdict) {
        match verdict {
            Verdict::Bypass { .. } => self.bypasses.get_or_create(label).inc(),
            Verdict::Breach { .. } => self.breaches.get_or_create(label).inc(),
            Verdict::Within => 0,
        };
    }

    pub(super) fn hide(&self, label: &ClaimChip) {
        for family in [&self.vendor_bytes, &self.overhead_bytes, &self.outside] {
            family.remove(label);
        }
        for family in [&self.breaches, &self.bypasses] {
            family.remove(label);
        }
    }

    pub(super) fn show_strangers(&self, found: &BTreeMap<DeviceUuid, Vec<Bytes>>) {
        let mut chips = self.chips.lock().unwrap_or_else(PoisonError::into_inner);
        let label = |chip: &DeviceUuid| OneChip { uuid: chip.to_string() };
        for gone in chips.extract_if(.., |chip| !found.contains_key(chip)) {
            self.strangers.remove(&label(&gone));
            self.stranger_bytes.remove(&label(&gone));
        }
        for (chip, bytes) in found {
            let sum = bytes.iter().fold(0_u64, |sum, bytes| sum.saturating_add(bytes.0));
            self.strangers.get_or_create(&label(chip)).set(number(bytes.len() as u64));
            self.stranger_bytes.get_or_create(&label(chip)).set(number(sum));
            chips.insert(chip.clone());
        }
    }
}

/// What a library says may be beyond it.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
