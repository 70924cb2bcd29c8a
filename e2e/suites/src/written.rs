//! What people write and what becomes of it: the table of `docs/admission.md` as claims, each with the lists that are
//! stored, the warnings, or the refusal.

use serde_json::{Value, json};

use crate::doors::{exactly, part};

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    /// The claim's name.
    pub(crate) name: &'static str,
    /// `spec.devices` as written.
    pub(crate) devices: Value,
    /// What becomes of it.
    pub(crate) becomes: Becomes,
    /// Words of each warning, in order.
    pub(crate) warned: &'static [&'static str],
}

/// What becomes of a claim.
#[derive(Debug)]
pub(crate) enum Becomes {
    /// It is stored as it is.
    Same,
    /// It is stored like this.
    Stored(Value),
    /// It is refused with all of these words.
    Refused(&'static [&'static str]),
}

use Becomes::{Refused, Same, Stored};

const NPU: &str = "npu.vnpu.dev";
const MODULE: &str = "npu-module.vnpu.dev";
/// A selector that is not about pairs.
const MODEL: &str = r#"device.attributes["vnpu.dev"].model == "910C""#;
const SINGLE_DIE: &str = r#"device.attributes["vnpu.dev"].dies == 1"#;

fn one(request: Value) -> Value {
    json!({"requests": [request]})
}

fn npu(name: &str, more: Value) -> Value {
    exactly(name, NPU, more)
}

fn count(count: u32) -> Value {
    json!({"count": count})
}

fn both(mut one: Value, other: Value) -> Value {
    if let (Some(one), Value::Object(other)) = (one.as_object_mut(), other) {
        one.extend(other);
    }
    one
}

fn memory(amount: &str) -> Value {
    json!({"capacity": {"requests": {"memory": amount}}})
}

fn selector(expression: &str) -> Value {
    json!({"cel": {"expression": expression}})
}

fn pairs(devices: Value, pairs: &[&[&str]]) -> Value {
    let matched = |names: &&[&str]| json!({"requests": names, "matchAttribute": "vnpu.dev/module"});
    both(devices, json!({"constraints": pairs.iter().map(matched).collect::<Vec<_>>()}))
}

fn policy(requests: &[&str], parameters: Value) -> Value {
    let kind = json!({"apiVersion": "vnpu.dev/v1alpha1", "kind": "SharePolicy"});
    let opaque = json!({"driver": "vnpu.dev", "parameters": both(kind, parameters)});
    if requests.is_empty() {
        json!({"opaque": opaque})
    } else {
        json!({"requests": requests, "opaque": opaque})
    }
}

/// What an even number of whole chips becomes.
pub(crate) fn as_modules(name: &str, modules: u32, chips: u32, selectors: &[Value], more: &Value) -> Value {
    let alternative = |name: &str, class: &str, count: u32, selectors: Vec<Value>| {
        let fields = json!({"name": name, "deviceClassName": class, "count": count});
        let fields =
            if selectors.is_empty() { fields } else { both(fields, json!({"selectors": selectors})) };
        both(fields, more.clone())
    };
    let single = [selectors, &[selector(SINGLE_DIE)]].concat();
    json!({"name": name, "firstAvailable": [
        alternative("modules", MODULE, modules, selectors.to_vec()),
        alternative("chips", NPU, chips, single),
    ]})
}

/// Claims that pass.
pub(crate) fn admitted() -> Vec<Row> {
    let row = |name, devices, becomes, warned| Row { name, devices, becomes, warned };
    let (a, b) = (npu("a", json!({})), npu("b", json!({})));
    let shares = |names: &[&str]| json!({"requests": names.iter().map(|n| npu(n, part("4Gi", "10"))).collect::<Vec<_>>()});
    let hard = json!({"config": [policy(&[], json!({"compute": {"mode": "hard"}}))]});
    let elastic = json!({"config": [policy(&["npu"], json!({"compute": {"mode": "elastic"}}))]});
    let toleration = json!({"tolerations": [{"key": "bank/night", "operator": "Exists"}]});
    let five = ["a", "b", "c", "d", "e"].map(|name| npu(name, json!({})));
    let apart = json!({"requests": ["a", "b"], "distinctAttribute": "vnpu.dev/uuid"});
    let matched = json!({"requests": ["a", "b"], "matchAttribute": "vnpu.dev/module"});
    vec![
        row("one-chip", one(npu("npu", json!({}))), Same, &[]),
        row("one-share", one(npu("npu", part("4Gi", "10"))), Same, &[]),
        row(
            "memory-only",
            one(npu("npu", memory("8Gi"))),
            Stored(both(one(npu("npu", part("8Gi", "1"))), elastic)),
            &["memory without cores gets cores: 1 with compute.mode: elastic"],
        ),
        row(
            "memory-only-of-a-mode",
            both(one(npu("npu", memory("8Gi"))), hard.clone()),
            Stored(both(one(npu("npu", part("8Gi", "1"))), hard)),
            &["memory without cores gets cores: 1"],
        ),
        row(
            "cores-only",
            one(npu("npu", json!({"capacity": {"requests": {"cores": "10"}}}))),
            Same,
            &["cores without memory"],
        ),
        row("pair", one(npu("npu", count(2))), Stored(pairs(one(npu("npu", count(2))), &[&["npu"]])), &[]),
        row("pair-said", pairs(one(npu("npu", count(2))), &[&["npu"]]), Same, &[]),
        row(
            "pair-of-shares",
            one(npu("npu", both(count(2), part("4Gi", "10")))),
            Stored(pairs(one(npu("npu", both(count(2), part("4Gi", "10")))), &[&["npu"]])),
            &[],
        ),
        row(
            "two-requests",
            json!({"requests": [a, b]}),
            Stored(pairs(json!({"requests": [a, b]}), &[&["a", "b"]])),
            &[],
        ),
        row(
            "five-requests",
            json!({"requests": five}),
            Stored(pairs(json!({"requests": five}), &[&["a", "b"], &["c", "d"]])),
            &["5 requests of our devices"],
        ),
        row(
            "three-shares",
            shares(&["a", "b", "c"]),
            Stored(both(shares(&["a", "b", "c"]), json!({"constraints": [matched, apart]}))),
            &[],
        ),
        row(
            "four-chips",
            one(npu("npu", count(4))),
            Stored(one(as_modules("npu", 2, 4, &[], &json!({})))),
            &["4 chips become 2 of npu-module.vnpu.dev"],
        ),
        row(
            "eight-tolerant-chips",
            one(npu(
                "npu",
                both(both(count(8), toleration.clone()), json!({"selectors": [selector(MODEL)]})),
            )),
            Stored(one(as_modules("npu", 4, 8, &[selector(MODEL)], &toleration))),
            &["8 chips become 4 of npu-module.vnpu.dev"],
        ),
        row("module-and-chip", json!({"requests": [exactly("m", MODULE, json!({})), a]}), Same, &[]),
        row("all-modules", one(exactly("m", MODULE, json!({"allocationMode": "All"}))), Same, &[]),
        row("first-available", one(as_modules("npu", 2, 4, &[], &json!({}))), Same, &[]),
        row(
            "three-single-dies",
            one(npu("npu", both(count(3), json!({"selectors": [selector(SINGLE_DIE)]})))),
            Same,
            &[],
        ),
        row("three-gpus", one(exactly("gpu", "gpu.vnpu.dev", count(3))), Same, &[]),
        row("one-accelerator", one(exactly("any", "accelerator.vnpu.dev", json!({}))), Same, &[]),
        row(
            "independent-shares",
            both(
                one(npu("npu", both(count(3), part("4Gi", "10")))),
                json!({"config": [policy(&[], json!({"pairing": "independent"}))]}),
            ),
            Same,
            &[],
        ),
        row(
            "for-administration",
            one(npu("npu", both(count(2), json!({"adminAccess": true})))),
            Same,
            &["adminAccess does not fit"],
        ),
    ]
}

/// Claims that are refused by the webhook.
pub(crate) fn refused() -> Vec<Row> {
    let row = |name, devices, words| Row { name, devices, becomes: Refused(words), warned: &[] };
    let nine: Vec<Value> = (0..9).map(|n| exactly(&format!("m{n}"), MODULE, json!({}))).collect();
    let alternatives = |list: Value| one(json!({"name": "npu", "firstAvailable": list}));
    let chips = |count: u32| json!({"name": "chips", "deviceClassName": NPU, "count": count});
    let (a, b) = (npu("a", json!({})), npu("b", json!({})));
    let apart = json!({"constraints": [{"requests": ["a", "b"], "distinctAttribute": "vnpu.dev/module"}]});
    vec![
        row("three-chips", one(npu("npu", count(3))), &["3 chips are no whole modules", "2 or 4 chips"]),
        row(
            "three-shares-at-once",
            one(npu("npu", both(count(3), part("4Gi", "10")))),
            &["3 shares", "pairing: independent"],
        ),
        row(
            "two-accelerators",
            one(exactly("any", "accelerator.vnpu.dev", count(2))),
            &["2 chips of any vendor", "firstAvailable"],
        ),
        row(
            "accelerator-requests",
            json!({"requests": [
                exactly("a", "accelerator.vnpu.dev", json!({})), exactly("b", "accelerator.vnpu.dev", json!({})),
            ]}),
            &["2 chips of any vendor"],
        ),
        row(
            "accelerator-and-chip",
            json!({"requests": [a, exactly("b", "accelerator.vnpu.dev", json!({}))]}),
            &["two by two"],
        ),
        row("all-chips", one(npu("npu", json!({"allocationMode": "All"}))), &["allocationMode All of chips"]),
        row(
            "share-of-a-module",
            one(exactly("m", MODULE, part("4Gi", "10"))),
            &["exclusive and has no shares"],
        ),
        row("parted", both(json!({"requests": [a, b]}), apart), &["distinctAttribute: vnpu.dev/module"]),
        row(
            "independent-chips",
            both(
                one(npu("npu", count(2))),
                json!({"config": [policy(&[], json!({"pairing": "independent"}))]}),
            ),
            &["pairing: independent is for shares only"],
        ),
        row("four-matched", pairs(one(npu("npu", count(4))), &[&["npu"]]), &["leave the constraint out"]),
        row(
            "four-by-type",
            one(npu(
                "npu",
                both(
                    count(4),
                    json!({"selectors": [selector(r#"device.attributes["vnpu.dev"].type == "chip""#)]}),
                ),
            )),
            &["mentions type", "firstAvailable"],
        ),
        row(
            "two-of-one",
            one(npu(
                "npu",
                both(
                    count(2),
                    json!({"selectors": [selector(r#"device.attributes["vnpu.dev"].uuid == "A""#)]}),
                ),
            )),
            &["a selector by uuid names one device"],
        ),
        row(
            "loose-alternative",
            alternatives(json!([chips(2)])),
            &["npu/chips", "2 chips may be one chip each"],
        ),
        row(
            "four-as-alternative",
            alternatives(json!([chips(4)])),
            &["npu/chips", "4 chips may be one chip each"],
        ),
        row(
            "misspelt",
            one(npu("npu", json!({"capacity": {"requests": {"mem": "4Gi"}}}))),
            &["\"mem\"", "write \"memory\""],
        ),
        row(
            "unknown-wish",
            both(
                one(npu("npu", part("4Gi", "10"))),
                json!({"config": [policy(&[], json!({"computer": {}}))]}),
            ),
            &["SharePolicy", "computer"],
        ),
        row("nine-requests", json!({"requests": nine}), &["9 requests of our devices"]),
    ]
}
