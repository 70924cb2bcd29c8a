//! From a DeviceTaintRule, an administrator's or a controller's word about devices, to what it means for the devices of
//! this driver. Taints that a slice brings with its devices are not in here.

use k8s_openapi::api::resource::v1 as api;
use vnpu_driver::DRIVER_NAME;
use vnpu_driver::slices::TaintEffect;

/// A rule that keeps claims away from devices of this driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaintRule {
    /// Its name.
    pub name: String,
    /// The pool that it is about; `None` for all.
    pub pool: Option<String>,
    /// The device that it is about, in each such pool; `None` for all.
    pub device: Option<String>,
    /// Key of the taint.
    pub key: String,
    /// Its value; may be empty.
    pub value: String,
    /// What it does.
    pub effect: TaintEffect,
}

impl TaintRule {
    /// Reads a rule; `None` when it changes nothing for this driver: it is about another's devices, has no selector
    /// (which selects nothing, other than an empty one), or its effect is `None`, a dry run, or an unknown one, which
    /// `DeviceTaint` says to take like `None`.
    pub fn read(object: &api::DeviceTaintRule) -> Option<Self> {
        let spec = &object.spec;
        let selector = spec.device_selector.as_ref()?;
        if selector.driver.as_deref().is_some_and(|driver| driver != DRIVER_NAME) {
            return None;
        }
        let effects = [TaintEffect::NoSchedule, TaintEffect::NoExecute];
        let effect = effects.into_iter().find(|effect| effect.as_str() == spec.taint.effect)?;
        Some(Self {
            name: object.metadata.name.clone()?,
            pool: selector.pool.clone(),
            device: selector.device.clone(),
            key: spec.taint.key.clone(),
            value: spec.taint.value.clone().unwrap_or_default(),
            effect,
        })
    }

    /// Whether it is about some device of a pool.
    pub fn is_about_pool(&self, pool: &str) -> bool {
        self.pool.as_deref().is_none_or(|name| name == pool)
    }

    /// Whether it is about a device of a pool (`resourceslice/tracker` `applyPatches`: all that is set must be equal).
    pub fn is_about(&self, pool: &str, device: &str) -> bool {
        self.is_about_pool(pool) && self.device.as_deref().is_none_or(|name| name == device)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(selector: Value, effect: &str) -> Option<TaintRule> {
        let object = json!({"metadata": {"name": "rule"},
            "spec": {"deviceSelector": selector, "taint": {"key": "a.example/b", "value": "c", "effect": effect}}});
        TaintRule::read(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn what_is_set_must_be_equal_and_what_is_not_set_is_all() {
        for (selector, one, same_name, other) in [
            (json!({}), true, true, true),
            (json!({"driver": "vnpu.dev"}), true, true, true),
            (json!({"device": "chip-0-0"}), true, true, false),
            (json!({"pool": "n/ascend"}), true, false, true),
            (json!({"driver": "vnpu.dev", "pool": "n/ascend", "device": "chip-0-0"}), true, false, false),
        ] {
            let rule = read(selector.clone(), "NoSchedule").unwrap();
            assert_eq!(rule.is_about("n/ascend", "chip-0-0"), one, "{selector}");
            assert_eq!(rule.is_about("n/nvidia", "chip-0-0"), same_name, "{selector}");
            assert_eq!(rule.is_about("n/ascend", "chip-0-1"), other, "{selector}");
        }
    }

    #[test]
    fn rules_that_change_nothing_here_are_none() {
        assert_eq!(read(Value::Null, "NoSchedule"), None, "no selector selects nothing");
        assert_eq!(read(json!({"driver": "gpu.example.com"}), "NoSchedule"), None);
        assert_eq!(read(json!({}), "None"), None, "a dry run");
        assert_eq!(read(json!({}), "PreferNoSchedule"), None, "unknown effects are as None");
        let rule = read(json!({}), "NoExecute").unwrap();
        assert_eq!((rule.key.as_str(), rule.value.as_str()), ("a.example/b", "c"));
        assert_eq!(rule.effect, TaintEffect::NoExecute);
    }
}
