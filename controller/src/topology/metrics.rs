//! What is counted about the topology.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::Reason;
use crate::settings::Marks;

/// The metrics. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct TopologyMetrics {
    /// Nodes whose sources disagree; the planner's metrics have it.
    pub disagreements: Gauge,
    /// Writes of nodes' labels, by what came of them: `written`, `conflict` or `failed`.
    pub writes: Family<Reason, Counter>,
    /// What is counted of the table.
    pub table: Marks,
}

impl TopologyMetrics {
    /// Registers everything but `disagreements` in `registry`.
    pub fn register(registry: &mut Registry, disagreements: Gauge) -> Self {
        let metrics = Self { disagreements, ..Self::default() };
        registry.register(
            "vnpu_topology_writes",
            "Writes of the labels of leaf and super-pod, by what came of them",
            metrics.writes.clone(),
        );
        registry.register(
            "vnpu_topology_table_valid",
            "1 when the table of leaves and super-pods as it is now is the one that is followed, and on the leader only",
            metrics.table.valid.clone(),
        );
        registry.register(
            "vnpu_topology_table_readings",
            "Readings of a changed table of leaves and super-pods; reason is ok for those that were taken",
            metrics.table.readings.clone(),
        );
        metrics
    }

    pub(super) fn count(&self, reason: &'static str) {
        self.writes.get_or_create(&Reason { reason }).inc();
    }
}
