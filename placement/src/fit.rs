//! Which nodes a pod may go to by labels, affinity and taints, as kube-scheduler decides it. Resources and devices
//! are counted elsewhere.

use crate::demand::{NodeFit, Operator, Requirement, Toleration};
use crate::node::{Node, NodeTaint};

/// Whether the pod may go to the node.
pub(crate) fn fits(fit: &NodeFit, node: &Node) -> bool {
    refusal(fit, node).is_none()
}

/// Why the pod may not go to the node.
pub(crate) fn refusal(fit: &NodeFit, node: &Node) -> Option<&'static str> {
    if node.unschedulable && !tolerates(&fit.tolerations, &unschedulable()) {
        return Some("unschedulable");
    }
    if !node.taints.iter().all(|taint| tolerates(&fit.tolerations, taint)) {
        return Some("tainted");
    }
    let selected = fit.labels.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let affine = fit.terms.is_empty()
        || fit.terms.iter().any(|term| !term.is_empty() && term.iter().all(|r| requirement_holds(r, node)));
    (!selected || !affine).then_some("other labels")
}

/// The taint that `spec.unschedulable` stands for.
fn unschedulable() -> NodeTaint {
    NodeTaint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        value: String::new(),
        effect: "NoSchedule".to_owned(),
    }
}

/// Whether one of the tolerations lets the taint pass (`core/v1` `Toleration.ToleratesTaint`).
pub(crate) fn tolerates(tolerations: &[Toleration], taint: &NodeTaint) -> bool {
    tolerations.iter().any(|t| {
        (t.effect.is_empty() || t.effect == taint.effect)
            && (t.key == taint.key || (t.key.is_empty() && t.value.is_none()))
            && t.value.as_ref().is_none_or(|value| *value == taint.value)
    })
}

fn requirement_holds(requirement: &Requirement, node: &Node) -> bool {
    let value = match requirement.key.as_str() {
        "metadata.name" => Some(node.name.as_str()),
        key => node.labels.get(key).map(String::as_str),
    };
    let listed = |value: &str| requirement.values.iter().any(|v| v == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let operand = || requirement.values.first().and_then(|v| number(v));
    match requirement.operator {
        Operator::In => value.is_some_and(listed),
        Operator::NotIn => !value.is_some_and(listed),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
        Operator::Gt => value.and_then(number).zip(operand()).is_some_and(|(v, o)| v > o),
        Operator::Lt => value.and_then(number).zip(operand()).is_some_and(|(v, o)| v < o),
    }
}

#[cfg(test)]
mod tests;
