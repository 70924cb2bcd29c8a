//! What the controller counts about itself: the webhooks, certificates, the lease and the configuration. Names follow
//! Prometheus' conventions; no label has unbounded values.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::settings::Marks;

/// One kind of request to the webhook server and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reviewed {
    /// `claims` or `pods`.
    pub webhook: &'static str,
    /// `allowed`, `changed`, `denied` or `failed`.
    pub outcome: &'static str,
    /// A stable word for why, empty when there is nothing to say.
    pub reason: &'static str,
}

/// One of the webhooks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Webhook {
    /// `claims` or `pods`.
    pub webhook: &'static str,
}

/// Why something happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// A stable word.
    pub reason: &'static str,
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Certificate {
    /// `authority` or `leaf`.
    pub certificate: &'static str,
}

type Histograms = Family<Webhook, Histogram, fn() -> Histogram>;

/// All of the controller's own metrics. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Requests answered, by outcome.
    pub reviews: Family<Reviewed, Counter>,
    review_durations: Histograms,
    /// Connections to the webhook server that are open now.
    pub connections: Gauge,
    /// Connections that did not get as far as a request, by reason.
    pub refused_connections: Family<Reason, Counter>,
    /// When certificates run out, in seconds since 1970.
    pub certificate_expiry: Family<Certificate, Gauge>,
    /// Writes of the certificates' Secret, by what made them necessary.
    pub certificate_writes: Family<Reason, Counter>,
    /// Failed looks after the certificates, by reason.
    pub certificate_failures: Family<Reason, Counter>,
    /// Writes of the authority's certificate into webhook configurations.
    pub trust_writes: Counter,
    /// 1 when this process leads.
    pub leader: Gauge,
    /// How often this process began or ceased to lead.
    pub leadership_changes: Counter,
    /// Requests about the lease that failed.
    pub lease_failures: Counter,
    /// What is counted of the configuration file.
    pub config: Marks,
}

/// From what a review takes to what an API server waits for.
fn buckets() -> Histogram {
    Histogram::new([0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 2.0])
}

impl Metrics {
    /// Registers everything in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reviews: Family::default(),
            review_durations: Family::new_with_constructor(buckets),
            connections: Gauge::default(),
            refused_connections: Family::default(),
            certificate_expiry: Family::default(),
            certificate_writes: Family::default(),
            certificate_failures: Family::default(),
            trust_writes: Counter::default(),
            leader: Gauge::default(),
            leadership_changes: Counter::default(),
            lease_failures: Counter::default(),
            config: Marks::default(),
        };
        metrics.register_webhooks(registry);
        metrics.register_rest(registry);
        metrics
    }

    fn register_webhooks(&self, registry: &mut Registry) {
        registry.register(
            "vnpu_webhook_reviews",
            "Requests to the webhook server, by outcome",
            self.reviews.clone(),
        );
        registry.register(
            "vnpu_webhook_review_duration_seconds",
            "Time from a request's head to its answer",
            self.review_durations.clone(),
        );
        registry.register(
            "vnpu_webhook_connections",
            "Connections to the webhook server",
            self.connections.clone(),
        );
        registry.register(
            "vnpu_webhook_connections_refused",
            "Connections that did not get as far as a request",
            self.refused_connections.clone(),
        );
        registry.register(
            "vnpu_certificate_expiry_timestamp_seconds",
            "When a certificate runs out, in seconds since 1970",
            self.certificate_expiry.clone(),
        );
        registry.register(
            "vnpu_certificate_writes",
            "Writes of the certificates' Secret, by what made them necessary",
            self.certificate_writes.clone(),
        );
        registry.register(
            "vnpu_certificate_failures",
            "Failed looks after the certificates",
            self.certificate_failures.clone(),
        );
        registry.register(
            "vnpu_certificate_trust_writes",
            "Writes of the authority's certificate into webhook configurations",
            self.trust_writes.clone(),
        );
    }

    fn register_rest(&self, registry: &mut Registry) {
        registry.register("vnpu_leader", "1 when this process leads", self.leader.clone());
        registry.register(
            "vnpu_leadership_changes",
            "How often this process began or ceased to lead",
            self.leadership_changes.clone(),
        );
        registry.register(
            "vnpu_lease_failures",
            "Requests about the lease that failed",
            self.lease_failures.clone(),
        );
        registry.register(
            "vnpu_config_valid",
            "1 when the configuration file as it is now is the one that is followed",
            self.config.valid.clone(),
        );
        registry.register(
            "vnpu_config_readings",
            "Readings of a changed configuration file; reason is ok for those that were taken",
            self.config.readings.clone(),
        );
    }

    /// Counts one request to the webhook server.
    pub fn count_review(&self, reviewed: Reviewed, took: Duration) {
        let webhook = Webhook { webhook: reviewed.webhook };
        self.review_durations.get_or_create(&webhook).observe(took.as_secs_f64());
        self.reviews.get_or_create(&reviewed).inc();
    }
}

impl Default for Metrics {
    /// Metrics that nobody reads.
    fn default() -> Self {
        Self::register(&mut Registry::default())
    }
}
