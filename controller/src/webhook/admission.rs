//! Answers reviews with the rules of `vnpu_driver::admission`, over what this process knows now: the configuration, the
//! cluster's objects, and whether a planner is alive that will release what is gated.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use vnpu_driver::admission::{self, Context, Gating, Judged, Planner};
use vnpu_driver::controller_config::ControllerConfig;

use super::Reviewer;
use super::lookup::Board;
use super::review::{Decision, Verdict};
use crate::lease::Leadership;

/// The rules, and what they are applied to.
#[derive(Debug, Clone)]
pub struct Admission {
    config: watch::Receiver<Arc<ControllerConfig>>,
    leadership: watch::Receiver<Leadership>,
    board: Board,
}

impl Admission {
    /// Reads all three anew at each review.
    pub fn new(
        config: watch::Receiver<Arc<ControllerConfig>>,
        leadership: watch::Receiver<Leadership>,
        board: Board,
    ) -> Self {
        Self { config, leadership, board }
    }
}

impl Reviewer for Admission {
    fn review(&self, request: &Value) -> Verdict {
        let config = Arc::clone(&self.config.borrow());
        let alive = self.leadership.borrow().somebody_leads(Instant::now());
        let view = self.board.view();
        let leaf_of = |pod: &Value| view.preferred_leaf(controller(pod)?);
        let planner = if alive { Planner::Alive } else { Planner::Away(&leaf_of) };
        let response =
            admission::review(request, &Context { config: &config, known: view.as_ref().as_ref(), planner });
        let reason = reason(&response);
        let decision = match response.refusal {
            Some(refusal) => Decision::Denied(refusal.message),
            None if response.operations.is_empty() => Decision::Allowed,
            None => Decision::Changed(response.operations),
        };
        Verdict { decision, reason, warnings: response.warnings }
    }
}

/// The UID of the controller of a pod.
fn controller(pod: &Value) -> Option<&str> {
    let owners = pod.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))?;
    owner.get("uid")?.as_str()
}

/// One word for the metrics: of the first rule that refused, else that changed something.
fn reason(response: &admission::Response) -> &'static str {
    if let Some(refusal) = &response.refusal {
        return refusal.reasons.first().copied().unwrap_or("refused");
    }
    match &response.judged {
        Judged::Nothing(why) => why.reason(),
        Judged::Claim(verdict) => {
            let findings = verdict.completed.iter().chain(&verdict.warnings);
            findings.map(|finding| finding.reason).next().unwrap_or("good")
        }
        Judged::Reapplied => "reapplied",
        Judged::Pod { gating: Gating::Gate(_), .. } => "gated",
        Judged::Pod { gating: Gating::Preferred { .. }, .. } => "preferred_leaf",
        Judged::Pod { gating: Gating::No(why), .. } => why.reason(),
        Judged::Malformed => "malformed",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use vnpu_driver::admission::{ClaimFacts, Objects, Operation};

    use super::super::lookup::Lookup;
    use super::*;

    struct Cluster(Objects);

    impl admission::Known for Cluster {
        fn class(&self, name: &str) -> Option<admission::ClassFacts> {
            self.0.class(name)
        }
        fn class_of_resource(&self, resource: &str) -> Option<String> {
            self.0.class_of_resource(resource)
        }
        fn claim(&self, namespace: &str, name: &str) -> Option<ClaimFacts> {
            self.0.claim(namespace, name)
        }
        fn template(&self, namespace: &str, name: &str) -> Option<ClaimFacts> {
            self.0.template(namespace, name)
        }
    }

    impl Lookup for Cluster {
        fn preferred_leaf(&self, owner: &str) -> Option<String> {
            Some(format!("leaf-of-{owner}"))
        }
    }

    fn pod(template: &str) -> Value {
        json!({"uid": "u", "operation": "CREATE", "namespace": "default", "object": {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j",
                "uid": "job-uid", "controller": true}]},
            "spec": {"containers": [{"name": "c"}],
                "resourceClaims": [{"name": "npu", "resourceClaimTemplateName": template}]}}})
    }

    fn template(name: &str, class: &str) -> Value {
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": class}}]}}}})
    }

    #[tokio::test(start_paused = true)]
    async fn pods_are_gated_while_somebody_plans_and_prefer_a_leaf_otherwise() {
        let now = Instant::now();
        let until = now + Duration::from_secs(15);
        let leading = Leadership { somebody_until: Some(until), ..Leadership::unknown(now) };
        let (_config, config) = watch::channel(Arc::default());
        let (leadership, led) = watch::channel(leading);
        let board = Board::default();
        let admission = Admission::new(config, led, board.clone());
        let gated = admission.review(&pod("ours"));
        assert_eq!(gated.reason, "gated", "nothing is known of the template");
        assert!(matches!(&gated.decision, Decision::Changed(operations)
            if matches!(&operations[..], [Operation::Add { path, .. }] if path == "/spec/schedulingGates")));
        let mut objects = Objects::default();
        objects.learn(&template("ours", "npu.vnpu.dev"), "default");
        objects.learn(&template("foreign", "gpu.example.com"), "default");
        board.put(Cluster(objects));
        assert_eq!(admission.review(&pod("ours")).reason, "gated");
        assert_eq!(admission.review(&pod("foreign")).reason, "not_ours");
        tokio::time::advance(Duration::from_secs(16)).await;
        let preferring = admission.review(&pod("ours"));
        assert_eq!(preferring.reason, "preferred_leaf", "the lease ran out");
        assert!(format!("{:?}", preferring.decision).contains("leaf-of-job-uid"));
        drop(leadership);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_configuration_holds_from_the_next_review_on() {
        let (config, seen) = watch::channel(Arc::default());
        let (_leadership, led) = watch::channel(Leadership::unknown(Instant::now()));
        let admission = Admission::new(seen, led, Board::default());
        let odd = json!({"uid": "u", "operation": "CREATE", "object": {
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "c"},
            "spec": {"devices": {"requests": [
                {"name": "npu", "exactly": {"deviceClassName": "npu.vnpu.dev", "count": 3}}]}}}});
        let refused = admission.review(&odd);
        assert_eq!((refused.reason, refused.decision.outcome()), ("odd_chips", "denied"));
        let round_up =
            json!({"apiVersion": "vnpu.dev/v1alpha1", "kind": "ControllerConfig", "oddPolicy": "round-up"});
        config.send(Arc::new(ControllerConfig::read(&round_up).unwrap())).unwrap();
        assert_eq!(admission.review(&odd).decision.outcome(), "changed");
    }
}
