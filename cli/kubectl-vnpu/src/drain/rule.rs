//! The DeviceTaintRules that take devices out of service: one for each device, under a name that its pool and its own name
//! give. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use vnpu_driver::DRIVER_NAME;
use vnpu_driver::slices::{DRAIN_TAINT, TaintEffect};
use vnpu_kube_types::taint_rule::TaintRule;

/// The label that says whose a rule is, and its value: only such rules are changed and deleted.
pub(super) const OWNER: (&str, &str) = ("app.kubernetes.io/managed-by", "vnpu");

/// The most characters of a name (RFC 1123 subdomain).
const LONGEST: usize = 253;

/// A device: its pool and its name there.
pub(super) type Place = (String, String);

/// The rules that there are, by device.
pub(super) type Rules = BTreeMap<Place, Existing>;

/// A rule that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Existing {
    /// Its name.
    pub(super) name: String,
    /// What it does.
    pub(super) effect: TaintEffect,
}

/// The rules of this program among all rules.
pub(super) fn own(objects: &[api::DeviceTaintRule]) -> Rules {
    let is_ours = |object: &&api::DeviceTaintRule| {
        let labels = object.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(OWNER.0)).is_some_and(|owner| owner == OWNER.1)
    };
    let rules = objects.iter().filter(is_ours).filter_map(TaintRule::read);
    let rules = rules.filter(|rule| rule.key == DRAIN_TAINT);
    rules
        .filter_map(|rule| {
            Some(((rule.pool?, rule.device?), Existing { name: rule.name, effect: rule.effect }))
        })
        .collect()
}

/// The name of a device's rule, such as `vnpu-drain.node-1.ascend.chip-3-1`. What does not fit is cut, and gets a hash of
/// the whole.
pub(super) fn name((pool, device): &Place) -> String {
    let whole = format!("vnpu-drain.{}.{device}", pool.replace('/', "."));
    if whole.len() <= LONGEST {
        return whole;
    }
    // FNV-1a, 64 bits: stable for ever. 17 characters are for it.
    let hash = whole.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let head: String = whole.chars().take(LONGEST - 17).collect();
    format!("{}-{hash:016x}", head.trim_end_matches(['.', '-']))
}

/// The rule of a device, to be created.
pub(super) fn object(place: &Place, effect: TaintEffect) -> api::DeviceTaintRule {
    let (pool, device) = place.clone();
    let taint = api::DeviceTaint {
        key: DRAIN_TAINT.to_owned(),
        effect: effect.as_str().to_owned(),
        ..api::DeviceTaint::default()
    };
    let selector = api::DeviceTaintSelector {
        driver: Some(DRIVER_NAME.to_owned()),
        pool: Some(pool),
        device: Some(device),
    };
    api::DeviceTaintRule {
        metadata: ObjectMeta {
            name: Some(name(place)),
            labels: Some(BTreeMap::from([(OWNER.0.to_owned(), OWNER.1.to_owned())])),
            ..ObjectMeta::default()
        },
        spec: api::DeviceTaintRuleSpec { device_selector: Some(selector), taint },
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(pool: &str, device: &str) -> Place {
        (pool.to_owned(), device.to_owned())
    }

    #[test]
    fn a_rule_that_is_written_is_found_again() {
        let at = place("node-1/ascend", "chip-3-1");
        let rule = object(&at, TaintEffect::NoExecute);
        let existing =
            Existing { name: "vnpu-drain.node-1.ascend.chip-3-1".to_owned(), effect: TaintEffect::NoExecute };
        assert_eq!(own(std::slice::from_ref(&rule)), Rules::from([(at, existing)]));
        let others: [fn(&mut api::DeviceTaintRule); 3] = [
            |rule| rule.metadata.labels = None,
            |rule| rule.spec.taint.key = "example.com/other".to_owned(),
            |rule| rule.spec.device_selector.as_mut().unwrap().device = None,
        ];
        for change in others {
            let mut other = rule.clone();
            change(&mut other);
            assert_eq!(own(&[other.clone()]), Rules::new(), "{other:?}");
        }
    }

    #[test]
    fn names_fit_and_differ() {
        let long = |node: usize, device: &str| name(&place(&format!("{}/ascend", "n".repeat(node)), device));
        assert_eq!(long(226, "chip-3-1").len(), 253);
        assert!(long(226, "chip-3-1").ends_with(".ascend.chip-3-1"));
        for node in 227..=246 {
            let (one, other) = (long(node, "chip-3-1"), long(node, "chip-3-2"));
            assert!(one.len() <= 253 && one != other, "{one}");
            assert!(!one.contains(".-") && !one.contains("--"), "{one}");
        }
    }
}
