//! What the plugin counts. Names follow Prometheus' conventions; no label has unbounded values but the claim's
//! in the usage family, which goes when the claim goes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use vnpu_driver::id::ClaimUid;
use vnpu_quota_agent::ClaimUsage;

/// One kind of operation and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `prepare` or `unprepare`.
    pub operation: &'static str,
    /// `ok`, or the error's stable reason.
    pub reason: &'static str,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Operation {
    /// `prepare` or `unprepare`.
    pub operation: &'static str,
}

/// One claim on one chip.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClaimChip {
    /// Namespace of the claim.
    pub namespace: String,
    /// Name of the claim.
    pub claim: String,
    /// UID of the claim.
    pub claim_uid: String,
    /// The chip.
    pub uuid: String,
}

/// One pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Pool {
    /// The vendor.
    pub vendor: String,
}

type Histograms = Family<Operation, Histogram, fn() -> Histogram>;

/// All of the plugin's metrics. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Claims prepared and unprepared, by outcome.
    pub operations: Family<Outcome, Counter>,
    durations: Histograms,
    /// Claims prepared now.
    pub prepared: Gauge,
    /// Chips seen by discovery, by vendor.
    pub chips: Family<Pool, Gauge>,
    /// Devices that discovery could not use.
    pub problems: Gauge,
    /// Writes of slices to the API server.
    pub slice_writes: Counter,
    /// Whether the API server took everything of the slices: 1, or 0 when it dropped fields.
    pub slices_complete: Gauge,
    /// Slots of dead processes given back.
    pub reaped: Counter,
    /// Memory quota.
    pub quota_bytes: Family<ClaimChip, Gauge>,
    /// Memory in use, by the ledger.
    pub used_bytes: Family<ClaimChip, Gauge>,
    /// Allocations refused because of the quota.
    pub denied: Family<ClaimChip, Gauge>,
    /// What is shown of each claim, to be dropped with it.
    usage_labels: Arc<Mutex<HashMap<ClaimUid, Vec<ClaimChip>>>>,
}

fn buckets() -> Histogram {
    Histogram::new([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0])
}

impl Metrics {
    /// Registers everything in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            operations: Family::default(),
            durations: Family::new_with_constructor(buckets),
            prepared: Gauge::default(),
            chips: Family::default(),
            problems: Gauge::default(),
            slice_writes: Counter::default(),
            slices_complete: Gauge::default(),
            reaped: Counter::default(),
            quota_bytes: Family::default(),
            used_bytes: Family::default(),
            denied: Family::default(),
            usage_labels: Arc::default(),
        };
        let m = &metrics;
        registry.register("vnpu_claim_operations", "Claims prepared and unprepared", m.operations.clone());
        registry.register(
            "vnpu_claim_operation_duration_seconds",
            "Time of one claim's operation",
            m.durations.clone(),
        );
        registry.register("vnpu_prepared_claims", "Claims prepared on this node now", m.prepared.clone());
        registry.register("vnpu_chips", "Chips that discovery sees", m.chips.clone());
        registry.register("vnpu_discovery_problems", "Devices that cannot be used", m.problems.clone());
        registry.register("vnpu_slice_writes", "Writes of ResourceSlices", m.slice_writes.clone());
        registry.register(
            "vnpu_slices_complete",
            "1 when the API server kept every field of the slices",
            m.slices_complete.clone(),
        );
        registry.register("vnpu_slots_reaped", "Slots of dead processes given back", m.reaped.clone());
        registry.register(
            "vnpu_claim_memory_quota_bytes",
            "Memory quota per claim and chip",
            m.quota_bytes.clone(),
        );
        registry.register(
            "vnpu_claim_memory_used_bytes",
            "Memory in use per claim and chip",
            m.used_bytes.clone(),
        );
        registry.register(
            "vnpu_claim_allocations_denied",
            "Allocations refused because of the quota, since the claim was prepared",
            m.denied.clone(),
        );
        metrics
    }

    /// Drops the usage of a claim that is gone.
    pub fn forget_claim(&self, claim: &ClaimUid) {
        let mut known = self.usage_labels.lock().unwrap_or_else(PoisonError::into_inner);
        self.hide(known.remove(claim).into_iter().flatten());
    }

    /// Drops the usage of all claims that are not `wanted`, whoever gave them back.
    pub fn keep_claims(&self, wanted: impl Fn(&ClaimUid) -> bool) {
        let mut known = self.usage_labels.lock().unwrap_or_else(PoisonError::into_inner);
        self.hide(known.extract_if(|claim, _| !wanted(claim)).flat_map(|(_, labels)| labels));
    }

    fn hide(&self, labels: impl Iterator<Item = ClaimChip>) {
        for label in labels {
            self.quota_bytes.remove(&label);
            self.used_bytes.remove(&label);
            self.denied.remove(&label);
        }
    }

    /// Shows the usage of one claim.
    pub fn show_usage(&self, namespace: &str, name: &str, usage: &ClaimUsage) {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let mut labels = Vec::with_capacity(usage.chips.len());
        for chip in &usage.chips {
            let label = ClaimChip {
                namespace: namespace.to_owned(),
                claim: name.to_owned(),
                claim_uid: usage.claim.to_string(),
                uuid: chip.uuid.to_string(),
            };
            self.quota_bytes.get_or_create(&label).set(number(chip.quota.0));
            self.used_bytes.get_or_create(&label).set(number(chip.used.0));
            self.denied.get_or_create(&label).set(number(chip.denied));
            labels.push(label);
        }
        let mut known = self.usage_labels.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.insert(usage.claim.clone(), labels.clone()).unwrap_or_default();
        self.hide(before.into_iter().filter(|label| !labels.contains(label)));
    }

    /// Counts one operation on one claim.
    pub fn count(&self, operation: &'static str, reason: &'static str, took: Duration) {
        self.operations.get_or_create(&Outcome { operation, reason }).inc();
        self.durations.get_or_create(&Operation { operation }).observe(took.as_secs_f64());
    }
}
