//! Amounts of resources, of nodes and of whole pods, as the scheduler counts them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use vnpu_driver::quantity::Quantity;
use vnpu_placement::resources::Resources;

/// The resource that counts pods themselves.
const PODS: &str = "pods";
/// The one resource that is counted in thousandths.
const CPU: &str = "cpu";

type Amounts = BTreeMap<String, ApiQuantity>;

/// Reads a list of amounts. What is no quantity (the API server lets none in) counts as zero.
pub fn read(amounts: Option<&Amounts>) -> Resources {
    let read = |(name, amount): (&String, &ApiQuantity)| {
        let quantity: Quantity = amount.0.parse().ok()?;
        let amount = if name == CPU { quantity.ceil_thousandths() } else { quantity.ceil() };
        Some((name.clone(), amount))
    };
    Resources(amounts.into_iter().flatten().filter_map(read).collect())
}

/// What a pod takes of a node: the rule of `k8s.io/component-helpers/resource` `PodRequests`. Containers and sidecars
/// run together; an init container runs beside the sidecars that were started before it; what is said for the pod as a
/// whole replaces their sum; overhead comes on top; and a pod is one of `pods`.
pub fn of_pod(spec: &PodSpec) -> Resources {
    let mut total = BTreeMap::new();
    for container in &spec.containers {
        add(&mut total, &requests(container));
    }
    let mut sidecars = BTreeMap::new();
    let mut initial = BTreeMap::new();
    for container in spec.init_containers.iter().flatten() {
        let own = requests(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut initial, &sidecars);
        } else {
            let mut together = sidecars.clone();
            add(&mut together, &own);
            raise(&mut initial, &together);
        }
    }
    raise(&mut total, &initial);
    let whole = read(spec.resources.as_ref().and_then(|r| r.requests.as_ref())).0;
    total.extend(whole);
    add(&mut total, &read(spec.overhead.as_ref()).0);
    total.insert(PODS.to_owned(), 1);
    total.retain(|_, amount| *amount > 0);
    Resources(total)
}

fn requests(container: &Container) -> BTreeMap<String, u64> {
    read(container.resources.as_ref().and_then(|r| r.requests.as_ref())).0
}

fn add(total: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (name, amount) in more {
        let sum = total.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

fn raise(total: &mut BTreeMap<String, u64>, least: &BTreeMap<String, u64>) {
    for (name, amount) in least {
        let value = total.entry(name.clone()).or_default();
        *value = (*value).max(*amount);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> BTreeMap<String, u64> {
        of_pod(&serde_json::from_value(spec).unwrap()).0
    }

    fn with(name: &str, cpu: &str, memory: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    fn expect(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        pairs.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect()
    }

    #[test]
    fn containers_add_up_and_a_pod_is_one() {
        let spec = json!({"containers": [with("a", "500m", "1Gi"), with("b", "1", "1Gi")]});
        assert_eq!(pod(spec), expect(&[("cpu", 1500), ("memory", 2 << 30), ("pods", 1)]));
    }

    #[test]
    fn an_init_container_counts_where_it_is_larger() {
        let spec =
            json!({"containers": [with("a", "1", "1Gi")], "initContainers": [with("i", "4", "512Mi")]});
        assert_eq!(pod(spec), expect(&[("cpu", 4000), ("memory", 1 << 30), ("pods", 1)]));
    }

    #[test]
    fn sidecars_stand_beside_containers_and_beside_later_init_containers() {
        let mut sidecar = with("s", "1", "1Gi");
        sidecar["restartPolicy"] = json!("Always");
        let spec = json!({
            "containers": [with("a", "1", "1Gi")],
            "initContainers": [with("before", "2", "0"), sidecar, with("after", "2", "0")],
        });
        assert_eq!(pod(spec), expect(&[("cpu", 3000), ("memory", 2 << 30), ("pods", 1)]));
    }

    #[test]
    fn the_whole_pods_word_and_overhead() {
        let spec = json!({
            "containers": [with("a", "1", "1Gi")],
            "resources": {"requests": {"cpu": "3"}},
            "overhead": {"cpu": "250m"},
        });
        assert_eq!(pod(spec), expect(&[("cpu", 3250), ("memory", 1 << 30), ("pods", 1)]));
    }
}
