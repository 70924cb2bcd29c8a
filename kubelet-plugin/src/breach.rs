//! What is done about a claim that uses more than its quota, or uses a chip outside of it: told always, and by the
//! claim's policy the pod is evicted or the process ended.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;
use kube::api::{DeleteParams, EvictParams, Preconditions};
use tokio::time::Instant;
use vnpu_driver::claim::Consumer;
use vnpu_driver::share_policy::Breach;
use vnpu_kube_types::claim::read_claim;
use vnpu_quota_agent::{Offender, Spared, Verdict};

use crate::audit::{Finding, held};
use crate::node::{Node, blocking};

/// All that is to be done after one round ends within this; the rest is left to the next.
pub(crate) const ACTING: Duration = Duration::from_secs(10);
/// A pod that was asked to go is not asked again sooner.
const PAUSE: Duration = Duration::from_secs(30);
/// So many processes are named in one event.
const NAMED: usize = 4;

/// Acts on what a round found.
pub async fn act_on(node: &Arc<Node>, findings: Vec<Finding>) {
    for finding in findings {
        act(node, &finding).await;
    }
}

async fn act(node: &Arc<Node>, finding: &Finding) {
    let plan = &finding.plan;
    let wants = plan.breach;
    if finding.audit.judgement.begun {
        let text = told(finding);
        tracing::warn!(claim = %plan.claim, namespace = %plan.namespace, name = %plan.name, text, policy = ?wants, "a claim is not kept to its quota");
        node.metrics.count_breach(&plan.namespace, &plan.name, &finding.chip, &finding.audit);
        node.events.breach(plan, reason(finding), &text);
    }
    match wants {
        Breach::Report => {}
        Breach::Kill => kill(node, finding).await,
        Breach::Evict => evict(node, finding).await,
    }
}

const fn reason(finding: &Finding) -> &'static str {
    match finding.audit.judgement.verdict {
        Verdict::Bypass { .. } => "QuotaBypassed",
        _ => "QuotaExceeded",
    }
}

/// What is wrong, for people.
fn told(finding: &Finding) -> String {
    let chip = &finding.chip;
    let named: Vec<String> = finding.audit.offenders.iter().take(NAMED).map(name).collect();
    let more = finding.audit.offenders.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = format!("{}{more}", named.join(", "));
    match &finding.audit.judgement.verdict {
        Verdict::Breach { allowed, .. } => format!(
            "processes of the claim have {} of memory on chip {chip}, more than the {allowed} that its quota and their \
             overhead come to; most beyond its own ledger has {named}",
            finding.audit.judgement.balance.vendor
        ),
        _ => format!(
            "processes of the claim use chip {chip} without the interposer, so that its quota is not enforced: {named}"
        ),
    }
}

fn name(offender: &Offender) -> String {
    let (process, home) = (&offender.process, &offender.home);
    let place = home.pod.as_ref().map_or_else(|| "in no pod".to_owned(), |pod| format!("in pod {pod}"));
    format!("process {} ({}) {place} with {}", process.pid, home.program, process.bytes)
}

async fn kill(node: &Arc<Node>, finding: &Finding) {
    for offender in finding.audit.offenders.clone() {
        let (worker, claim) = (Arc::clone(node), finding.plan.claim.clone());
        let pods = node.audits.pods(&claim);
        let told = name(&offender);
        let killed = blocking(move || match worker.materials.agent() {
            Ok(agent) => agent.kill(&claim, &offender, &pods).map_err(Some),
            Err(_) => Err(None),
        });
        let plan = &finding.plan;
        match killed.await {
            Ok(()) => {
                tracing::warn!(claim = %plan.claim, told, "a process was ended, as the claim's policy says");
                node.events.breach(plan, "ProcessEnded", &format!("{told} was ended: breach: kill"));
            }
            Err(Some(Some(Spared::Gone))) => {}
            Err(Some(Some(spared))) => {
                tracing::warn!(claim = %plan.claim, told, reason = spared.reason(), "a process is not ended: {spared}");
                if finding.audit.judgement.begun {
                    node.events.breach(plan, "ProcessNotEnded", &format!("{told} is not ended: {spared}"));
                }
            }
            // The runtime directory cannot be used, of which others tell.
            Err(Some(None) | None) => {}
        }
    }
}

/// Evicts the pods in which the processes run, of those that the claim is reserved for now.
async fn evict(node: &Arc<Node>, finding: &Finding) {
    let plan = &finding.plan;
    {
        let mut acted = held(&node.audits.acted);
        if acted.get(&plan.claim).is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        acted.insert(plan.claim.clone(), Instant::now());
    }
    let client = node.client.wait().await.clone();
    let claims: Api<ResourceClaim> = Api::namespaced(client.clone(), &plan.namespace);
    let object = match claims.get_opt(&plan.name).await {
        Ok(object) => object,
        Err(error) => {
            tracing::warn!(claim = %plan.claim, %error, "the pods of a claim cannot be evicted yet");
            held(&node.audits.acted).remove(&plan.claim);
            return;
        }
    };
    let claim = object.as_ref().and_then(|object| read_claim(object).ok());
    let Some(claim) = claim.filter(|claim| claim.uid == plan.claim) else { return };
    let at_fault = |pod: &&Consumer| {
        pod.is_pod()
            && finding.audit.offenders.iter().any(|o| o.home.pod.as_deref() == Some(pod.uid.as_str()))
    };
    let pods: Vec<&Consumer> = claim.reserved_for.iter().filter(at_fault).collect();
    if pods.is_empty() {
        let text = "none of the processes is in a pod that the claim is reserved for, so none is evicted";
        node.events.breach(plan, "PodNotEvicted", text);
    }
    let api: Api<Pod> = Api::namespaced(client, &plan.namespace);
    for pod in pods {
        let same = Preconditions { uid: Some(pod.uid.clone()), ..Preconditions::default() };
        let delete = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
        let eviction = EvictParams { delete_options: Some(delete), ..EvictParams::default() };
        match api.evict(&pod.name, &eviction).await {
            Ok(_) => {
                tracing::warn!(claim = %plan.claim, pod = %pod.name, "a pod is evicted, as the claim's policy says");
                node.events.breach(
                    plan,
                    "PodEvicted",
                    &format!("pod {} was evicted: breach: evict", pod.name),
                );
            }
            // Already gone, or another one of that name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                tracing::warn!(claim = %plan.claim, pod = %pod.name, %error, "a pod is not evicted yet");
                let text = format!("pod {} is not evicted yet, which is tried again: {error}", pod.name);
                node.events.breach(plan, "PodNotEvicted", &text);
            }
        }
    }
}
