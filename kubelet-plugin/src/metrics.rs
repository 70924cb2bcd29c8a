//! What the plugin counts. Names follow Prometheus' conventions; no label has unbounded values but the claim's
//! in the usage family, which goes when the claim goes.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::quantity::Bytes;
use vnpu_quota_agent::{ClaimAudit, ClaimUsage};

mod audit;
mod devices;

pub use audit::{AuditMetrics, OneChip};
pub use devices::{DeviceMetrics, DeviceState, OneDevice, PoolState};

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

/// One claim, whatever chips it has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WholeClaim {
    /// Namespace of the claim.
    pub namespace: String,
    /// Name of the claim.
    pub claim: String,
    /// UID of the claim.
    pub claim_uid: String,
}

/// One pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct Pool {
    /// The vendor.
    pub vendor: String,
}

/// What is shown of one claim.
#[derive(Debug)]
struct Shown {
    claim: WholeClaim,
    chips: Vec<ClaimChip>,
}

/// A number of seconds that goes when its claim goes.
pub type Seconds = Gauge<f64, AtomicU64>;

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
    /// Devices that discovery could not use, by vendor.
    pub problems: Family<Pool, Gauge>,
    /// Times that a vendor's library told of something by itself, by vendor.
    pub heard: Family<Pool, Counter>,
    /// What is shown of every device.
    pub devices: DeviceMetrics,
    /// Writes of slices to the API server.
    pub slice_writes: Counter,
    /// Whether the API server took everything of the slices: 1, or 0 when it dropped fields.
    pub slices_complete: Gauge,
    /// Slots of dead processes given back.
    pub reaped: Counter,
    /// Memory quota.
    pub quota_bytes: Family<ClaimChip, Gauge>,
    /// Compute quota.
    pub quota_percent: Family<ClaimChip, Gauge>,
    /// Memory in use, by the ledger.
    pub used_bytes: Family<ClaimChip, Gauge>,
    /// Allocations refused because of the quota.
    pub denied: Family<ClaimChip, Gauge>,
    /// Allocations refused to processes that found no free slot.
    pub denied_without_slot: Family<ClaimChip, Gauge>,
    /// Allocations that went round the ledger, by an open policy or on chips beside the claim's.
    pub unaccounted: Family<ClaimChip, Gauge>,
    /// Device time, in seconds.
    pub compute_busy: Family<ClaimChip, Seconds>,
    /// Time that threads waited for their turn on the chip, in seconds.
    pub compute_throttled: Family<ClaimChip, Seconds>,
    /// Launches.
    pub launches: Family<ClaimChip, Gauge>,
    /// Launches let through because a wait had lasted too long.
    pub forced_launches: Family<ClaimChip, Gauge>,
    /// Processes that found no free slot.
    pub without_slot: Family<WholeClaim, Gauge>,
    /// Functions of the vendor's that take memory or launch, that the claim's processes got, and that have no hook.
    pub unhooked_functions: Family<WholeClaim, Gauge>,
    /// What comparing the ledgers with the vendor's numbers shows.
    pub audit: AuditMetrics,
    /// What is shown of each claim, to be dropped with it.
    shown: Arc<Mutex<HashMap<ClaimUid, Shown>>>,
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
            problems: Family::default(),
            heard: Family::default(),
            devices: DeviceMetrics::default(),
            slice_writes: Counter::default(),
            slices_complete: Gauge::default(),
            reaped: Counter::default(),
            quota_bytes: Family::default(),
            quota_percent: Family::default(),
            used_bytes: Family::default(),
            denied: Family::default(),
            denied_without_slot: Family::default(),
            unaccounted: Family::default(),
            compute_busy: Family::default(),
            compute_throttled: Family::default(),
            launches: Family::default(),
            forced_launches: Family::default(),
            without_slot: Family::default(),
            unhooked_functions: Family::default(),
            audit: AuditMetrics::default(),
            shown: Arc::default(),
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
        registry.register(
            "vnpu_vendor_events",
            "Times that a vendor's library told of something by itself",
            m.heard.clone(),
        );
        registry.register("vnpu_slice_writes", "Writes of ResourceSlices", m.slice_writes.clone());
        registry.register(
            "vnpu_slices_complete",
            "1 when the API server kept every field of the slices",
            m.slices_complete.clone(),
        );
        registry.register("vnpu_slots_reaped", "Slots of dead processes given back", m.reaped.clone());
        metrics.register_usage(registry);
        metrics.audit.register(registry);
        metrics.devices.register(registry);
        metrics
    }

    fn register_usage(&self, registry: &mut Registry) {
        let per_chip = [
            ("vnpu_claim_memory_quota_bytes", "Memory quota per claim and chip", &self.quota_bytes),
            (
                "vnpu_claim_compute_quota_percent",
                "Compute quota per claim and chip, in percent of the chip",
                &self.quota_percent,
            ),
            ("vnpu_claim_memory_used_bytes", "Memory in use per claim and chip", &self.used_bytes),
            (
                "vnpu_claim_allocations_denied",
                "Allocations refused because of the quota, since the claim was prepared",
                &self.denied,
            ),
            (
                "vnpu_claim_allocations_denied_without_slot",
                "Allocations refused to processes that found no free slot, since the claim was prepared",
                &self.denied_without_slot,
            ),
            (
                "vnpu_claim_allocations_unaccounted",
                "Allocations that went round the ledger, since the claim was prepared",
                &self.unaccounted,
            ),
            ("vnpu_claim_launches", "Launches of work, since the claim was prepared", &self.launches),
            (
                "vnpu_claim_launches_forced",
                "Launches let through because a wait had lasted too long, since the claim was prepared",
                &self.forced_launches,
            ),
        ];
        for (name, help, family) in per_chip {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "vnpu_claim_compute_busy_seconds",
            "Device time per claim and chip, since the claim was prepared",
            self.compute_busy.clone(),
        );
        registry.register(
            "vnpu_claim_compute_throttled_seconds",
            "Time that threads waited for their turn on the chip, since the claim was prepared",
            self.compute_throttled.clone(),
        );
        registry.register(
            "vnpu_claim_processes_without_slot",
            "Processes that found no free slot, since the claim was prepared",
            self.without_slot.clone(),
        );
        registry.register(
            "vnpu_claim_unhooked_functions",
            "Times that processes got a function of the vendor's that takes memory or launches and that the interposer \
             does not know, since the claim was prepared",
            self.unhooked_functions.clone(),
        );
    }

    /// Drops the usage of a claim that is gone.
    pub fn forget_claim(&self, claim: &ClaimUid) {
        let mut known = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shown) = known.remove(claim) {
            self.hide(shown);
        }
    }

    /// Drops the usage of all claims that are not `wanted`, whoever gave them back.
    pub fn keep_claims(&self, wanted: impl Fn(&ClaimUid) -> bool) {
        let mut known = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, shown) in known.extract_if(|claim, _| !wanted(claim)) {
            self.hide(shown);
        }
    }

    fn hide(&self, shown: Shown) {
        self.without_slot.remove(&shown.claim);
        self.unhooked_functions.remove(&shown.claim);
        self.hide_chips(shown.chips.into_iter());
    }

    fn hide_chips(&self, labels: impl Iterator<Item = ClaimChip>) {
        for label in labels {
            for family in [
                &self.quota_bytes,
                &self.quota_percent,
                &self.used_bytes,
                &self.denied,
                &self.denied_without_slot,
                &self.unaccounted,
                &self.launches,
                &self.forced_launches,
            ] {
                family.remove(&label);
            }
            self.compute_busy.remove(&label);
            self.compute_throttled.remove(&label);
            self.audit.hide(&label);
        }
    }

    /// Shows the usage of one claim.
    pub fn show_usage(&self, namespace: &str, name: &str, usage: &ClaimUsage) {
        // What a tenant wrote may be beyond it.
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let claim = WholeClaim {
            namespace: namespace.to_owned(),
            claim: name.to_owned(),
            claim_uid: usage.claim.to_string(),
        };
        self.without_slot.get_or_create(&claim).set(i64::from(usage.without_slot));
        self.unhooked_functions.get_or_create(&claim).set(number(usage.unhooked_functions));
        let mut chips = Vec::with_capacity(usage.chips.len());
        for chip in &usage.chips {
            let label = ClaimChip {
                namespace: namespace.to_owned(),
                claim: name.to_owned(),
                claim_uid: usage.claim.to_string(),
                uuid: chip.uuid.to_string(),
            };
            for (family, value) in [
                (&self.quota_bytes, chip.quota.0),
                (&self.quota_percent, chip.cores.0.into()),
                (&self.used_bytes, chip.used.0),
                (&self.denied, chip.denied),
                (&self.denied_without_slot, chip.denied_without_slot),
                (&self.unaccounted, chip.unaccounted),
                (&self.launches, chip.compute.launches),
                (&self.forced_launches, chip.compute.forced),
            ] {
                family.get_or_create(&label).set(number(value));
            }
            self.compute_busy.get_or_create(&label).set(chip.compute.busy.as_secs_f64());
            self.compute_throttled.get_or_create(&label).set(chip.compute.throttled.as_secs_f64());
            chips.push(label);
        }
        let mut known = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.insert(usage.claim.clone(), Shown { claim, chips: chips.clone() });
        let before = before.into_iter().flat_map(|shown| shown.chips);
        self.hide_chips(before.filter(|label| !chips.contains(label)));
    }

    /// Shows what comparing its ledger with the vendor's numbers found of a claim whose usage is shown: what is shown of
    /// any other would not go with it.
    pub fn show_audit(&self, namespace: &str, name: &str, chip: &DeviceUuid, audit: &ClaimAudit) {
        if let Some(label) = self.shown_as(namespace, name, chip, &audit.claim) {
            self.audit.show(&label, audit);
        }
    }

    /// Counts the beginning of a breach or bypass.
    pub fn count_breach(&self, namespace: &str, name: &str, chip: &DeviceUuid, audit: &ClaimAudit) {
        if let Some(label) = self.shown_as(namespace, name, chip, &audit.claim) {
            self.audit.count(&label, &audit.judgement.verdict);
        }
    }

    /// Shows what processes that no claim explains have, of each chip that was asked for.
    pub fn show_strangers(&self, found: &BTreeMap<DeviceUuid, Vec<Bytes>>) {
        self.audit.show_strangers(found);
    }

    fn shown_as(
        &self,
        namespace: &str,
        name: &str,
        chip: &DeviceUuid,
        claim: &ClaimUid,
    ) -> Option<ClaimChip> {
        let label = ClaimChip {
            namespace: namespace.to_owned(),
            claim: name.to_owned(),
            claim_uid: claim.to_string(),
            uuid: chip.to_string(),
        };
        let known = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(claim).is_some_and(|shown| shown.chips.contains(&label)).then_some(label)
    }

    /// Counts one operation on one claim.
    pub fn count(&self, operation: &'static str, reason: &'static str, took: Duration) {
        self.operations.get_or_create(&Outcome { operation, reason }).inc();
        self.durations.get_or_create(&Operation { operation }).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests;
