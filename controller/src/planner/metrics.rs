//! What the planner counts: plans and what became of them, and the auditor's findings.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::desk::Counts;
use crate::auditor::Findings;

/// The metrics. Clones count together.
#[derive(Debug, Clone)]
pub struct PlannerMetrics {
    planned: Counter,
    planned_pods: Counter,
    as_planned: Counter,
    deviations: Counter,
    partial: Counter,
    let_go: Counter,
    cleared: Counter,
    not_recreated: Counter,
    /// Batches that wait.
    pub waiting: Gauge,
    /// 1 when everything that is watched has been seen.
    pub synced: Gauge,
    /// Time from the news to the actions that follow of it.
    pub step_duration: Histogram,
    straddling: Gauge,
    half_modules: Gauge,
    broken: Counter,
    stale_nominations: Gauge,
    idle_reservations: Gauge,
    unguarded_classes: Gauge,
    /// Nodes whose sources of topology disagree.
    pub topology_disagreements: Gauge,
}

impl PlannerMetrics {
    /// Registers everything in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let buckets = [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];
        let metrics = Self {
            planned: Counter::default(),
            planned_pods: Counter::default(),
            as_planned: Counter::default(),
            deviations: Counter::default(),
            partial: Counter::default(),
            let_go: Counter::default(),
            cleared: Counter::default(),
            not_recreated: Counter::default(),
            waiting: Gauge::default(),
            synced: Gauge::default(),
            step_duration: Histogram::new(buckets),
            straddling: Gauge::default(),
            half_modules: Gauge::default(),
            broken: Counter::default(),
            stale_nominations: Gauge::default(),
            idle_reservations: Gauge::default(),
            unguarded_classes: Gauge::default(),
            topology_disagreements: Gauge::default(),
        };
        metrics.register_plans(registry);
        metrics.register_findings(registry);
        metrics
    }

    fn register_plans(&self, registry: &mut Registry) {
        registry.register("vnpu_planned_batches", "Batches planned", self.planned.clone());
        registry.register("vnpu_planned_pods", "Pods of planned batches", self.planned_pods.clone());
        registry.register(
            "vnpu_pods_bound_as_planned",
            "Pods that were bound where they were planned",
            self.as_planned.clone(),
        );
        registry.register("vnpu_plan_deviations", "Pods that were bound elsewhere", self.deviations.clone());
        registry.register("vnpu_partial_batches", "Plans that were not bound in time", self.partial.clone());
        registry.register("vnpu_pods_let_go", "Gated pods let go without a plan", self.let_go.clone());
        registry.register("vnpu_nominations_cleared", "Nominations taken away", self.cleared.clone());
        registry.register(
            "vnpu_pods_not_recreated",
            "Pods of partial batches that could not be deleted for their owners to make again",
            self.not_recreated.clone(),
        );
        registry.register("vnpu_waiting_batches", "Batches that wait", self.waiting.clone());
        registry.register(
            "vnpu_watches_synced",
            "1 when everything that is watched has been seen",
            self.synced.clone(),
        );
        registry.register(
            "vnpu_planner_step_duration_seconds",
            "Time from news of the cluster to the actions that follow",
            self.step_duration.clone(),
        );
    }

    fn register_findings(&self, registry: &mut Registry) {
        registry.register(
            "vnpu_straddling_claims",
            "Claims that hold exactly one chip of several modules: must be 0",
            self.straddling.clone(),
        );
        registry.register(
            "vnpu_half_modules",
            "Modules of which one chip is in use and one is free",
            self.half_modules.clone(),
        );
        registry.register(
            "vnpu_modules_broken_needlessly",
            "Allocations of one chip that broke a whole module while a half one was free on the node",
            self.broken.clone(),
        );
        registry.register(
            "vnpu_stale_nominations",
            "Gated pods with a nomination that no plan stands behind",
            self.stale_nominations.clone(),
        );
        registry.register(
            "vnpu_idle_reservations",
            "Claims that are allocated and reserved for no pod",
            self.idle_reservations.clone(),
        );
        registry.register(
            "vnpu_unguarded_classes",
            "DeviceClasses that select this driver's devices under a name that the guard does not know",
            self.unguarded_classes.clone(),
        );
        registry.register(
            "vnpu_topology_disagreements",
            "Nodes of which several sources of topology say different things",
            self.topology_disagreements.clone(),
        );
    }

    /// Takes over what has happened between two counts.
    pub fn count(&self, before: Counts, now: Counts) {
        self.planned.inc_by(now.planned - before.planned);
        self.planned_pods.inc_by(now.planned_pods - before.planned_pods);
        self.as_planned.inc_by(now.as_planned - before.as_planned);
        self.deviations.inc_by(now.deviations - before.deviations);
        self.partial.inc_by(now.partial - before.partial);
        self.let_go.inc_by(now.let_go - before.let_go);
        self.cleared.inc_by(now.cleared - before.cleared);
        self.not_recreated.inc_by(now.not_recreated - before.not_recreated);
    }

    /// Shows what the auditor found; `broken` more modules were broken without need.
    pub fn show(&self, findings: &Findings, broken: u64) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.straddling.set(number(findings.straddling.len()));
        self.half_modules.set(number(findings.half_modules));
        self.stale_nominations.set(number(findings.stale_nominations));
        self.idle_reservations.set(number(findings.idle_reservations));
        self.unguarded_classes.set(number(findings.unguarded_classes.len()));
        self.broken.inc_by(broken);
    }
}

impl Default for PlannerMetrics {
    /// Metrics that nobody reads.
    fn default() -> Self {
        Self::register(&mut Registry::default())
    }
}
