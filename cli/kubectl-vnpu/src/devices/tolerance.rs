//! How long a claim keeps a device that an administrator takes out of service. Pure.

use k8s_openapi::api::resource::v1::DeviceToleration;
use vnpu_driver::slices::{DRAIN_TAINT, TaintEffect};

/// When pods go that use a device with the taint of a drain and the effect `NoExecute`; the sooner, the less.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tolerance {
    /// At once.
    #[default]
    None,
    /// So many seconds after the taint.
    Seconds(u64),
    /// Never: they stay.
    Forever,
}

/// What the tolerations of an allocated device say. The eviction controller counts only those with the effect `NoExecute`,
/// not those for all effects (`devicetainteviction` `claimEvictionTime`); of several the shortest counts.
pub(crate) fn tolerance(tolerations: &[DeviceToleration]) -> Tolerance {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let counts = |toleration: &&DeviceToleration| {
        let key = text(&toleration.key);
        // The taint of a drain has no value.
        let is_equal = match text(&toleration.operator).as_str() {
            "" | "Equal" => text(&toleration.value).is_empty(),
            operator => operator == "Exists",
        };
        text(&toleration.effect) == TaintEffect::NoExecute.as_str()
            && (key.is_empty() || key == DRAIN_TAINT)
            && is_equal
    };
    let mut shortest: Option<u64> = None;
    for toleration in tolerations.iter().filter(counts) {
        let Some(seconds) = toleration.toleration_seconds else { return Tolerance::Forever };
        let seconds = u64::try_from(seconds).unwrap_or_default();
        shortest = Some(shortest.map_or(seconds, |least| least.min(seconds)));
    }
    match shortest {
        None | Some(0) => Tolerance::None,
        Some(seconds) => Tolerance::Seconds(seconds),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_tolerations_of_eviction_count_and_the_shortest_of_them() {
        let read = |list: Value| tolerance(&serde_json::from_value::<Vec<_>>(list).unwrap());
        let exists = |key: &str, effect: &str| json!({"key": key, "operator": "Exists", "effect": effect});
        let seconds =
            |seconds: i64| json!({"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        for (tolerations, expected) in [
            (json!([]), Tolerance::None),
            (json!([exists("vnpu.dev/drain", "NoExecute")]), Tolerance::Forever),
            (json!([exists("", "NoExecute")]), Tolerance::Forever),
            (json!([exists("vnpu.dev/unhealthy", "NoExecute")]), Tolerance::None),
            (json!([exists("vnpu.dev/drain", "NoSchedule")]), Tolerance::None),
            (json!([exists("vnpu.dev/drain", "")]), Tolerance::None),
            (json!([{"key": "vnpu.dev/drain", "effect": "NoExecute"}]), Tolerance::Forever),
            (json!([{"key": "vnpu.dev/drain", "value": "x", "effect": "NoExecute"}]), Tolerance::None),
            (json!([seconds(300), seconds(30)]), Tolerance::Seconds(30)),
            (json!([seconds(30), exists("", "NoExecute")]), Tolerance::Forever),
            (json!([seconds(-1)]), Tolerance::None),
        ] {
            assert_eq!(read(tolerations.clone()), expected, "{tolerations}");
        }
    }
}
